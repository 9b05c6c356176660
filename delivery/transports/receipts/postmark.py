"""Postmark: one record in each post.

Source: Postmark developer documentation, "Webhooks" and "Bounce types".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from delivery.domain.channels import Channel
from delivery.domain.users.receipts import (
    ProviderReceipt,
    ReceiptStatus,
    Suppress,
    enhanced_code,
    suppress_bounce,
)
from delivery.transports.receipts import fields

NAME = "postmark"
_STATUSES = {
    "Delivery": ReceiptStatus.DELIVERED,
    "Bounce": ReceiptStatus.BOUNCED,
    "SpamComplaint": ReceiptStatus.COMPLAINED,
    "Open": ReceiptStatus.OPENED,
    "Click": ReceiptStatus.CLICKED,
    "SubscriptionChange": ReceiptStatus.UNSUBSCRIBED,
}
_BY_TYPE = {
    "HardBounce": Suppress.HARD_BOUNCE,
    "BadEmailAddress": Suppress.HARD_BOUNCE,
    "ManuallyDeactivated": Suppress.HARD_BOUNCE,
    "SoftBounce": Suppress.SOFT_BOUNCE,
    "Transient": Suppress.SOFT_BOUNCE,
    "DnsError": Suppress.SOFT_BOUNCE,
}
# Answers of people and machines, which say nothing about the delivery.
_NO_BOUNCE = frozenset(
    {
        "AddressChange",
        "AutoResponder",
        "ChallengeVerification",
        "OpenRelayTest",
        "Subscribe",
        "Unconfirmed",
    }
)


def receipts_of(body: Any) -> list[ProviderReceipt]:
    """The receipt in one post; none for kinds that say nothing about a delivery.

    Raises:
        InvalidReceipt: the body is no record of Postmark.
    """
    record = fields.report(body)
    status = _STATUSES.get(fields.required(record, "RecordType"))
    kind = record.get("Type")
    if status is ReceiptStatus.BOUNCED:
        status = _bounce(kind)
    if status is ReceiptStatus.UNSUBSCRIBED and record.get("SuppressSending") is not True:
        status = ReceiptStatus.UNSUBSCRIBED if kind == "Unsubscribe" else None
    if status is None:
        return []
    words = fields.words(record.get("Details")) or fields.words(record.get("Description"))
    code = enhanced_code(words or "")
    return [
        ProviderReceipt(
            Channel.EMAIL,
            NAME,
            status,
            fields.references(
                _metadata(fields.inside(record, "Metadata")),
                fields.header(record.get("Headers"), "Message-ID"),
                record.get("MessageID"),
            ),
            address=fields.words(record.get("Email") or record.get("Recipient")),
            code=(code or fields.code(kind)) if status.is_failure else None,
            text=words if status.is_failure else None,
            suppress=_suppress(status, kind, code),
            at=_at(record),
        )
    ]


def _bounce(kind: Any) -> ReceiptStatus | None:
    if kind in ("SpamComplaint", "Unsubscribe"):
        is_complaint = kind == "SpamComplaint"
        return ReceiptStatus.COMPLAINED if is_complaint else ReceiptStatus.UNSUBSCRIBED
    is_answer = isinstance(kind, str) and kind in _NO_BOUNCE
    return None if is_answer else ReceiptStatus.BOUNCED


def _suppress(status: ReceiptStatus, kind: Any, code: str | None) -> Suppress | None:
    if status is ReceiptStatus.COMPLAINED:
        return Suppress.COMPLAINT
    if status is not ReceiptStatus.BOUNCED:
        return None
    verdict = _BY_TYPE.get(kind) if isinstance(kind, str) else None
    if verdict is None:
        return None  # blocked, spam, virus, DMARC: about us or the message
    if kind == "HardBounce" and code is not None:
        return suppress_bounce(code, is_permanent=True)
    return verdict


def _metadata(metadata: Mapping[str, Any]) -> Any:
    """The reference among metadata, whose names Postmark may write in another case."""
    return next(
        (value for name, value in metadata.items() if name.lower() == fields.REFERENCE), None
    )


def _at(record: Mapping[str, Any]) -> Any:
    names = ("DeliveredAt", "BouncedAt", "ReceivedAt", "ChangedAt")
    return next((at for name in names if (at := fields.instant(record.get(name)))), None)
