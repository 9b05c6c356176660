"""Celery workers and beat of a cluster.

Owns: the parts that each worker process opens after the fork, and closes at its end.
"""

from __future__ import annotations

import logging
import mmap
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import TYPE_CHECKING, Any

from billiard.process import current_process
from celery import signals
from celery.apps import worker as worker_program

from delivery.bootstrap.audit import audit_keys
from delivery.bootstrap.broker import make_celery
from delivery.bootstrap.bus import make_remote
from delivery.bootstrap.chain import CLOSE_TIMEOUT, ChainParts, attach, make_chain, make_known
from delivery.bootstrap.ledger import database_url, require_current
from delivery.bootstrap.outbox import OutboxTarget
from delivery.config import (
    Settings,
    duties,
    load_policies,
    load_thresholds,
    load_webhooks,
    refuse_development_secrets,
    require_links,
    require_providers,
    require_services,
)
from delivery.domain.channels import Channel
from delivery.domain.policy import CHANNELS
from delivery.errors import ConfigError
from delivery.ledger import SqlLedger
from delivery.ledger.counting import show_from_the_start
from delivery.process.heartbeat import Heartbeat, node_name
from delivery.process.metrics_server import MetricsServer
from delivery.process.pulse import EVERY, Pulse
from delivery.process.reloading import Loaded, Reloader, ReloadThread
from delivery.tasks.broker.app import ALL_QUEUES, MAINTENANCE_QUEUE, queue_name
from delivery.tasks.broker.consumer import pulse_step
from delivery.tasks.broker.queue_depths import QueueDepths
from delivery.tasks.broker.relay import Relay
from delivery.telemetry import instruments, metrics, setup_logging

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger(__name__)


class ProcessParts:
    """The chain's parts of the process that asks: opened on first use, never shared by a fork."""

    def __init__(
        self, settings: Settings, app: Celery, *, pool_size: int, sends_webhooks: bool = True
    ) -> None:
        self._settings = settings
        self._sends_webhooks = sends_webhooks
        self._reloader, self._checker = Reloader(settings), Reloader(settings)
        # Shared with the children of a pool: each looks at its next task.
        self._reloads = mmap.mmap(-1, 1)
        self._seen = 0
        self._app = app
        self._pool_size = pool_size
        self._lock = threading.Lock()
        self._pid = 0
        self._parts: ChainParts | None = None
        self._closed: ChainParts | None = None
        self._closing = ExitStack()

    def get(self) -> ChainParts:
        """This process's parts."""
        parts = self._parts
        if parts is not None and self._pid == os.getpid() and self._seen == self._reloads[0]:
            return parts
        with self._lock:
            if self._parts is None or self._pid != os.getpid():
                # The parent's parts stay the parent's: its connections must not be closed here.
                self._closing = ExitStack()
                self._parts = self._open(self._closing)
                self._pid = os.getpid()
            if self._seen != self._reloads[0]:
                self._seen = self._reloads[0]
                self._reloader.reload(self._use)
            return self._parts

    def ask_reload(self) -> None:
        """Have each process of the pool read the settings anew before its next task, if they can be
        read."""
        if self._checker.reload(lambda loaded: None):
            self._reloads[0] = (self._reloads[0] + 1) % 256

    def _use(self, loaded: Loaded) -> None:
        # Tasks in progress end with the parts of before.
        self._settings = loaded.settings
        self._parts = self._make(loaded.settings, policies=loaded.policies)

    def _open(self, closing: ExitStack) -> ChainParts:
        settings = self._settings
        ledger = SqlLedger(
            database_url(settings), pool_size=self._pool_size, audit_keys=audit_keys(settings)
        )
        closing.callback(ledger.close)
        relay = Relay(self._app)
        relay.start()
        closing.callback(relay.stop)
        remote = make_remote(settings, ledger)
        closing.callback(remote.close)
        self._make = partial(
            make_chain,
            ledger=ledger,
            relay=relay,
            resend=remote.resend,
            queue_copy=remote.queue_copy,
            trim=remote.trim,
            sends_webhooks=self._sends_webhooks,
        )
        closing.callback(self._close_executor)
        return self._make(settings)

    def _close_executor(self) -> None:
        if self._closed is not None:
            self._closed.executor.close(CLOSE_TIMEOUT)

    def close(self, **_signal: Any) -> None:
        """Close what this process opened."""
        if self._pid == os.getpid():
            self._closed, self._parts = self._parts, None
            self._pid = 0
            self._closing.close()


