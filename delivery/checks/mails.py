"""What ``delivery check`` says about the messages of an installation: their brand, their links, and
steps of chains that nothing carries out.

Owns: these findings. Never does: send a message, or change anything.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from urllib.parse import urlsplit

from delivery.bootstrap.links import make_brand
from delivery.bootstrap.transports import make_renderer
from delivery.checks.findings import Finding, ok, warn, wrong
from delivery.config import Settings, load_policies, load_providers
from delivery.domain.channels import Channel
from delivery.domain.policy import Policies
from delivery.errors import ConfigError
from delivery.transports.mail.email import parse_sender
from delivery.transports.notify import is_installed

_MENDS = {
    Channel.EMERGENCY: "pip install 'delivery-ledger[push]'",
    Channel.EMAIL: "DELIVERY_SMTP_URL",
    Channel.SMS: "DELIVERY_SMS_URL",
    Channel.ALERT: "DELIVERY_ALERTMANAGER_URL or DELIVERY_ALERT_URLS",
}


def look_at_messages(settings: Settings, of: frozenset[str] | None = None) -> Iterator[Finding]:
    """The findings; of a development installation none is a warning for what ``delivery up`` has a
    local stand-in for.

    Args:
        of: the duties of one kind of process, which has no other's transports; ``None`` for all.
    """
    yield from _templates(settings)
    if writes_to_users(of):
        yield _application(settings)
    try:
        policies = load_policies(settings)
    except ConfigError:
        return  # the finding of the policies says it
    yield _transports(settings, policies, of)


def is_reached_by_mails(settings: Settings) -> bool:
    """Whether the links of mails can lead from a reader's device to this service."""
    return _is_public_host(urlsplit(settings.base_url).hostname or "")


def writes_to_users(of: frozenset[str] | None) -> bool:
    """Whether a process with these duties sends messages with links."""
    return of is None or not of.isdisjoint({Channel.EMAIL.value, Channel.SMS.value})


def sends_messages(settings: Settings) -> bool:
    """Whether real mails or texts are sent, by this process or by another. Mails alone to a server
    on this machine or network, as that of the Compose file, leave neither."""
    if settings.sms_url or _has_providers(settings):
        return True
    if settings.smtp_url is None:
        return bool(settings.channels)
    try:
        host = urlsplit(settings.smtp_url.get_secret_value()).hostname or ""
    except ValueError:
        return True  # the finding of the mail server says it
    return not _is_beside(host)


def _has_providers(settings: Settings) -> bool:
    try:
        return bool(load_providers(settings).specs)
    except ConfigError:
        return False  # the finding of the providers says it


def _templates(settings: Settings) -> Iterator[Finding]:
    try:
        renderer = make_renderer(settings)
        parse_sender(settings.mail_from)
        if settings.mail_reply_to:
            parse_sender(settings.mail_reply_to, "DELIVERY_MAIL_REPLY_TO")
    except ConfigError as error:
        yield wrong("messages", error)
        return
    for fault in renderer.faults:
        yield warn("templates", fault, "correct it: the default look stands in for it")
    if not renderer.faults and settings.templates:
        yield ok("templates", f"{settings.templates}: each can be read")


def _application(settings: Settings) -> Finding:
    brand = make_brand(settings)
    if brand.app_url is None and sends_messages(settings):
        return warn(
            "app_url",
            "not set: no button of a message opens your application",
            "set DELIVERY_APP_URL to its address",
        )
    if brand.app_url is None:
        return ok("app_url", "none; set DELIVERY_APP_URL so that messages lead to your application")
    if sends_messages(settings) and not _is_public_host(urlsplit(brand.app_url).hostname or ""):
        return warn(
            "app_url",
            f"{brand.app_url} cannot be reached from where mails are read",
            "write the address that your users open",
        )
    return ok("app_url", f"{brand.app_url}; links may lead to {', '.join(sorted(brand.origins))}")


def _transports(settings: Settings, policies: Policies, of: frozenset[str] | None) -> Finding:
    """Each step of a chain that has no transport, which is skipped for every event."""
    lacking = {
        Channel.EMERGENCY: not is_installed(),
        Channel.EMAIL: settings.smtp_url is None and "email" not in settings.channels,
        Channel.SMS: settings.sms_url is None and "sms" not in settings.channels,
        Channel.ALERT: settings.alertmanager_url is None and not settings.alert_urls,
    }
    is_development = settings.database_url is None and not sends_messages(settings)
    if settings.database_url is None:  # `delivery up` has sinks for these
        lacking[Channel.EMAIL] = lacking[Channel.SMS] = False
    found = [
        (f"{policy.event_class.value}: {step.channel}", Channel(step.channel))
        for policy in policies.classes.values()
        for step in policy.chain
        if lacking.get(Channel(step.channel)) and not step.providers
        if of is None or step.channel in of
    ]
    if not found:
        return ok("chain", "each step has a transport")
    names = ", ".join(name for name, _ in found)
    mends = "; ".join(dict.fromkeys(_MENDS[channel] for _, channel in found))
    told = f"no transport, so skipped: {names}"
    return ok("chain", told) if is_development else warn("chain", told, f"set {mends}")


def _is_beside(host: str) -> bool:
    """Whether this is a loopback address, or a name that only this network knows."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return "." not in host


def _is_public_host(host: str) -> bool:
    """Whether a host's name or address can be one that others reach."""
    name = host.strip("[]").rstrip(".").lower()
    try:
        return ipaddress.ip_address(name).is_global
    except ValueError:
        private = (".localhost", ".local", ".internal", ".lan", ".home.arpa", ".test", ".invalid")
        return "." in name and not name.endswith(private)
