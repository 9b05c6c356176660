"""Links, transports of the channels, and receivers of alerts, made from settings.

Owns: the translation of settings into constructor arguments. Never does: start anything.
"""

from __future__ import annotations

import secrets

from delivery.config import Settings, secret
from delivery.domain.channels import Channel
from delivery.domain.inputs.origin import origin_of
from delivery.domain.messages.brand import Brand
from delivery.domain.ports import Transport
from delivery.domain.stores.users import PushTargets
from delivery.links import LinkSigner
from delivery.tasks.executor import Reachable
from delivery.transports.alert import AlertReceivers
from delivery.transports.mail.email import EmailTransport, unreachable_by_mail
from delivery.transports.push import PushTransport
from delivery.transports.render import Renderer
from delivery.transports.sms import SmsTransport, unreachable_by_text


def make_links(settings: Settings) -> LinkSigner:
    """The signer of links; without a secret no link is mailed, and a random key does."""
    own, previous = settings.link_secrets
    return LinkSigner(own or secrets.token_hex(32), previous, settings.base_url)


def make_renderer(settings: Settings) -> Renderer:
    """Templates of mails, texts and alerts."""
    return Renderer(settings.templates, brand=make_brand(settings))


def make_brand(settings: Settings) -> Brand:
    """The application, as its users know it; links lead to it and to the listed origins alone."""
    own = origin_of(settings.app_url) if settings.app_url else None
    return Brand(
        name=settings.brand_name or "",
        logo_url=settings.brand_logo_url,
        color=settings.brand_color,
        app_url=settings.app_url,
        origins=frozenset([*settings.link_origins, *([own] if own else [])]),
        footer=settings.mail_footer or "",
    )


def make_transports(
    settings: Settings, renderer: Renderer, known: PushTargets
) -> dict[str, Transport]:
    """The transports that are configured; the chain skips the other channels."""
    transports: dict[str, Transport] = {Channel.EMERGENCY: PushTransport(renderer, known=known)}
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


def make_elsewhere(settings: Settings) -> dict[str, Reachable]:
    """Channels that other workers have, with their rules for contacts."""
    rules: dict[str, Reachable] = {
        Channel.EMAIL: unreachable_by_mail,
        Channel.SMS: unreachable_by_text,
    }
    return {name: rules[name] for name in settings.channels}


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