def make_worker_app(
    settings: Settings, *, concurrency: int = 8, queues: Sequence[str] = ()
) -> Celery:
    """A Celery app whose tasks open ledger and sockets in the process that runs them.

    Args:
        queues: names of channels or queues that it serves; all when empty.

    Raises:
        ConfigError: a setting or the policy file is wrong, or a service is not named.
    """
    refuse_development_secrets(settings)
    require_links(settings, duties("worker", queues))
    require_services(settings)
    audit_keys(settings)  # complain now, not with the first task
    require_providers(settings, duties("worker", queues))
    load_policies(settings)
    load_thresholds(settings)
    sends_webhooks = Channel.EMERGENCY in duties("worker", queues)
    if sends_webhooks:
        load_webhooks(settings)
    app = make_celery(settings, concurrency=concurrency)
    parts = ProcessParts(settings, app, pool_size=concurrency + 2, sends_webhooks=sends_webhooks)
    attach(app, parts.get)
    # Weak references would be gone before the worker ends.
    _Exposure(settings).connect()
    signals.worker_process_shutdown.connect(parts.close, weak=False)
    signals.worker_shutdown.connect(parts.close, weak=False)
    _reload_on_hangup(parts)
    app.steps["consumer"].add(pulse_step(Pulse(settings.pulse_file).beat, EVERY))
    _own_logging(settings)
    return app


def run_worker(
    settings: Settings,
    *,
    queues: Sequence[str] = (),
    concurrency: int = 8,
    pool: str = "threads",
    outbox: OutboxTarget | None = None,
    ready: Callable[[str], None] = lambda node: None,
) -> None:
    """Run a worker until a signal stops it; tasks in progress end first.

    Args:
        queues: names of channels or queues; all when empty.
        outbox: where it carries the outbox of ``DELIVERY_OUTBOX_SOURCE``.
        ready: called with the process's name once it takes tasks.
    """
    names = [_queue(name) for name in queues] or list(ALL_QUEUES)
    app = make_worker_app(settings, concurrency=concurrency, queues=queues)
    require_current(database_url(settings))
    _register_webhooks(settings, queues)
    node = _worker_name(settings, names if queues else ())
    worker = app.Worker(
        hostname=f"{node}@{socket.gethostname()}",
        pool_cls=pool,
        concurrency=concurrency,
        queues=names,
        loglevel=settings.log_level,
        task_events=True,
        # Nothing here is revoked or elected, so that workers have nothing to tell each other.
        without_gossip=True,
        without_mingle=True,
        quiet=True,
        redirect_stdouts=False,
    )
    relay = None if outbox is None else outbox.relay(settings, node)
    if relay is not None:  # after the fork, as the heartbeat
        signals.worker_ready.connect(lambda **_: relay.start(), weak=False)
    stop_heartbeat = _start_heartbeat_on(
        signals.worker_ready, settings, node, "worker", {"queues": names}, ready
    )
    try:
        worker.start()
    finally:
        if relay is not None:
            relay.stop()
        stop_heartbeat()
        Pulse(settings.pulse_file).end()
    if worker.exitcode:
        sys.exit(worker.exitcode)


def _reload_on_hangup(parts: ProcessParts) -> None:
    """Reload on SIGHUP, on which Celery's worker would start itself anew, and its children end."""
    thread = ReloadThread(parts.ask_reload)
    # Before the first fork: a child has its parent's handler for its first milliseconds.
    signals.worker_before_create_process.connect(lambda **_: thread.start(), weak=False)
    signals.worker_ready.connect(lambda **_: thread.start(), weak=False)  # pools without processes
    signals.worker_process_init.connect(
        lambda **_: signal.signal(signal.SIGHUP, signal.SIG_IGN), weak=False
    )


def _register_webhooks(settings: Settings, queues: Sequence[str]) -> None:
    """Make the endpoints known before the first task: what happens from now on is told."""
    if Channel.EMERGENCY not in duties("worker", queues) or not (found := load_webhooks(settings)):
        return
    with closing(SqlLedger(database_url(settings), pool_size=1)) as ledger:
        make_known(ledger, found)


class _Exposure:
    """The metrics of a worker: of its one process, or of all children together."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._server: MetricsServer | None = None

    def connect(self) -> None:
        """Follow the worker's start, its forks and its end, if its metrics have a port."""
        if self._settings.metrics_port is None:
            return
        signals.celeryd_init.connect(self._open, weak=False)
        signals.worker_process_init.connect(self._on_fork, weak=False)
        signals.worker_ready.connect(self._start, weak=False)
        signals.worker_shutdown.connect(self._stop, weak=False)

    def _open(self, options: dict[str, Any], **_signal: Any) -> None:
        # Now: after the worker's start nothing would stop it, and values exist before the fork.
        pool = str(options.get("pool_cls") or "prefork")
        try:
            if "prefork" in pool:
                instruments.share()
            self._server = make_metrics_server(self._settings)
        except (ConfigError, OSError) as error:
            # An error would end in Celery's log, and the worker would run without its metrics.
            sys.stderr.write(f"Error: {error}\n")
            sys.exit(2)
        show_from_the_start()

    def _on_fork(self, **_signal: Any) -> None:
        if self._server is not None:
            self._server.forget()
        # Children of one place in the pool go on with its counts.
        instruments.identify(getattr(current_process(), "index", os.getpid()))

    def _start(self, **_signal: Any) -> None:
        if self._server is not None:
            self._server.start()

    def _stop(self, **_signal: Any) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None


