"""Flower on the chain's broker.

Owns: Flower's options, its ``/healthz``, and its end on a signal. Never does: start open to a
network without a password, or read Flower's own variables and files: the settings are the only way
in.
"""

from __future__ import annotations

import ipaddress
import logging
import signal
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from delivery.bootstrap.broker import broker_url, make_celery
from delivery.config import Settings, secret
from delivery.errors import ConfigError
from delivery.process.reloading import keep_settings_on_hangup
from delivery.tasks.broker.app import ALL_QUEUES

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger(__name__)

LOOK_EVERY = 5.0
ANSWER_TIMEOUT = 2.0


def run_flower(
    settings: Settings,
    host: str,
    port: int,
    *,
    control: bool = False,
    ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve until a signal stops it.

    Args:
        control: its users may also stop tasks and workers.
        ready: called with the address once it listens.

    Raises:
        ConfigError: no broker, no password, no Flower, or the address cannot be used.
    """
    require_watchable(settings, host)
    flower = _make(settings, host, port, control)
    try:
        bound = flower.start_http_server()
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror}; use --host and --port"
        ) from error
    loop = flower.io_loop.asyncio_loop
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, flower.stop)
    keep_settings_on_hangup("flower")
    shown = f"[{host}]" if ":" in host else host
    loop.call_soon(ready, f"http://{shown}:{bound}")
    watch: ServiceWatch = flower.settings["service_watch"]
    watch.start()
    try:
        flower.start()
    finally:
        watch.stop()


class ServiceWatch:
    """Which queues have a worker, asked of the workers by a thread.

    Flower's own check says that Flower lives; this one says whether what it watches does.
    """

    def __init__(self, app: Celery, queues: Iterable[str] = ALL_QUEUES) -> None:
        self._app = app
        self._queues = tuple(queues)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="delivery-watch", daemon=True)
        self.unserved: tuple[str, ...] | None = None
        """Queues without a worker; ``None`` until the broker was asked, or when it is away."""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; it may be waiting for answers."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.unserved = self._look()
            except Exception as error:
                # Whatever the broker's client raises: the thread must outlive it.
                self.unserved = None
                logger.warning("the broker does not answer: %s", error)
            self._stopping.wait(LOOK_EVERY)

    def _look(self) -> tuple[str, ...]:
        answers = self._app.control.inspect(timeout=ANSWER_TIMEOUT).active_queues() or {}
        served = {queue["name"] for queues in answers.values() for queue in queues}
        return tuple(name for name in self._queues if name not in served)


def require_watchable(settings: Settings, host: str) -> None:
    """Refuse a broker that Flower cannot watch, and an open port without a password.

    Raises:
        ConfigError: names the missing setting.
    """
    if broker_url(settings).startswith("memory"):
        raise ConfigError(
            "DELIVERY_BROKER_URL is missing: Flower watches a broker that several processes share"
        )
    if settings.flower_basic_auth is None and not _is_loopback(host):
        raise ConfigError(
            "DELIVERY_FLOWER_BASIC_AUTH is missing: write user:password into it or into the file "
            "that DELIVERY_FLOWER_BASIC_AUTH_FILE names, or listen on --host 127.0.0.1"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _make(settings: Settings, host: str, port: int, control: bool) -> Any:
    try:
        from flower.app import Flower
        from flower.options import default_options as options
        from flower.urls import settings as web_settings
        from tornado.web import RequestHandler
    except ImportError as error:
        raise ConfigError(
            "Flower is not installed: pip install 'delivery-ledger[flower]'"
        ) from error
    password = secret(settings.flower_basic_auth)
    options.basic_auth = [password] if password else []
    options.address = host
    options.port = port
    options.read_only = not control
    # Flower's own command is not used: it takes options from arguments, which `ps` shows, and
    # from whatever flowerconfig.py lies in the working directory.
    app = make_celery(settings)
    watch = ServiceWatch(app)
    flower = Flower(capp=app, options=options, service_watch=watch, **web_settings)

    class Health(RequestHandler):
        def get(self) -> None:
            unserved = watch.unserved
            self.set_status(200 if unserved == () else 503)
            self.write(
                {"status": "ok"}
                if unserved == ()
                else {"status": "no broker"}
                if unserved is None
                else {"status": "queues without a worker", "queues": unserved}
            )

    flower.add_handlers(".*", [("/healthz", Health)])
    return flower
