"""Signatures that providers put on their reports.

Owns: the keys as settings give them, and their checks, in constant time where a secret is compared.
Never does: read a request.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import time
from collections.abc import Callable, Mapping

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key
from standardwebhooks.webhooks import (
    EmptyWebhookSecretError,
    Webhook,
    WebhookVerificationError,
)

from delivery.errors import ConfigError

TOLERANCE = 300.0
"""Seconds that a signed timestamp may be away from this machine's clock."""
MAILGUN_TOLERANCE = 900.0
"""Mailgun repeats a report that failed after ten minutes."""

_SVIX = {"webhook-id": "svix-id", "webhook-timestamp": "svix-timestamp"}
_SVIX["webhook-signature"] = "svix-signature"


class WebhookSecret:
    """A Standard Webhooks secret; Svix, which Resend uses, signs the same way under other names.

    Args:
        secret: base64, with or without ``whsec_`` before it.
        setting: named by the error.

    Raises:
        ConfigError: it is not base64.
    """

    def __init__(self, secret: str, setting: str) -> None:
        try:
            self._webhook = Webhook(secret)
        except (binascii.Error, ValueError, EmptyWebhookSecretError) as error:
            raise ConfigError(
                f"{setting} must be base64, with or without whsec_ before it"
            ) from error

    def is_signed(self, raw: bytes, headers: Mapping[str, str], *, svix: bool = False) -> bool:
        """Whether one of the signatures fits the body, the id and a timestamp of now."""
        named = {name: headers.get(_SVIX[name] if svix else name, "") for name in _SVIX}
        try:
            self._webhook.verify(raw, named, json_parse=False)
        except (WebhookVerificationError, ValueError):
            # ValueError: raised by the library for a malformed signature or body.
            return False
        return True


class SendgridKey:
    """The public key of SendGrid's signed event webhook.

    Args:
        key: base64 as SendGrid shows it, or PEM.

    Raises:
        ConfigError: it is no P-256 key.

    Source: Twilio SendGrid, "Getting started with the event webhook security features".
    """

    def __init__(self, key: str, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        try:
            found = (
                load_pem_public_key(key.encode())
                if key.lstrip().startswith("-----BEGIN")
                else load_der_public_key(base64.b64decode("".join(key.split()), validate=True))
            )
        except (ValueError, UnsupportedAlgorithm) as error:
            raise ConfigError(_SENDGRID_ADVICE) from error
        if not isinstance(found, ec.EllipticCurvePublicKey) or found.curve.name != "secp256r1":
            raise ConfigError(_SENDGRID_ADVICE)
        self._key = found

    def is_signed(self, raw: bytes, headers: Mapping[str, str]) -> bool:
        """Whether the signature fits the timestamp and the body, and the timestamp is of now."""
        stamp = headers.get("X-Twilio-Email-Event-Webhook-Timestamp", "")
        given = headers.get("X-Twilio-Email-Event-Webhook-Signature", "")
        if not is_recent(stamp, self._clock(), TOLERANCE):
            return False
        try:
            signature = base64.b64decode(given, validate=True)
            self._key.verify(signature, stamp.encode() + raw, ec.ECDSA(hashes.SHA256()))
        except (ValueError, InvalidSignature):
            return False
        return True


_SENDGRID_ADVICE = (
    "DELIVERY_SENDGRID_PUBLIC_KEY must be the verification key of the signed event webhook: "
    "a P-256 public key in base64, as SendGrid shows it"
)


class MailgunKey:
    """The HTTP webhook signing key of Mailgun. Its signature does not cover the body.

    Raises:
        ConfigError: it is empty or no text of one line.

    Source: Mailgun, "Securing webhooks".
    """

    def __init__(self, key: str, clock: Callable[[], float] = time.time) -> None:
        if not (key.isascii() and key.isprintable() and key.strip() == key and key):
            raise ConfigError(
                "DELIVERY_MAILGUN_SIGNING_KEY must be the HTTP webhook signing key: printable "
                "ASCII without spaces at its ends"
            )
        self._key = key.encode()
        self._clock = clock

    def is_signed(self, timestamp: object, token: object, signature: object) -> bool:
        """Whether the signature fits the token and a timestamp of the last minutes."""
        stamp = str(timestamp) if isinstance(timestamp, str | int) else ""
        if (
            not isinstance(token, str)
            or not isinstance(signature, str)
            or not 0 < len(token) <= 256
            or not token.isascii()
        ):
            return False
        if not is_recent(stamp, self._clock(), MAILGUN_TOLERANCE):
            return False
        own = hmac.new(self._key, (stamp + token).encode("utf-8", "replace"), hashlib.sha256)
        return hmac.compare_digest(own.hexdigest().encode(), signature.encode("utf-8", "replace"))


class PostmarkLogin:
    """User and password that stand in the URL of Postmark's webhooks.

    Args:
        login: ``user:password``.

    Raises:
        ConfigError: it has another shape.
    """

    def __init__(self, login: str) -> None:
        user, colon, password = login.partition(":")
        if not (colon and user and password and login.isascii() and login.isprintable()):
            raise ConfigError(
                "DELIVERY_POSTMARK_BASIC_AUTH must be user:password in printable ASCII, as in the "
                "webhook's URL https://user:password@…"
            )
        self._login = login.encode()

    def is_given(self, header: str) -> bool:
        """Whether an ``Authorization`` header holds this login."""
        scheme, _, value = header.strip().partition(" ")
        try:
            given = base64.b64decode(value.strip(), validate=True)
        except (ValueError, binascii.Error):
            given = b""
        is_same = hmac.compare_digest(given, self._login)
        return is_same and scheme.lower() == "basic"


def is_recent(stamp: str, now: float, tolerance: float) -> bool:
    """Whether epoch seconds in digits are within ``tolerance`` seconds of ``now``."""
    if not re.fullmatch("[0-9]{1,12}", stamp):
        return False
    return abs(int(stamp) - now) <= tolerance


def twilio_signature(secret: str, url: str, fields: list[tuple[str, str]]) -> str:
    """The ``X-Twilio-Signature`` of a form post; of a JSON post without fields.

    Source: https://www.twilio.com/docs/usage/security#validating-requests
    """
    text = url + "".join(name + value for name, value in sorted(set(fields)))
    digest = hmac.digest(secret.encode(), text.encode("utf-8", "replace"), hashlib.sha1)
    return base64.b64encode(digest).decode()
