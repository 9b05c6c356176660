"""The URL of a Redis behind Sentinel: ``sentinel://host1,host2/name/db``.

Owns: its form and its errors, which never repeat it: it may hold a password. Never does: connect.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote

SCHEMES = ("sentinel://", "sentinel+ssl://")
EXAMPLE = "sentinel://:password@host1:26379,host2:26379/name/0"
SENTINEL_PORT = 26_379
MAX_DATABASE = 65_535

_URL = re.compile(
    r"(?P<scheme>sentinel(?:\+ssl)?)://(?:(?P<user>[^/?]*)@)?(?P<hosts>[^/?@]*)"
    r"(?:/(?P<path>[^?]*))?(?:\?(?P<query>.*))?",
    re.IGNORECASE,
)
_HOST = re.compile(
    r"(?:\[(?P<ipv6>[0-9A-Fa-f:.%]+)\]|(?P<name>[A-Za-z0-9_.-]+))(?::(?P<port>[0-9]{1,5}))?"
)
_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")
# Sentinels may have a password of their own.
_OPTIONS = ("sentinel_username", "sentinel_password")


@dataclass(frozen=True, slots=True)
class SentinelUrl:
    """Sentinels, and the primary that they are asked for.

    Attributes:
        sentinels: host and port of each.
        name: what the sentinels call the primary.
        username / password: of the Redis servers; ``sentinel_username`` and ``sentinel_password``
            those of the sentinels.
        tls: whether both speak TLS.
    """

    sentinels: tuple[tuple[str, int], ...]
    name: str
    database: int = 0
    username: str | None = None
    password: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = None
    tls: bool = False


def is_sentinel(url: str) -> bool:
    """Whether the URL names sentinels."""
    return url.lower().startswith(SCHEMES)


def parse_sentinel(url: str) -> SentinelUrl:
    """Read a URL for which ``is_sentinel`` holds.

    Raises:
        ValueError: says what to write.
    """
    found = _URL.fullmatch(url)
    if found is None:
        raise _wrong("it cannot be read")
    name, database = _place(found["path"] or "")
    username, password = _credentials(found["user"])
    options = _options(found["query"] or "")
    return SentinelUrl(
        sentinels=tuple(_host(text) for text in found["hosts"].split(",")),
        name=name,
        database=database,
        username=username,
        password=password,
        sentinel_username=options.get("sentinel_username"),
        sentinel_password=options.get("sentinel_password"),
        tls=found["scheme"].lower() == "sentinel+ssl",
    )


def _host(text: str) -> tuple[str, int]:
    found = _HOST.fullmatch(text.strip())
    port = int(found["port"] or SENTINEL_PORT) if found is not None else 0
    if found is None or not 0 < port < 65_536:
        raise _wrong("each sentinel is a host or host:port, separated by commas")
    return found["ipv6"] or found["name"], port


def _place(path: str) -> tuple[str, int]:
    name, _, database = path.partition("/")
    name = unquote(name)
    if not _NAME.fullmatch(name):
        raise _wrong("the name by which the sentinels know the primary is missing")
    if not re.fullmatch("[0-9]{0,5}", database) or int(database or 0) > MAX_DATABASE:
        raise _wrong("the database behind the name is a number")
    return name, int(database or 0)


def _credentials(user: str | None) -> tuple[str | None, str | None]:
    if not user:
        return None, None
    username, mark, password = user.partition(":")
    if not mark:
        raise _wrong("a password stands behind a colon")
    return unquote(username) or None, unquote(password) or None


def _options(query: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(set(options) - set(_OPTIONS))
    if unknown:
        raise _wrong(f"options are {' and '.join(_OPTIONS)}, not {unknown[0][:40]}")
    return options


def _wrong(mend: str) -> ValueError:
    return ValueError(f"{mend}; write {EXAMPLE}")
