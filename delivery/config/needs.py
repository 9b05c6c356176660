"""Which secrets a process uses, by its duties.

Owns: the table of secrets and duties, and what is missing or too much in a process's settings.
Never does: open a connection, or show a secret.

A process that was broken into gives away only what it was given. A worker of pushes, which talks to
hosts that users name, has neither the secret that signs tokens nor the mail server's password.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from delivery.config.providers import load_providers
from delivery.config.settings import Settings
from delivery.config.sources import PREFIX, secrets_of
from delivery.domain.channels import CHAIN, Channel
from delivery.errors import ConfigError

GATEWAY, BEAT, MIGRATE, FLOWER, MAINTENANCE = "gateway", "beat", "migrate", "flower", "maintenance"
WORKER = "worker"
KINDS = (GATEWAY, WORKER, BEAT, MIGRATE, FLOWER)
"""Processes of a cluster, as their commands are called."""

QUEUES = frozenset({*map(str, CHAIN), MAINTENANCE})
"""A worker's duties: the queues that it serves."""
_LOGGED = frozenset({GATEWAY, *QUEUES})
_LINKED = frozenset({GATEWAY, Channel.EMAIL, Channel.SMS})

USED_BY: dict[str, frozenset[str]] = {
    "database_url": frozenset({GATEWAY, BEAT, MIGRATE, *QUEUES}),
    "redis_url": frozenset({GATEWAY, Channel.QUEUE, Channel.DIRECT, MAINTENANCE}),
    "broker_url": frozenset({GATEWAY, BEAT, FLOWER, *QUEUES}),
    "jwt_secret": frozenset({GATEWAY}),
    "jwt_secret_previous": frozenset({GATEWAY}),
    "link_secret": _LINKED,
    "link_secret_previous": _LINKED,
    "audit_secret": _LOGGED,
    "audit_secret_previous": _LOGGED,
    "audit_checkpoints": frozenset({MAINTENANCE}),
    "migrate_database_url": frozenset({MIGRATE}),
    # A worker of any queue may carry it (`delivery worker --outbox`).
    "outbox_source": frozenset({GATEWAY, *QUEUES}),
    "smtp_url": frozenset({Channel.EMAIL}),
    "sms_token": frozenset({GATEWAY, Channel.SMS}),
    "email_callback_secret": frozenset({GATEWAY}),
    # Behind a relay they also tell the worker of mails whose header a mail needs.
    "ses_topic_arn": frozenset({GATEWAY, Channel.EMAIL}),
    "sendgrid_public_key": frozenset({GATEWAY, Channel.EMAIL}),
    "mailgun_signing_key": frozenset({GATEWAY, Channel.EMAIL}),
    "postmark_basic_auth": frozenset({GATEWAY, Channel.EMAIL}),
    "resend_secret": frozenset({GATEWAY}),
    # The gateway serves its public half.
    "vapid_private_key": frozenset({GATEWAY, Channel.EMERGENCY}),
    "alertmanager_url": frozenset({Channel.ALERT}),
    "alert_urls": frozenset({Channel.ALERT}),
    "heartbeat_url": frozenset({MAINTENANCE}),
    "flower_basic_auth": frozenset({FLOWER}),
}
"""Secret -> the duties that use it."""

MAKE = "make one with: openssl rand -hex 32"


@dataclass(frozen=True, slots=True)
class Need:
    """A secret that a process lacks, or has and does not use.

    Attributes:
        setting: its variable.
        is_missing: it lacks it.
        why: what it is for, or why it is of no use here.
    """

    setting: str
    is_missing: bool
    why: str


def duties(kind: str, queues: Collection[str] = ()) -> frozenset[str]:
    """What a process does.

    Args:
        kind: one of ``KINDS``.
        queues: a worker's, with or without ``delivery.`` before them; all if empty.

    Raises:
        ConfigError: there is no such kind or queue.
    """
    if kind not in KINDS:
        raise ConfigError(f"no kind of process {kind!r}; known: {', '.join(KINDS)}")
    if kind != WORKER:
        return frozenset({kind})
    named = frozenset(name.removeprefix("delivery.") for name in queues)
    if unknown := sorted(named - QUEUES):
        raise ConfigError(f"no queue {unknown[0]!r}; known: {', '.join(sorted(QUEUES))}")
    return named or QUEUES


