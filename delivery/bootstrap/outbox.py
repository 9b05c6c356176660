"""The outbox's relay as a process: its log, its signals, its metrics.

Owns: the wiring, and where its token comes from.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from delivery.config import log_format
from delivery.errors import ConfigError, Unreachable
from delivery.outbox import metrics
from delivery.outbox.posting import Post
from delivery.outbox.relay import Relay
from delivery.outbox.source import Source
from delivery.telemetry import setup_logging

logger = logging.getLogger(__name__)

RETRY = 2.0


@contextmanager
def opened(url: str, *, keep: float = 86_400.0) -> Iterator[Source]:
    """A source, closed at the end."""
    source = Source(url, keep=keep)
    try:
        yield source
    finally:
        source.close()


def token_reader(token: str | None, path: str | None) -> Callable[[], str]:
    """What gives the token of each request.

    Raises:
        ConfigError: neither or both are given, or the file cannot be read.
    """
    if bool(token) == bool(path):
        raise ConfigError(
            "set DELIVERY_TOKEN or DELIVERY_TOKEN_FILE, and not both: "
            "delivery token --service --scope emit"
        )
    if token:
        return lambda: token

    def read() -> str:
        try:
            return Path(path or "").read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Unreachable(f"cannot read the token in {path}: {error}") from error

    try:
        read()
    except Unreachable as error:
        raise ConfigError(str(error)) from error
    return read


def run_relay(
    source_url: str,
    *,
    url: str,
    token: str | None,
    token_file: str | None,
    interval: float,
    keep: float,
    metrics_port: int | None,
    metrics_host: str,
    ready: Callable[[dict[str, Any]], None],
) -> None:
    """Run the relay until SIGTERM or SIGINT.

    Args:
        ready: called with what a person or a program wants to know, once rows are carried.

    Raises:
        ConfigError: a setting is wrong, or the source has no outbox.
    """
    setup_logging(log_format())
    read = token_reader(token, token_file)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with ExitStack() as closing:
        source = closing.enter_context(opened(source_url, keep=keep))
        secrets = [secret for secret in (read(), source.url.password) if secret]
        setup_logging(log_format(), secrets=map(str, secrets))
        post = Post(url, read)
        closing.callback(post.close)
        relay = Relay(source, post, stop=stop, interval=interval)
        address = None
        if metrics_port is not None:
            address = _serve_metrics(closing, metrics_host, metrics_port, source, relay)
        if await_tables(source, stop):
            shown = source.url.render_as_string(hide_password=True)
            ready({"source": shown, "url": url, "metrics": address})
            relay.run()


def await_tables(source: Source, stop: threading.Event) -> bool:
    """Wait until the source answers; ``False`` when ``stop`` came first.

    Raises:
        ConfigError: it has no outbox.
    """
    is_told = False
    while not stop.is_set():
        try:
            source.check()
            return True
        except Unreachable as error:
            if not is_told:
                logger.warning("the outbox waits: %s", error)
                is_told = True
            stop.wait(RETRY)
    return False


def _serve_metrics(closing: ExitStack, host: str, port: int, source: Source, relay: Relay) -> str:
    try:
        server = metrics.serve(host, port, source, relay.counts)
    except OSError as error:
        raise ConfigError(f"--metrics-port {port}: {error.strerror or error}") from error
    closing.callback(server.server_close)
    closing.callback(server.shutdown)
    return f"http://{host}:{server.server_address[1]}/metrics"
