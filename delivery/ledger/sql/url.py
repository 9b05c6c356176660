"""The database's URL: which drivers and how many servers it may name.

Owns: the two ways to write several PostgreSQL servers (libpq's and SQLAlchemy's), and that of
several the one is used that takes writes. Never does: connect.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url

from delivery.errors import ConfigError
from delivery.ledger.sql import driver

DEFAULT_PORT = 5432
WRITABLE = "read-write"
TARGETS = (WRITABLE, "primary", "any")
"""What ``target_session_attrs`` may ask for; the rest would find servers that take no writes."""

# user:password@host:port,host:port/name: SQLAlchemy reads one host only in this place.
_SEVERAL = re.compile(
    r"^(?P<scheme>[a-z0-9_+]+://)(?P<user>[^:/?]*(?::[^@]*)?@)?(?P<hosts>[^/?@]*,[^/?@]*)(?=[/?]|$)"
)
_HOST = re.compile(r"^(?:\[(?P<ipv6>[0-9A-Fa-f:.%]+)\]|(?P<name>[^:\[\]]+))(?::(?P<port>.*))?$")


def parse_url(text: str) -> URL:
    """A SQLAlchemy URL with the drivers this package uses.

    Several PostgreSQL servers become libpq's lists ``host`` and ``port``, which are tried in turn.

    Raises:
        ConfigError: not a URL, or neither SQLite nor PostgreSQL.
    """
    several = _SEVERAL.match(text)
    try:
        if several is not None:
            start = f"{several['scheme']}{several['user'] or '@'}"
            url = make_url(start + text[several.end() :])
            url = url.update_query_dict({"host": several["hosts"].split(",")}, append=True)
        else:
            url = make_url(text)
    except (sa.exc.ArgumentError, ValueError):
        raise ConfigError(
            "DELIVERY_DATABASE_URL is not a database URL; write e.g. "
            "postgresql://user:password@host/name or sqlite:////path/to/file.db"
        ) from None
    backend = url.get_backend_name()
    if backend == "postgresql":
        driver.require()
        return _with_target(_with_hosts(url.set(drivername="postgresql+psycopg")))
    if backend == "sqlite":
        if not url.database or url.database == ":memory:":
            raise ConfigError("DELIVERY_DATABASE_URL: SQLite needs a file, memory is not durable")
        return url.set(drivername="sqlite")
    raise ConfigError(
        f"DELIVERY_DATABASE_URL: {backend} is not supported; use postgresql or sqlite"
    )


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """How sessions are used: what the URL says beside the driver's own parameters.

    Attributes:
        prepare_threshold: executions after which a statement is prepared; ``None`` for never.
        detects_poolers: whether nothing is prepared where a pooler stands in between.
        sets_timeouts: whether each transaction sets its time limits; else the role's are in force.
    """

    prepare_threshold: int | None = 5
    detects_poolers: bool = True
    sets_timeouts: bool = True


def split_options(url: URL) -> tuple[URL, SessionOptions]:
    """Take the options that are ours, and not the driver's, from a PostgreSQL URL.

    Raises:
        ConfigError: one has a value that it cannot have.
    """
    threshold = url.query.get("prepare_threshold")
    timeouts = url.query.get("timeouts", "transaction")
    if timeouts not in ("transaction", "role"):
        raise ConfigError("DELIVERY_DATABASE_URL: timeouts must be transaction or role")
    if threshold is None or threshold == "detect":
        found = SessionOptions()
    elif threshold == "none":
        found = SessionOptions(None, detects_poolers=False)
    elif isinstance(threshold, str) and re.fullmatch("[0-9]{1,6}", threshold):
        found = SessionOptions(int(threshold), detects_poolers=False)
    else:
        raise ConfigError(
            "DELIVERY_DATABASE_URL: prepare_threshold must be a number, none or detect"
        )
    options = replace(found, sets_timeouts=timeouts == "transaction")
    return url.difference_update_query(["prepare_threshold", "timeouts"]), options


def has_several_servers(url: URL) -> bool:
    """Whether a URL from ``parse_url`` names more than one server."""
    return "," in str(url.query.get("host", ""))


def _with_hosts(url: URL) -> URL:
    """The servers of ``host`` and ``port`` in the query, as one list each."""
    found = list(_texts(url.query.get("host", ())))
    if not found or (len(found) == 1 and found[0].startswith("/")):
        return url  # in its usual place, or the folder of a Unix socket
    ports = [port for text in _texts(url.query.get("port", ())) for port in text.split(",")]
    servers = [_server(text) for text in found]
    if ports and any(port for _, port in servers):
        raise _wrong_hosts("name each port once: host=h1:5432&host=h2:5432")
    if len(ports) not in (0, 1, len(servers)):
        raise _wrong_hosts("write one port, or one for each host")
    shared = ports * len(servers) if len(ports) == 1 else ports or [""] * len(servers)
    if url.host:
        raise _wrong_hosts("write all hosts in one place")
    together = [(host, port or other) for (host, port), other in zip(servers, shared, strict=True)]
    return url.update_query_dict(
        {
            "host": ",".join(host for host, _ in together),
            "port": ",".join(_port(port) for _, port in together),
        }
    )


def _texts(value: str | Iterable[str]) -> Iterable[str]:
    return value.split(",") if isinstance(value, str) else [p for v in value for p in v.split(",")]


def _server(text: str) -> tuple[str, str]:
    found = _HOST.match(text.strip())
    if found is None:
        raise _wrong_hosts("an address of IPv6 stands in brackets, a port behind a colon")
    return found["ipv6"] or found["name"], found["port"] or ""


def _port(text: str) -> str:
    if not text:
        return str(DEFAULT_PORT)
    if not re.fullmatch("[0-9]{1,5}", text) or not 0 < int(text) < 65_536:
        raise _wrong_hosts("a port is a number from 1 to 65535")
    return text


def _with_target(url: URL) -> URL:
    """Of several servers the one that takes writes, unless the URL asks for another."""
    target = url.query.get("target_session_attrs")
    if target is None:
        several = has_several_servers(url)
        return url.update_query_dict({"target_session_attrs": WRITABLE}) if several else url
    if target not in TARGETS:
        raise ConfigError(
            "DELIVERY_DATABASE_URL: target_session_attrs must be "
            f"{', '.join(TARGETS[:-1])} or {TARGETS[-1]}: the ledger has to be written"
        )
    return url


def _wrong_hosts(mend: str) -> ConfigError:
    return ConfigError(
        f"DELIVERY_DATABASE_URL: its hosts cannot be read: {mend}; "
        "e.g. postgresql://user:password@h1:5432,h2:5432/name"
    )