def make_metrics_server(settings: Settings) -> MetricsServer | None:
    """Listen on the port for metrics, if there is one. Raises ``ConfigError``."""
    if settings.metrics_port is None:
        return None
    return MetricsServer(settings.host, settings.metrics_port)


def run_beat(settings: Settings, *, ready: Callable[[str], None] = lambda node: None) -> None:
    """Run beat until a signal stops it."""
    require_services(settings)
    app = make_celery(settings)
    _own_logging(settings)
    logging.getLogger("celery.beat").addFilter(_brief)
    node = node_name(settings, "beat")
    stop_heartbeat = _start_heartbeat_on(signals.beat_init, settings, node, "beat", {}, ready)
    pulse = Pulse(settings.pulse_file)
    server = make_metrics_server(settings)
    depths = QueueDepths(app)

    def sent(sender: str, **_signal: Any) -> None:
        pulse.beat()
        metrics.published.inc(1.0, sender)

    reloader = Reloader(settings)
    ReloadThread(lambda: reloader.reload(lambda loaded: None)).start()
    signals.after_task_publish.connect(sent, weak=False)  # only what the broker took counts
    if server is not None:
        server.start()
        depths.start()
    try:
        app.Beat(loglevel=settings.log_level, quiet=True, redirect_stdouts=False).run()
    finally:
        stop_heartbeat()
        pulse.end()
        if server is not None:
            depths.stop()
            server.stop()


def _brief(record: logging.LogRecord) -> bool:
    """Cut the two tracebacks that beat logs each second while the broker is away."""
    if str(record.msg).startswith("Message Error") and isinstance(record.args, tuple):
        record.msg, record.args, record.exc_info = (
            "%s; the next one makes up for it",
            record.args[:1],
            None,
        )
    return True


def _own_logging(settings: Settings) -> None:
    """Keep Celery from installing handlers of its own, which would not redact, and from printing.

    Effect: sets this process's log up, and again when Celery would; what Celery's worker says
    past the log, as on a signal, is logged.
    """

    def setup(**_signal: Any) -> None:
        setup_logging(settings.log_format, settings.log_level, secrets=settings.secret_values())

    setup()
    signals.setup_logging.connect(setup, weak=False)
    vars(worker_program)["safe_say"] = _logged
    if settings.log_format == "json":
        signals.celeryd_init.connect(_without_banner, weak=False)


def _without_banner(instance: Any, **_signal: Any) -> None:
    instance.quiet = True  # `celery -A delivery.worker worker` would draw its name


def _logged(message: str, *_stream: Any) -> None:
    logging.getLogger("delivery.worker").info("%s", message.strip())


def _worker_name(settings: Settings, queues: Sequence[str]) -> str:
    """The node's name; where none is set, it tells which queues it serves."""
    name = node_name(settings, "worker")
    if settings.node is not None or not queues:
        return name
    return "-".join([*(queue.rpartition(".")[2] for queue in queues), name])


def _queue(name: str) -> str:
    if name in CHANNELS:
        return queue_name(name)
    if name == "maintenance":
        return MAINTENANCE_QUEUE
    if name in ALL_QUEUES:
        return name
    raise ConfigError(
        f"--queues: there is no queue {name!r}; known: {', '.join(CHANNELS)}, maintenance"
    )


def _start_heartbeat_on(
    signal: Any,
    settings: Settings,
    node: str,
    kind: str,
    info: dict[str, Any],
    ready: Callable[[str], None],
) -> Callable[[], None]:
    """Start the process's heartbeat once it is up; returns a function that stops it.

    Only then: a thread and a connection made earlier would be lost in forked children.
    """
    closing = ExitStack()

    def start(**_signal: Any) -> None:
        ledger = SqlLedger(database_url(settings), pool_size=1)
        closing.callback(ledger.close)
        heartbeat = Heartbeat(ledger, node, kind, info=lambda: info)
        heartbeat.start()
        closing.callback(heartbeat.stop)
        logger.info("%s %s is up", kind, node)
        ready(node)

    signal.connect(start, weak=False)
    return closing.close
