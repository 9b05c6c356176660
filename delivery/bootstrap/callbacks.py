"""Keys of the providers' callbacks, made from settings.

Owns: the translation of settings into keys, which raises for one that cannot be read. Never does:
mount a route.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pydantic import SecretStr

from delivery.api.providers.callbacks import CallbackKeys
from delivery.api.providers.sns_requests import SnsRequests
from delivery.config import Settings, load_providers, secret, secret_values
from delivery.domain.channels import Channel
from delivery.telemetry import hide
from delivery.transports.receipts.signatures import (
    MailgunKey,
    PostmarkLogin,
    SendgridKey,
    WebhookSecret,
)

T = TypeVar("T")


def make_callback_keys(settings: Settings) -> CallbackKeys:
    """The keys of the providers that are set up.

    Raises:
        ConfigError: names the setting whose value has not its shape.
    """
    return CallbackKeys(
        sms_tokens=sms_tokens(settings),
        email=_made(
            settings.email_callback_secret,
            lambda value: WebhookSecret(value, "DELIVERY_EMAIL_CALLBACK_SECRET"),
        ),
        ses=_made(settings.ses_topic_arn, SnsRequests),
        sendgrid=_made(settings.sendgrid_public_key, SendgridKey),
        mailgun=_made(settings.mailgun_signing_key, MailgunKey),
        postmark=_made(settings.postmark_basic_auth, PostmarkLogin),
        resend=_made(
            settings.resend_secret, lambda value: WebhookSecret(value, "DELIVERY_RESEND_SECRET")
        ),
    )


def sms_tokens(settings: Settings) -> tuple[str, ...]:
    """The tokens with which providers of texts sign their callbacks.

    Raises:
        ConfigError: a token's file cannot be read.
    """
    own = secret(settings.sms_token)
    file = load_providers(settings)
    opened = [file.open(name) for name, spec in file.specs.items() if spec.channel == Channel.SMS]
    for one in opened:
        hide(secret_values(one))
    return tuple(
        dict.fromkeys([*([own] if own else []), *(one.secrets["token"] for one in opened)])
    )


def _made(value: SecretStr | None, make: Callable[[str], T]) -> T | None:
    return None if value is None else make(value.get_secret_value())
