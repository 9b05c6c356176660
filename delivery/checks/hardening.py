"""The checklist of ``docs/hardening.md``, which ``delivery check --strict`` verifies.

Owns: one check for each item, about settings and this process alone. Never does: open a connection,
show a secret, or change anything.
"""

from __future__ import annotations

import ipaddress
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from delivery.bootstrap.ledger import SQLITE_FILE
from delivery.config import DEV_SECRET_PREFIX, Settings, secret
from delivery.config.needs import USED_BY
from delivery.config.sources import PREFIX, secrets_of

GATEWAY = "gateway"
MAX_TOKEN_DAYS = 31
DAY = 86_400.0
_TLS_MODES = frozenset({"require", "verify-ca", "verify-full"})
_GOOD_SCHEMES = frozenset({"https", "rediss", "amqps", "postgresql+psycopg"})

Fault = str | None
"""What is wrong, ``None`` if nothing is."""


@dataclass(frozen=True, slots=True)
class Item:
    """One item of the checklist.

    Attributes:
        name: as the checklist and the command's output call it.
        look: finds what is wrong.
        mend: what to do about it.
        users: the duties that it is about (see ``config.needs``); empty: every process.
    """

    name: str
    look: Callable[[Settings], Fault]
    mend: str
    users: frozenset[str] = frozenset()


def items(of: frozenset[str] | None) -> Iterator[Item]:
    """The items that concern a process.

    Args:
        of: its duties; ``None``: all items.
    """
    for item in CHECKLIST:
        if of is None or not item.users or item.users & of:
            yield item


def _https(settings: Settings) -> Fault:
    url = urlsplit(settings.base_url)
    if url.scheme != "https" and not is_inside(url.hostname):
        return f"users reach the gateway at {settings.base_url}"
    return None


def _encrypted(settings: Settings) -> Fault:
    """Connections that leave this host or its container network."""
    for name in ("database_url", "migrate_database_url", "redis_url", "broker_url", "smtp_url"):
        value = secret(getattr(settings, name))
        if value is not None and _is_plain(value):
            return f"{PREFIX}{name.upper()} goes to another host without TLS"
    for name in ("jwks_url", "sms_url", "alertmanager_url", "heartbeat_url"):
        value = getattr(settings, name)
        plain = value if isinstance(value, str) or value is None else secret(value)
        if plain is not None and _is_plain(plain):
            return f"{PREFIX}{name.upper()} goes to another host without TLS"
    return None


def _is_plain(url: str) -> bool:
    parts = urlsplit(url)
    if is_inside(parts.hostname):
        return False
    query = parse_qs(parts.query)
    if parts.scheme.startswith("postgresql"):
        return query.get("sslmode", [""])[-1] not in _TLS_MODES
    if parts.scheme == "smtp":
        return query.get("tls", ["starttls"])[-1] == "none"
    return parts.scheme not in _GOOD_SCHEMES and parts.scheme not in ("unix", "memory", "sqlite")


def is_inside(host: str | None) -> bool:
    """Whether a host is this one, or a single word: a container in the same network."""
    if not host or ("." not in host and ":" not in host):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _passwords(settings: Settings) -> Fault:
    for name in ("database_url", "redis_url", "broker_url"):
        value = secret(getattr(settings, name))
        parts = urlsplit(value or "")
        if parts.hostname and not parts.password:
            return f"{PREFIX}{name.upper()} has no password"
    return None


def _token_secret(settings: Settings) -> Fault:
    for name in ("jwt_secret", "jwt_secret_previous"):
        value = secret(getattr(settings, name))
        if value is not None and value.startswith(DEV_SECRET_PREFIX):
            return f"{PREFIX}{name.upper()} is a development secret"
        if value is not None and len(set(value)) < MIN_DIFFERENT:
            return f"{PREFIX}{name.upper()} is easy to guess"
    if settings.jwt_secret is None and settings.jwks_url is None:
        return "nothing verifies tokens"
    return None


MIN_DIFFERENT = 10
"""Different characters in a secret, at least; 64 random hexadecimal digits have more."""


def _token_life(settings: Settings) -> Fault:
    if settings.jwt_max_ttl is None:
        return "DELIVERY_JWT_MAX_TTL is not set"
    days = settings.jwt_max_ttl / DAY
    return f"tokens may live for {days:.0f} days" if days > MAX_TOKEN_DAYS else None


