"""The checks of ``delivery check``: settings, files and services.

Owns: the checks and their advice. Never does: change anything.
"""

from __future__ import annotations

import socket
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis

from delivery.bootstrap.audit import audit_keys, checkpoint_stores
from delivery.bootstrap.broker import make_celery
from delivery.bootstrap.callbacks import make_callback_keys
from delivery.bootstrap.chain import check_order
from delivery.bootstrap.ledger import (
    SQLITE_FILE,
    database_url,
    may_change_log,
    partitions,
    require_writable,
    schema,
)
from delivery.bootstrap.transports import providers_of
from delivery.bus.redis_clients import client, close
from delivery.checks import hardening, webhooks
from delivery.checks.classes import look_at_classes, look_at_names, look_at_tiers, look_at_types
from delivery.checks.findings import (
    CONFIGURATION,
    FINDING,
    Finding,
    ok,
    unreachable,
    warn,
    wrong,
)
from delivery.checks.mails import (
    is_reached_by_mails,
    look_at_messages,
    sends_messages,
    writes_to_users,
)
from delivery.checks.providers import look_at_providers
from delivery.config import (
    Settings,
    audience_fault,
    duties,
    load_policies,
    load_settings,
    load_thresholds,
    needs,
    refuse_development_secrets,
    require_services,
    require_trust,
    secret,
    unknown_variables,
)
from delivery.config.needs import FLOWER, GATEWAY
from delivery.domain.inputs.origin import ANY
from delivery.errors import ConfigError, DeliveryError, LedgerReadOnly
from delivery.ledger.journal.spool_file import look_aside
from delivery.process.data_directory import AUDIT_FILE, require_readable
from delivery.redis_servers.connections import FULL, REPLICA
from delivery.redis_servers.url import is_sentinel, parse_sentinel
from delivery.tasks.broker.redis_broker import trouble_of
from delivery.vapid import public_key

TIMEOUT = 3.0
READ_ONLY_MEND = (
    "point DELIVERY_DATABASE_URL at the primary, or name all servers: postgresql://…@h1,h2/name"
)
PRIMARY_MEND = "point {variable} at the primary, or at sentinels: sentinel://host1,host2/name/0"
_LOOPBACK = ("127.", "localhost", "::1", "[::1]")


def check_all(
    kind: str | None = None,
    queues: Sequence[str] = (),
    *,
    strict: bool = False,
    types: bool = False,
) -> list[Finding]:
    """Run every check, services side by side, each within a few seconds.

    Args:
        kind: also check the secrets of this kind of process; see ``duties``.
        queues: a worker's; all if empty.
        strict: also verify the checklist of ``docs/hardening.md``; every warning is a failure.
        types: also name the types of recorded events that no class of the policies lists.
    """
    try:
        settings = load_settings()
        of = None if kind is None else duties(kind, queues)
        require_readable(settings.data_dir)
    except ConfigError as error:
        return [wrong("settings", error)]
    found = [*_settings(settings, of), *_files(settings), *_spool(settings)]
    probes = _services(settings)
    if types:
        probes.append(look_at_types)
    if kind == FLOWER:
        probes = [one for one in probes if one not in _OF_LEDGER]
    with ThreadPoolExecutor(max(len(probes), 1)) as pool:
        found += [one for one in pool.map(lambda probe: probe(settings), probes) if one]
    if not strict:
        return found
    known = {one.what for one in found}  # of the same name, and as strict
    found += [_item(item, settings) for item in hardening.items(of) if item.name not in known]
    return [replace(one, level="fail") if one.level == "warn" else one for one in found]


def _item(item: hardening.Item, settings: Settings) -> Finding:
    fault = item.look(settings)
    return (
        ok(item.name, "as the checklist asks")
        if fault is None
        else warn(item.name, fault, item.mend)
    )


def _audit(settings: Settings) -> Finding:
    """The key of the compliance log."""
    is_made = settings.audit_secret is not None or (settings.data_dir / AUDIT_FILE).is_file()
    if settings.database_url is None and not is_made:
        return ok("audit key", "none yet; `delivery up` makes one")
    try:
        audit_keys(settings)
        checkpoint_stores(settings)
    except ConfigError as error:
        return wrong("audit key", error)
    place = "set" if settings.audit_secret else f"in {settings.data_dir / AUDIT_FILE}"
    return ok("audit key", f"{place}; {len(settings.audit_checkpoints)} stores of checkpoints")


