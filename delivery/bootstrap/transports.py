"""Transports of the channels, and receivers of alerts, made from settings.

Owns: the translation of settings into constructor arguments. Never does: start anything.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from delivery.bootstrap.links import make_brand
from delivery.config import ProvidersFile, Settings, load_providers, secret, secret_values
from delivery.domain.channels import DIGESTED, Channel
from delivery.domain.messages.providers import ProviderKind
from delivery.domain.stores.users import PushTargets
from delivery.domain.transports import Transport
from delivery.errors import ConfigError
from delivery.tasks.executor import Reachable
from delivery.tasks.providers import InTurn, Provider
from delivery.telemetry import hide
from delivery.transports.alert import AlertReceivers
from delivery.transports.mail.email import EmailTransport, unreachable_by_mail
from delivery.transports.push import PushTransport
from delivery.transports.rendering.render import Renderer
from delivery.transports.sms import SmsSettings, SmsTransport, unreachable_by_text
from delivery.transports.web_push import Vapid, WebPusher

logger = logging.getLogger(__name__)


def make_renderer(settings: Settings) -> Renderer:
    """Templates of mails, texts and alerts."""
    return Renderer(settings.templates, brand=make_brand(settings))


def make_transports(
    settings: Settings, renderer: Renderer, known: PushTargets
) -> dict[str, Transport]:
    """The transports that are configured; the chain skips the other channels."""
    web = WebPusher(make_vapid(settings))
    transports: dict[str, Transport] = {
        Channel.EMERGENCY: PushTransport(renderer, known=known, web=web)
    }
    if settings.smtp_url is not None:
        smtp_url = settings.smtp_url.get_secret_value()
        transports[Channel.EMAIL] = EmailTransport(
            smtp_url,
            settings.mail_from,
            renderer,
            reply_to=settings.mail_reply_to,
            providers=providers_of(settings),
        )
    if settings.sms_url is not None:
        transports[Channel.SMS] = SmsTransport(
            settings.sms_url,
            settings.sms_account or "",
            secret(settings.sms_token) or "",
            settings.sms_from or "",
            renderer,
            status_callback=sms_callback(settings),
        )
    return transports


def make_vapid(settings: Settings) -> Vapid | None:
    """By whom browsers get push messages; ``None``: they get none."""
    key = secret(settings.vapid_private_key)
    return None if key is None else Vapid(key, settings.vapid_contact)


def make_elsewhere(settings: Settings) -> dict[str, Reachable]:
    """Channels that other workers have, and the providers that steps name, with their rules for
    contacts."""
    rules: dict[str, Reachable] = {
        Channel.EMAIL: unreachable_by_mail,
        Channel.SMS: unreachable_by_text,
    }
    specs = load_providers(settings).specs
    named = {name: rules[spec.channel] for name, spec in specs.items()}
    return named | {name: rules[name] for name in settings.channels}


def make_providers(settings: Settings, renderer: Renderer) -> dict[str, Provider]:
    """The providers of ``DELIVERY_PROVIDERS`` whose secrets this process can read.

    Effect: their secrets are hidden in the log; one that cannot be read is said there.
    """
    file = load_providers(settings)
    found: dict[str, Provider] = {}
    for name, spec in file.specs.items():
        try:
            found[name] = Provider(
                open_transport(settings, file, name, renderer), name, spec.timeout, spec.rate
            )
        except ConfigError as error:
            # The worker of its channel refuses to start without it; others need none.
            logger.info("provider %s is not used in this process: %s", name, error)
    return found


def open_transport(
    settings: Settings, file: ProvidersFile, name: str, renderer: Renderer
) -> Transport:
    """The transport of a provider.

    Raises:
        ConfigError: a value or a secret cannot be used; names the key.
    """
    opened = file.open(name)
    hide(secret_values(opened))
    spec, given = opened.spec, opened.secrets
    key = f"{file.path}: provider.{name}"
    if spec.kind is ProviderKind.SMTP:
        user = spec.texts.get("user")
        return EmailTransport(
            given["url"],
            spec.texts.get("from", settings.mail_from),
            renderer,
            reply_to=settings.mail_reply_to,
            providers=providers_of(settings),
            login=None if user is None else (user, given["password"]),
            settings=(f"{key}.url", f"{key}.from"),
        )
    sender = spec.texts.get("from") or settings.sms_from
    if not sender:
        raise ConfigError(f"{key}.from: is missing, and so is DELIVERY_SMS_FROM")
    return SmsTransport(
        given["url"],
        spec.texts["account"],
        given["token"],
        sender,
        renderer,
        status_callback=sms_callback(settings),
        settings=SmsSettings(f"{key}.url", f"{key}: url, account and token", f"{key}.from"),
    )


def verifying(
    transports: Mapping[str, Transport], named: Mapping[str, Provider]
) -> dict[str, Transport]:
    """Transports of messages that no step sends: a channel's providers in the file's order, then
    the one of the settings."""
    found = dict(transports)
    for channel in DIGESTED:
        providers = [one for one in named.values() if one.transport.name == channel]
        if providers:
            own = [Provider(transports[channel])] if channel in transports else []
            found[channel] = InTurn([*providers, *own])
    return found


def providers_of(settings: Settings) -> tuple[str, ...]:
    """Names of the mail providers whose callbacks are set up."""
    given = {
        "ses": settings.ses_topic_arn,
        "sendgrid": settings.sendgrid_public_key,
        "mailgun": settings.mailgun_signing_key,
        "postmark": settings.postmark_basic_auth,
        "resend": settings.resend_secret,
    }
    return tuple(name for name, value in given.items() if value is not None)


def sms_callback(settings: Settings) -> str:
    """URL to which the SMS provider posts the status of a text."""
    return f"{settings.base_url}/v1/callbacks/sms/twilio"


def make_alerts(settings: Settings, renderer: Renderer) -> AlertReceivers:
    """The operators' receivers."""
    return AlertReceivers(
        secret(settings.alertmanager_url),
        [url.get_secret_value() for url in settings.alert_urls],
        renderer,
        public_url=settings.base_url,
    )