def needs(settings: Settings, of: frozenset[str]) -> Iterator[Need]:
    """Secrets that a process with these duties lacks, and those that it has and does not use."""
    yield from _missing(settings, of)
    for name in sorted(secrets_of(type(settings))):
        if getattr(settings, name) and not _is_used(settings, name, of):
            users = ", ".join(sorted(USED_BY.get(name, ())))
            yield Need(_variable(name), False, f"only {users} use it")


def require_links(settings: Settings, of: frozenset[str]) -> None:
    """Refuse to send or to serve links without the secret that signs them.

    Raises:
        ConfigError: neither the secret of links nor that of tokens is set.
    """
    if _has_links(settings, of) and settings.link_secrets[0] is None:
        raise ConfigError(
            "DELIVERY_LINK_SECRET is missing: it signs the links in mails and texts, and gateways "
            f"and the workers of email and sms need the same; {MAKE}"
        )


def _missing(settings: Settings, of: frozenset[str]) -> Iterator[Need]:
    is_owner = of == {MIGRATE} and settings.migrate_database_url is not None
    if of & USED_BY["database_url"] and settings.database_url is None and not is_owner:
        yield Need("DELIVERY_DATABASE_URL", True, "events stand in the ledger")
    if of & USED_BY["broker_url"] and not (settings.broker_url or settings.redis_url):
        yield Need("DELIVERY_BROKER_URL", True, "tasks of the chain go through it")
    if of & USED_BY["redis_url"] and settings.redis_url is None:
        yield Need("DELIVERY_REDIS_URL", True, "processes reach each other's clients through it")
    if of & _LOGGED and settings.audit_secret is None:
        yield Need("DELIVERY_AUDIT_SECRET", True, f"the compliance log's key; {MAKE}")
    if GATEWAY in of and settings.jwt_secret is None and settings.jwks_url is None:
        yield Need("DELIVERY_JWT_SECRET", True, "or DELIVERY_JWKS_URL: tokens cannot be verified")
    if _has_links(settings, of) and settings.link_secrets[0] is None:
        yield Need("DELIVERY_LINK_SECRET", True, f"it signs links in mails and texts; {MAKE}")
    if Channel.EMAIL in of & frozenset(settings.channels) and settings.smtp_url is None:
        yield Need("DELIVERY_SMTP_URL", True, "DELIVERY_CHANNELS names email: its mails go there")
    if Channel.SMS in of & frozenset(settings.channels):
        if settings.sms_url is None:
            yield Need("DELIVERY_SMS_URL", True, "DELIVERY_CHANNELS names sms: its texts go there")
        if settings.sms_token is None:
            yield Need("DELIVERY_SMS_TOKEN", True, "DELIVERY_CHANNELS names sms: its password")


def _is_used(settings: Settings, name: str, of: frozenset[str]) -> bool:
    if name in ("jwt_secret", "jwt_secret_previous"):
        signs_links = settings.link_secret is None and _has_links(settings, of)
        # The identity provider's keys verify; the secret would only be one more way in.
        verifies = GATEWAY in of and settings.jwks_url is None
        return signs_links or verifies
    if name == "redis_url" and settings.broker_url is None:
        name = "broker_url"
    return bool(of & USED_BY.get(name, frozenset()))


def _has_links(settings: Settings, of: frozenset[str]) -> bool:
    named = load_providers(settings).channels() | {*settings.channels}
    has_mail = settings.smtp_url is not None or Channel.EMAIL in named
    has_sms = settings.sms_url is not None or Channel.SMS in named
    if GATEWAY in of:
        return has_mail or has_sms
    return (Channel.EMAIL in of and has_mail) or (Channel.SMS in of and has_sms)


def _variable(name: str) -> str:
    return PREFIX + name.upper()
