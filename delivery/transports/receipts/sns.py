"""Amazon SNS messages: their shape, their certificate's address, their signature.

Owns: which URLs may be fetched for a message, and the check of its signature with a certificate.
Never does: fetch.

Source: Amazon SNS developer guide, "Verifying the signatures of Amazon SNS messages".
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from delivery.errors import ConfigError, InvalidReceipt

NOTIFICATION = "Notification"
SUBSCRIBE = "SubscriptionConfirmation"
UNSUBSCRIBE = "UnsubscribeConfirmation"
_SIGNED = {
    NOTIFICATION: ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    SUBSCRIBE: ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
}
_SIGNED[UNSUBSCRIBE] = _SIGNED[SUBSCRIBE]
_HASHES: Mapping[str, type[hashes.SHA1 | hashes.SHA256]] = {
    "1": hashes.SHA1,
    "2": hashes.SHA256,
}
_HOST = re.compile(r"sns\.[a-z0-9-]{1,40}\.amazonaws\.com(\.cn)?")
_CERTIFICATE = re.compile(r"/[A-Za-z0-9_-]{1,120}\.pem")
_ARN = re.compile(r"arn:aws(-[a-z]{2,10}){0,3}:sns:[a-z0-9-]{1,40}:[0-9]{12}:[A-Za-z0-9_.-]{1,256}")
MIN_RSA_BITS = 2_048
MAX_URL = 2_048


@dataclass(frozen=True, slots=True)
class SnsMessage:
    """One message of SNS, not verified yet.

    Attributes:
        signed: the text that its signature is over.
        url: of a confirmation: where it is confirmed.
    """

    kind: str
    topic: str
    body: str
    certificate_url: str
    version: str
    signature: bytes
    signed: bytes
    url: str | None


def check_topic(arn: str) -> str:
    """The topic's name from the settings.

    Raises:
        ConfigError: it has another shape.
    """
    if not _ARN.fullmatch(arn):
        raise ConfigError(
            "DELIVERY_SES_TOPIC_ARN must be a topic's ARN like "
            "arn:aws:sns:eu-west-1:123456789012:mail-receipts"
        )
    return arn


def read_message(body: Any) -> SnsMessage:
    """Read a message.

    Raises:
        InvalidReceipt: it is none (with raw message delivery there is no signature).
    """
    if not isinstance(body, dict):
        raise InvalidReceipt("the body must be a message of SNS, a JSON object")
    kind = body.get("Type")
    if not isinstance(kind, str) or kind not in _SIGNED:
        raise InvalidReceipt(
            "Type must be Notification, SubscriptionConfirmation or UnsubscribeConfirmation; "
            "switch raw message delivery off",
            field="Type",
        )
    needed = [*_SIGNED[kind], "SigningCertURL", "SignatureVersion", "Signature"]
    for name in needed:
        if name != "Subject" and not isinstance(body.get(name), str):
            raise InvalidReceipt(f"{name} must be a string", field=name)
    try:
        signature = base64.b64decode(body["Signature"], validate=True)
    except ValueError:
        signature = b""
    lines = [f"{name}\n{body[name]}\n" for name in _SIGNED[kind] if isinstance(body.get(name), str)]
    return SnsMessage(
        kind=kind,
        topic=body["TopicArn"],
        body=body["Message"],
        certificate_url=body["SigningCertURL"],
        version=body["SignatureVersion"],
        signature=signature,
        signed="".join(lines).encode("utf-8", "replace"),
        url=body.get("SubscribeURL") if kind != NOTIFICATION else None,
    )


def is_certificate_url(url: str) -> bool:
    """Whether a certificate may be fetched from here: https on a host of SNS, a plain file."""
    parts = _parts(url)
    return parts is not None and not parts.query and _CERTIFICATE.fullmatch(parts.path) is not None


def is_confirm_url(url: str) -> bool:
    """Whether a subscription may be confirmed here: https on a host of SNS."""
    parts = _parts(url)
    return parts is not None and parts.path == "/"


def is_signed(message: SnsMessage, certificate: bytes, now: datetime) -> bool:
    """Whether the signature is by this certificate, which must be valid now.

    Args:
        certificate: PEM.
    """
    algorithm = _HASHES.get(message.version)
    try:
        found = x509.load_pem_x509_certificate(certificate)
        key = found.public_key()
        is_valid = found.not_valid_before_utc <= now <= found.not_valid_after_utc
        if algorithm is None or not is_valid or not isinstance(key, rsa.RSAPublicKey):
            return False
        if key.key_size < MIN_RSA_BITS:
            return False
        key.verify(message.signature, message.signed, padding.PKCS1v15(), algorithm())
    except (ValueError, InvalidSignature):
        return False
    return True


def _parts(url: str) -> Any:
    """The parts of an https URL of SNS; ``None`` for any other, however it is disguised."""
    if len(url) > MAX_URL or not url.isascii() or not url.isprintable() or "\\" in url:
        return None
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    # The whole authority, so that no user name or port stands before or after the host.
    is_ours = parts.scheme == "https" and _HOST.fullmatch(parts.netloc) is not None
    return parts if is_ours and port is None and not parts.fragment else None
