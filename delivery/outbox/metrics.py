"""The relay's figures in the Prometheus text format, over HTTP.

Owns: their names. Each scrape asks the source: rows that wait are told also while no gateway
answers.
"""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from delivery.errors import Unreachable
from delivery.outbox.relay import Counts
from delivery.outbox.source import Figures, Source

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def render(counts: Counts, figures: Figures | None, *, is_listening: bool) -> str:
    """Render all figures; ``figures`` is ``None`` while the source does not answer.

    Source: https://prometheus.io/docs/instrumenting/exposition_formats/
    """
    lines = [
        *_metric("counter", "sent_total", "Rows that a gateway took.", counts.sent),
        *_metric("counter", "refused_total", "Rows that were set aside.", counts.refused),
        *_metric("gauge", "gateway_up", "Whether the last request was served.", counts.gateway_up),
        *_metric("gauge", "source_up", "Whether the source answered.", figures is not None),
        *_metric("gauge", "listening", "Whether commits wake the relay.", is_listening),
    ]
    if figures is not None:
        lines += [
            *_metric("gauge", "lag_seconds", "Age of the oldest row that waits.", figures.lag),
            *_metric("gauge", "waiting_rows", "Rows that no gateway took yet.", figures.waiting),
            *_metric("gauge", "dead_rows", "Rows that were set aside, kept.", figures.dead),
        ]
    return "\n".join(lines) + "\n"


def _metric(kind: str, name: str, text: str, value: float) -> list[str]:
    full = f"delivery_outbox_{name}"
    number = int(value) if float(value).is_integer() else round(value, 3)
    return [f"# HELP {full} {text}", f"# TYPE {full} {kind}", f"{full} {number}"]


def serve(host: str, port: int, source: Source, counts: Counts) -> ThreadingHTTPServer:
    """Serve ``GET /metrics`` in a thread; ``server_address`` tells the port, ``shutdown`` ends it.

    Raises:
        OSError: the address is taken.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            if self.path.partition("?")[0] not in ("/metrics", "/healthz"):
                self.send_error(404)
                return
            try:
                figures = source.figures()
            except Unreachable:
                figures = None
            body = render(counts, figures, is_listening=source.is_listening).encode()
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """A scrape is no news."""

    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="outbox-metrics", daemon=True).start()
    return server