def _web_push(settings: Settings) -> Finding:
    """Push messages to browsers."""
    key = secret(settings.vapid_private_key)
    if key is None:
        return ok("web push", "not set up; `delivery push keys` makes a key")
    if find_spec("pywebpush") is None:
        return warn(
            "web push",
            "pywebpush is not installed here: workers of the emergency channel need it",
            "pip install 'delivery-ledger[push]'",
        )
    if settings.vapid_subject is None and not settings.base_url.startswith("https://"):
        return warn(
            "web push",
            f"push services get {settings.vapid_contact} as your address",
            "set DELIVERY_VAPID_SUBJECT to mailto:you@example.org or an https URL",
        )
    return ok("web push", f"key set, {settings.vapid_contact}; browsers get {public_key(key)}")


def _settings(settings: Settings, of: frozenset[str] | None = None) -> Iterator[Finding]:
    misspelt = unknown_variables()
    if misspelt:
        yield warn("environment", f"unknown: {', '.join(misspelt)}", "correct or unset them")
    yield from (_trust(settings), _audit(settings)) if of is None else _secrets(settings, of)
    if settings.jwks_url:
        yield _audience(settings)
    if settings.allowed_origins:
        yield _origins(settings)
    try:
        steps = load_policies(settings)
        own = f", {', '.join(steps.own)} of your own" if steps.own else ""
        bare = ", ".join(steps.without_chain)
        bare = f"; without a chain: {bare}" if bare else ""
        yield ok(
            "policies", f"{len(steps.by_type)} types in {len(steps.classes)} classes{own}{bare}"
        )
        yield from look_at_names(steps)
        if tiers := look_at_tiers(settings, steps):
            yield tiers
    except ConfigError as error:
        yield wrong("policies", error)
    try:
        load_thresholds(settings)
        yield ok("alerts", "thresholds can be read")
    except ConfigError as error:
        yield wrong("alerts", error)
    yield from webhooks.look_at_file(settings)
    yield from look_at_providers(settings, of)
    yield _address(settings, of)
    yield from look_at_messages(settings, of)
    yield _limits(settings)
    yield _web_push(settings)
    if of is None or GATEWAY in of:
        yield from _callbacks(settings)
    yield _rates(settings)
    if settings.redis_url and settings.broker_url and _same_server(settings):
        yield warn(
            "broker",
            "the same server as redis_url",
            "use two servers: one outage then takes one of them",
        )


def _trust(settings: Settings) -> Finding:
    is_embedded = settings.database_url is None
    if is_embedded and settings.jwt_secret is None and settings.jwks_url is None:
        return ok("tokens", "development secret, for `delivery up` alone")
    try:
        require_trust(settings)
        if not is_embedded:
            require_services(settings)
    except ConfigError as error:
        return wrong("tokens", error)
    if settings.jwks_url and urlsplit(settings.jwks_url).scheme != "https":
        return warn("tokens", "keys are fetched over plain http", "use https in DELIVERY_JWKS_URL")
    return ok("tokens", "JWKS" if settings.jwks_url else "HS256 secret of good length")


def _secrets(settings: Settings, of: frozenset[str]) -> Iterator[Finding]:
    """Secrets by need: what this kind of process lacks, and what it has and does not use."""
    try:
        refuse_development_secrets(settings)
    except ConfigError as error:
        yield wrong("secrets", error)
    try:
        found = list(needs(settings, of))
    except ConfigError:
        return  # the finding of the providers says it
    for need in found:
        if need.is_missing:
            missing = f"{need.setting} is missing"
            yield Finding("secrets", "fail", missing, need.why, CONFIGURATION)
        else:
            yield warn("secrets", f"{need.setting} is not needed", f"take it away: {need.why}")
    if not found:
        yield ok("secrets", "those that this process needs, and no others")


def _origins(settings: Settings) -> Finding:
    if ANY in settings.allowed_origins:
        return warn(
            "origins",
            "pages of every origin may use /v1",
            "name those of your applications in DELIVERY_ALLOWED_ORIGINS",
        )
    plain = [one for one in settings.allowed_origins if _is_plain(one)]
    if plain:
        return warn(
            "origins",
            f"{', '.join(plain)}: such a page can be changed on its way",
            "serve it over https, and name it so",
        )
    return ok("origins", ", ".join(settings.allowed_origins))


def _is_plain(origin: str) -> bool:
    url = urlsplit(origin)
    return url.scheme == "http" and not (url.hostname or "").startswith(_LOOPBACK)


def _audience(settings: Settings) -> Finding:
    if audience_fault(settings) is not None:
        return warn(
            "audience",
            "every token of the identity provider is accepted, also one for another application",
            "set DELIVERY_JWT_AUDIENCE to the aud of your tokens, or to * to accept all",
        )
    return ok("audience", settings.audience or "any, as DELIVERY_JWT_AUDIENCE=* says")


