"""Flower on the chain's broker.

Owns: Flower's options and its end on a signal. Never does: start open to a network without a
password, or read Flower's own variables and files: the settings are the only way in.
"""

from __future__ import annotations

import ipaddress
import signal
from collections.abc import Callable
from typing import Any

from delivery.bootstrap.chain import broker_url, make_celery
from delivery.config import Settings, secret
from delivery.errors import ConfigError


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
    shown = f"[{host}]" if ":" in host else host
    loop.call_soon(ready, f"http://{shown}:{bound}")
    flower.start()


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
    except ImportError as error:
        raise ConfigError("Flower is not installed: pip install 'delivery[flower]'") from error
    password = secret(settings.flower_basic_auth)
    options.basic_auth = [password] if password else []
    options.address = host
    options.port = port
    options.read_only = not control
    # Flower's own command is not used: it takes options from arguments, which `ps` shows, and
    # from whatever flowerconfig.py lies in the working directory.
    return Flower(capp=make_celery(settings), options=options, **web_settings)
