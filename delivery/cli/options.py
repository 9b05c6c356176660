"""Options and settings that several commands share.

Never does: import heavy modules; every start of the command imports this one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click

from delivery.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])
_WANTS_JSON = "delivery.json"
SERVICE_TOKEN = 'delivery token --service --scope "emit read operate"'  # noqa: S105
DEFAULT_URL = "http://127.0.0.1:8080"


def api_options(function: F) -> F:
    """Add ``--url`` and ``--token`` (or DELIVERY_URL and DELIVERY_TOKEN)."""
    url = click.option(
        "--url",
        envvar="DELIVERY_URL",
        default=DEFAULT_URL,
        show_default=True,
        show_envvar=True,
        callback=lambda _context, _option, value: service_url(value),
        help="Address of the service.",
    )
    token = click.option(
        "--token",
        envvar="DELIVERY_TOKEN",
        default=None,
        show_envvar=True,
        help="Bearer token; other users of this machine can see options, so prefer the variable.",
    )
    return url(token(function))


def service_url(url: str) -> str:
    """The address of a service.

    Raises:
        ConfigError: it is none.
    """
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, an address in brackets that do not close
        is_url = False
    if not is_url or not url.isprintable() or " " in url:
        raise ConfigError(
            "DELIVERY_URL must start with http:// or https:// and name a host, like "
            f"{DEFAULT_URL}, not {url!r}"
        )
    return url


def required_token(token: str | None, make: str) -> str:
    """The token.

    Args:
        make: the command that makes one.

    Raises:
        ConfigError: there is no token, or it cannot stand in a request.
    """
    if not token:
        raise ConfigError(f"DELIVERY_TOKEN is not set: export DELIVERY_TOKEN=$({make})")
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise ConfigError(
            "DELIVERY_TOKEN holds more than a token, which is letters, digits and . _ -: "
            f"export DELIVERY_TOKEN=$({make})"
        )
    return token


def json_option(function: F) -> F:
    """Add ``--json``, passed as ``as_json`` and remembered for ``wants_json``."""
    option = click.option(
        "--json", "as_json", is_flag=True, callback=_remember, help="Print JSON for programs."
    )
    return option(function)


def _remember(context: click.Context, _option: click.Parameter, value: bool) -> bool:
    context.meta[_WANTS_JSON] = value  # shared by a command and the groups it belongs to
    return value


def wants_json(context: click.Context) -> bool:
    """Whether the command that ran in this context was given ``--json``."""
    return bool(context.meta.get(_WANTS_JSON))


def serving_settings(*, queued: bool = False, **overrides: Any) -> Any:
    """Settings of a command that serves.

    Args:
        queued: the command runs an event loop, which no log line may hold up.

    Effect: sets up the log.
    """
    from delivery.config import load_settings, log_format
    from delivery.telemetry import setup_logging

    setup_logging(log_format())  # a wrong setting is told in the log's format, too
    settings = load_settings(**overrides)
    setup_logging(
        settings.log_format, settings.log_level, secrets=settings.secret_values(), queued=queued
    )
    return settings
