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
from delivery.bootstrap.transports import sms_tokens
from delivery.config import Settings
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


def _made(value: SecretStr | None, make: Callable[[str], T]) -> T | None:
    return None if value is None else make(value.get_secret_value())
