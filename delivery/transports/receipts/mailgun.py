"""Mailgun: one event in each post, with its signature in the body.

Source: Mailgun, "Webhook payloads" and "Event structure".
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

NAME = "mailgun"
_STATUSES = {
    "delivered": ReceiptStatus.DELIVERED,
    "failed": ReceiptStatus.BOUNCED,
    "rejected": ReceiptStatus.FAILED,
    "complained": ReceiptStatus.COMPLAINED,
    "opened": ReceiptStatus.OPENED,
    "clicked": ReceiptStatus.CLICKED,
    "unsubscribed": ReceiptStatus.UNSUBSCRIBED,
}
_BY_REASON = {
    "suppress-bounce": Suppress.HARD_BOUNCE,
    "suppress-complaint": Suppress.COMPLAINT,
    "suppress-unsubscribe": None,
    "old": Suppress.SOFT_BOUNCE,  # given up after hours of temporary refusals
}


def receipts_of(body: Any) -> list[ProviderReceipt]:
    """The receipt in one post; none for kinds that say nothing about a delivery.

    Raises:
        InvalidReceipt: there is no event in it.
    """
    event = fields.inside(fields.report(body), "event-data")
    status = _STATUSES.get(fields.required(event, "event"))
    if status is None:
        return []
    if status is ReceiptStatus.BOUNCED and event.get("severity") == "temporary":
        status = ReceiptStatus.DEFERRED  # Mailgun tries again
    answer = fields.inside(event, "delivery-status")
    words = fields.words(answer.get("message") or answer.get("description"))
    words = words or fields.words(fields.inside(event, "reject").get("reason"))
    code = fields.code(answer.get("enhanced-code")) or enhanced_code(words or "")
    return [
        ProviderReceipt(
            Channel.EMAIL,
            NAME,
            status,
            fields.references(
                fields.inside(event, "user-variables").get(fields.REFERENCE),
                fields.inside(fields.inside(event, "message"), "headers").get("message-id"),
            ),
            address=fields.words(event.get("recipient")),
            code=code or fields.code(answer.get("code")) if status in _WITH_CODE else None,
            text=words if status.is_failure else None,
            suppress=_suppress(status, event, answer, code),
            at=fields.instant(event.get("timestamp")),
        )
    ]


_WITH_CODE = (ReceiptStatus.BOUNCED, ReceiptStatus.FAILED, ReceiptStatus.DEFERRED)


def _suppress(
    status: ReceiptStatus, event: Mapping[str, Any], answer: Mapping[str, Any], code: str | None
) -> Suppress | None:
    if status is ReceiptStatus.COMPLAINED:
        return Suppress.COMPLAINT
    reason = event.get("reason")
    if status is not ReceiptStatus.BOUNCED:
        return None
    if isinstance(reason, str) and reason in _BY_REASON:
        return _BY_REASON[reason]
    if reason == "generic" and code is None:
        return None
    return suppress_bounce(code, is_permanent=answer.get("bounce-type") != "soft")