def _address(settings: Settings, of: frozenset[str] | None) -> Finding:
    url = urlsplit(settings.base_url)
    is_local = (url.hostname or "").startswith(_LOOPBACK)
    if settings.public_url is None and not settings.host.startswith(_LOOPBACK):
        return warn(
            "public_url",
            f"not set; links start with {settings.base_url}",
            "set DELIVERY_PUBLIC_URL to the address that people use",
        )
    is_sent = writes_to_users(of) and sends_messages(settings)
    if is_sent and not is_reached_by_mails(settings):
        return warn(
            "public_url",
            f"{settings.base_url} cannot be reached from where mails are read",
            "set DELIVERY_PUBLIC_URL to the address that people use",
        )
    if url.scheme != "https" and not is_local:
        return warn(
            "public_url",
            f"{settings.base_url} is not https",
            "put TLS before the gateway and write https:// here",
        )
    return ok("public_url", settings.base_url)


def _limits(settings: Settings) -> Finding:
    try:
        return ok("time limits", check_order(settings))
    except ConfigError as error:
        return wrong("time limits", error)


def _callbacks(settings: Settings) -> Iterator[Finding]:
    try:
        make_callback_keys(settings)
    except ConfigError as error:
        yield wrong("callbacks", error)
        return
    if used := providers_of(settings):
        yield ok("callbacks", f"keys of {', '.join(used)} can be read")


def _rates(settings: Settings) -> Finding:
    names = sorted(name for name in type(settings).model_fields if name.startswith("rate_"))
    off = [name for name in names if not getattr(settings, name)]
    if settings.max_connections_per_address == 0:
        off.append("max_connections_per_address")
    if off:
        return warn(
            "rate limits",
            f"none: {', '.join(off)}",
            "set them, so that one caller cannot take what all share",
        )
    if settings.redis_url is None:
        return ok("rate limits", "held by this process alone")
    return ok("rate limits", "shared by all gateways through Redis")


def _same_server(settings: Settings) -> bool:
    one, other = (_server(secret(url) or "") for url in (settings.redis_url, settings.broker_url))
    return one == other


def _server(url: str) -> tuple[Any, ...]:
    if is_sentinel(url):
        named = parse_sentinel(url)
        return named.name, frozenset(named.sentinels)
    parts = urlsplit(url)
    return parts.hostname, parts.port or 6379


def _files(settings: Settings) -> Iterator[Finding]:
    for name, path in (("data_dir", settings.data_dir), ("config", Path("config/delivery.toml"))):
        if not path.exists():
            continue
        mode = stat.S_IMODE(path.stat().st_mode)
        if name == "data_dir" and mode & 0o077:
            yield warn(name, f"{path} is open to others ({mode:03o})", f"chmod 700 {path}")
        elif mode & 0o022:
            yield warn(name, f"{path} can be written by others ({mode:03o})", f"chmod go-w {path}")
        else:
            yield ok(name, str(path))


def _spool(settings: Settings) -> Iterator[Finding]:
    directory = settings.data_dir / "spool"
    if not directory.is_dir():
        return
    aside = look_aside(directory)
    if aside.lines:
        names = ", ".join(path.name for path in aside.files)
        yield warn(
            "spool",
            f"{aside.lines} accepted events are set aside in {directory}: {names}",
            "see the log for why; rename .refused to .spool to have them recorded",
        )
    else:
        yield ok("spool", "no event is set aside")


Probe = Callable[[Settings], Finding | None]


def _services(settings: Settings) -> list[Probe]:
    probes: list[Probe] = [_database, _partitions, look_at_classes]
    if settings.redis_url:
        probes.append(_redis)
    if settings.broker_url or settings.redis_url:
        probes.append(_broker)
    if settings.smtp_url:
        probes.append(_smtp)
    for name in ("sms_url", "alertmanager_url", "jwks_url", "heartbeat_url"):
        if getattr(settings, name):
            probes.append(_tcp_probe(name))
    return probes + webhooks.hosts(settings)


def _database(settings: Settings) -> Finding:
    url = database_url(settings)
    if settings.database_url is None and not (settings.data_dir / SQLITE_FILE).exists():
        return ok("database", "none yet; `delivery up` makes a SQLite file")
    try:
        found, head = schema(url)
        require_writable(url)
    except ConfigError as error:
        return wrong("database", error)
    except LedgerReadOnly as error:
        return unreachable("database", str(error), READ_ONLY_MEND)
    except DeliveryError as error:
        return unreachable("database", str(error), "start it, or correct DELIVERY_DATABASE_URL")
    if not found.fits:
        mend = "run the version that migrated them" if found.is_newer else "delivery migrate"
        told = f"tables at {found.revision or 'nothing'}, not {head}"
        return Finding("database", "fail", told, mend, FINDING)
    newer = ", of a newer version that serves this one" if found.is_newer else ""
    return ok("database", f"takes writes, tables at {found.revision}{newer}{_log_rights(url)}")


