"""The outbox's relay as a process, with its log, signals and metrics, and as a thread of another.

Owns: the wiring, and where its token comes from.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from delivery.config import Settings, log_format, secret
from delivery.domain.ports import Accepted, Intake
from delivery.errors import ConfigError, InvalidEvent, LedgerError, Overloaded, Unreachable
from delivery.outbox import metrics, relay
from delivery.outbox.posting import Answer, Post, Verdict
from delivery.outbox.relay import Relay
from delivery.outbox.source import Figures, Source
from delivery.process.reloading import keep_settings_on_hangup
from delivery.protocol import decode_json
from delivery.telemetry import metrics as process_metrics
from delivery.telemetry import setup_logging

logger = logging.getLogger(__name__)

RETRY = 2.0
NO_TABLES_RETRY = 30.0
ANSWER_TIMEOUT = 30.0
STOP_TIMEOUT = 15.0
PRODUCER = "outbox"
"""The relay's name among the producers, who take turns."""


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


class RelayThread:
    """A relay in a thread of a process that does more.

    Args:
        source_url: of the application's database.
        gateway: takes the events.
        node: the process's name, which its figures carry.
        on_stop: called once nothing more is sent.

    Raises:
        ConfigError: the URL is none.
    """

    def __init__(
        self,
        source_url: str,
        gateway: relay.Gateway,
        node: str,
        on_stop: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_stop = on_stop
        self._source = Source(source_url)
        self._node = node
        self._stop = threading.Event()
        self._relay = Relay(self._source, gateway, stop=self._stop, on_figures=self._show)
        self._thread = threading.Thread(target=self._run, name="delivery-outbox", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(STOP_TIMEOUT)
        self._source.close()
        self._on_stop()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if await_tables(self._source, self._stop):
                    self._relay.run()
            except ConfigError as error:
                logger.error("the outbox waits: %s", error)
                self._stop.wait(NO_TABLES_RETRY)
            except Exception:
                logger.exception("the outbox's relay failed; it starts again")
                self._stop.wait(RETRY)

    def _show(self, figures: Figures) -> None:
        process_metrics.outbox_lag.set(figures.lag, self._node)
        process_metrics.outbox_waiting.set(figures.waiting, self._node)
        process_metrics.outbox_dead.set(figures.dead, self._node)


class GatewayRelay(RelayThread):
    """A relay in a gateway's process: no request, no token; events enter as those over HTTP do.

    Args: as of ``RelayThread``.
    """

    def __init__(self, source_url: str, intake: Intake, node: str) -> None:
        super().__init__(source_url, self, node)
        self._intake = intake
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Start the thread; called on the gateway's loop. ``stop`` is called off it, and may wait
        for it."""
        self._loop = asyncio.get_running_loop()
        super().start()

    def send(self, events: Sequence[bytes]) -> list[Answer]:
        """See ``relay.Gateway``."""
        loop, items = self._loop, [decode_json(event) for event in events]
        if loop is None or loop.is_closed():
            raise Unreachable("the gateway does not run")
        waiting = asyncio.run_coroutine_threadsafe(self._intake.accept(items, PRODUCER), loop)
        try:
            return [_answer(answer) for answer in waiting.result(ANSWER_TIMEOUT)]
        except (FutureTimeout, CancelledError) as error:
            waiting.cancel()
            raise Unreachable("the gateway did not answer its outbox in time") from error


@dataclass(frozen=True, slots=True)
class OutboxTarget:
    """Where a worker carries an outbox: as ``delivery outbox`` does, over HTTP.

    Attributes:
        url: of the service.
        token / token_file: one of the two.
    """

    url: str
    token: str | None = field(repr=False)
    token_file: str | None = None

    def relay(self, settings: Settings, node: str) -> RelayThread:
        """The relay of a worker.

        Raises:
            ConfigError: a setting is missing or wrong.
        """
        source = secret(settings.outbox_source)
        if source is None:
            raise ConfigError(
                "--outbox: set DELIVERY_OUTBOX_SOURCE, the URL of the application's database"
            )
        read = token_reader(self.token, self.token_file)
        setup_logging(
            settings.log_format, settings.log_level, secrets=[*settings.secret_values(), read()]
        )
        post = Post(self.url, read)
        return RelayThread(source, post, node, on_stop=post.close)


def _answer(given: Accepted | Exception) -> Answer:
    if isinstance(given, Accepted):
        return Answer(Verdict.ACCEPTED)
    text = f"{type(given).__name__}: {given}"
    if isinstance(given, InvalidEvent):
        return Answer(Verdict.REFUSED, text)
    is_busy = isinstance(given, Overloaded | LedgerError)
    return Answer(Verdict.BUSY if is_busy else Verdict.FAILED, text)


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
    keep_settings_on_hangup("the outbox's relay")
    with ExitStack() as closing:
        source = closing.enter_context(opened(source_url, keep=keep))
        secrets = [secret for secret in (read(), source.url.password) if secret]
        setup_logging(log_format(), secrets=map(str, secrets))
        post = Post(url, read)
        closing.callback(post.close)
        carrying = Relay(source, post, stop=stop, interval=interval)
        address = None
        if metrics_port is not None:
            address = _serve_metrics(closing, metrics_host, metrics_port, source, carrying)
        if await_tables(source, stop):
            shown = source.url.render_as_string(hide_password=True)
            ready({"source": shown, "url": url, "metrics": address})
            carrying.run()


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


def _serve_metrics(
    closing: ExitStack, host: str, port: int, source: Source, carrying: Relay
) -> str:
    try:
        server = metrics.serve(host, port, source, carrying.counts)
    except OSError as error:
        raise ConfigError(f"--metrics-port {port}: {error.strerror or error}") from error
    closing.callback(server.server_close)
    closing.callback(server.shutdown)
    return f"http://{host}:{server.server_address[1]}/metrics"