def _audience(settings: Settings) -> Fault:
    if settings.jwks_url is None:
        return None
    if settings.jwt_audience in (None, "*"):
        return "tokens for other applications of the identity provider are accepted"
    return None if settings.jwt_issuer else "the issuer is not checked"


def _link_secret(settings: Settings) -> Fault:
    return None if settings.link_secret else "links are signed with a key derived from the tokens'"


def _audit_secret(settings: Settings) -> Fault:
    return None if settings.audit_secret else "the compliance log's key lies in the data directory"


def _audit_elsewhere(settings: Settings) -> Fault:
    return None if settings.audit_checkpoints else "checkpoints stay beside the database"


def _origins(settings: Settings) -> Fault:
    if not settings.allowed_origins:
        return "pages of every origin may open sockets"
    return "pages of every origin are let in" if "*" in settings.allowed_origins else None


def _limits(settings: Settings) -> Fault:
    names = sorted(name for name in type(settings).model_fields if name.startswith("rate_"))
    off = [name for name in (*names, "max_connections_per_address") if not getattr(settings, name)]
    return f"no limit: {', '.join(off)}" if off else None


def _proxies(settings: Settings) -> Fault:
    for network in map(ipaddress.ip_network, settings.trusted_proxies):
        if network.prefixlen < (8 if network.version == 4 else 32):
            return f"{network} is believed: most of the world may forge its address"
    return None


def _secret_files(settings: Settings) -> Fault:
    """Secrets in the environment show in ``docker inspect``, in dumps and in child processes."""
    named = [PREFIX + name.upper() for name in sorted(secrets_of(type(settings)))]
    found = [name for name in named if os.environ.get(name)]
    return f"in the environment: {', '.join(found)}" if found else None


def _user(settings: Settings) -> Fault:
    return "this runs as root" if os.geteuid() == 0 else None


def _data_dir(settings: Settings) -> Fault:
    for path, allowed in ((settings.data_dir, 0o700), (settings.data_dir / SQLITE_FILE, 0o600)):
        mode = _mode(path)
        if mode is not None and mode & ~allowed & 0o777:
            return f"{path} is open to others ({mode:03o})"
    return None


def _mode(path: Path) -> int | None:
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return None


def _log_level(settings: Settings) -> Fault:
    return "DEBUG, which is for development" if settings.log_level == "DEBUG" else None


def _flower(settings: Settings) -> Fault:
    return None if settings.flower_basic_auth else "Flower has no password"


_GATEWAYS = frozenset({GATEWAY})
_LOGGING = USED_BY["audit_secret"]
CHECKLIST = (
    Item("https", _https, "put TLS before the gateway; DELIVERY_PUBLIC_URL=https://…", _GATEWAYS),
    Item("encrypted connections", _encrypted, "sslmode=verify-full, rediss://, amqps://, https://"),
    Item("passwords of servers", _passwords, "give the role or server one, and put it in the URL"),
    Item("token secret", _token_secret, "openssl rand -hex 32, or DELIVERY_JWKS_URL", _GATEWAYS),
    Item("token life", _token_life, f"at most {MAX_TOKEN_DAYS} days, in seconds", _GATEWAYS),
    Item("audience", _audience, "set DELIVERY_JWT_AUDIENCE and DELIVERY_JWT_ISSUER", _GATEWAYS),
    Item("link secret", _link_secret, "set DELIVERY_LINK_SECRET", USED_BY["link_secret"]),
    Item("audit secret", _audit_secret, "set DELIVERY_AUDIT_SECRET, apart from the data", _LOGGING),
    Item(
        "checkpoints elsewhere",
        _audit_elsewhere,
        "set DELIVERY_AUDIT_CHECKPOINTS to a place that the database's owner cannot change",
        USED_BY["audit_checkpoints"],
    ),
    Item("origins", _origins, "name your pages in DELIVERY_ALLOWED_ORIGINS", _GATEWAYS),
    Item("rate limits", _limits, "leave the defaults", _GATEWAYS),
    Item("trusted proxies", _proxies, "name your balancers' addresses alone", _GATEWAYS),
    Item("secrets in files", _secret_files, "write them into files; NAME_FILE names each"),
    Item("own user", _user, "run as a user of its own; the image does"),
    Item("data directory", _data_dir, "chmod 700 the directory, chmod 600 its database"),
    Item("log level", _log_level, "DELIVERY_LOG_LEVEL=INFO"),
    Item("flower", _flower, "set DELIVERY_FLOWER_BASIC_AUTH", frozenset({"flower"})),
)
"""In the order of ``docs/hardening.md``."""