def _partitions(settings: Settings) -> Finding | None:
    """Where events are partitioned: whether the partitions of the next periods are there."""
    if settings.database_url is None:
        return None
    try:
        found = partitions(database_url(settings))
    except DeliveryError:
        return None  # that is the database's finding
    if found is None:
        return None
    layout, is_due = found
    told = f"by {layout.period}, made until {layout.end:%Y-%m-%d}"
    if layout.detached:
        return warn("partitions", f"{told}; {layout.detached[0]} is detached", "delivery purge …")
    if is_due:
        return warn("partitions", told, "delivery partitions maintain, as the tables' owner")
    return ok("partitions", told)


_OF_LEDGER: tuple[Probe, ...] = (_database, _partitions, look_at_classes, look_at_types)
"""What a process without the ledger's address does not look at."""


def _log_rights(url: str) -> str:
    """What the role may do to the compliance log; nothing about SQLite, which has no roles."""
    if url.startswith("sqlite"):
        return ""
    if may_change_log(url):
        return "; its role may change the compliance log (docs/compliance-log.md, Roles)"
    return "; its role may only add to the compliance log"


def _redis(settings: Settings) -> Finding:
    found = client(secret(settings.redis_url) or "", TIMEOUT)
    try:
        role: Any = _asked(lambda: found.info("replication"))
        memory: Any = _asked(lambda: found.info("memory"))
        kept: Any = _asked(lambda: found.config_get("maxmemory-policy"))
    except (redis.RedisError, OSError) as error:
        return unreachable("redis", _short(error), "start it, or correct DELIVERY_REDIS_URL")
    finally:
        close(found)
    if role.get("role") == "slave":
        return unreachable("redis", REPLICA, PRIMARY_MEND.format(variable="DELIVERY_REDIS_URL"))
    policy = memory.get("maxmemory_policy") or kept.get("maxmemory-policy", "noeviction")
    if policy != "noeviction":
        return warn("redis", f"maxmemory-policy {policy}", "set it to noeviction")
    if 0 < int(memory.get("maxmemory", 0)) <= int(memory.get("used_memory", 0)):
        return unreachable("redis", FULL, "give it more memory (maxmemory)")
    return ok("redis", "reachable, takes writes")


def _asked(question: Callable[[], Any]) -> Any:
    """The answer; none where a hosted Redis keeps it to itself."""
    try:
        return question()
    except redis.ResponseError:
        return {}


def _broker(settings: Settings) -> Finding:
    try:
        with make_celery(settings).connection_for_write(connect_timeout=TIMEOUT) as connection:
            connection.ensure_connection(max_retries=1, timeout=int(TIMEOUT))
            known = trouble_of(connection)
    except Exception as error:  # every transport of kombu has errors of its own
        return unreachable(
            "broker", type(error).__name__, "start it, or correct DELIVERY_BROKER_URL"
        )
    if known == REPLICA:
        return unreachable("broker", known, PRIMARY_MEND.format(variable="DELIVERY_BROKER_URL"))
    if known is not None:
        return unreachable("broker", known, "give it more memory (maxmemory)")
    return ok("broker", "reachable")


def _smtp(settings: Settings) -> Finding:
    target = urlsplit(secret(settings.smtp_url) or "")
    found = _connect("smtp", target.hostname or "", target.port or 25, "DELIVERY_SMTP_URL")
    is_plain = "tls=none" in (target.query or "") and target.password
    if found.level == "ok" and is_plain and not (target.hostname or "").startswith(_LOOPBACK):
        return warn("smtp", "the password travels in clear", "write ?tls=starttls or ?tls=implicit")
    return found


def _tcp_probe(name: str) -> Probe:
    def probe(settings: Settings) -> Finding:
        value = getattr(settings, name)
        url = urlsplit(value if isinstance(value, str) else secret(value) or "")
        port = url.port or (443 if url.scheme == "https" else 80)
        return _connect(name, url.hostname or "", port, f"DELIVERY_{name.upper()}")

    return probe


def _connect(what: str, host: str, port: int, variable: str) -> Finding:
    try:
        with socket.create_connection((host, port), TIMEOUT):
            return ok(what, f"{host}:{port} answers")
    except OSError as error:
        return unreachable(
            what, f"{host}:{port}: {_short(error)}", f"start it, or correct {variable}"
        )


def _short(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
