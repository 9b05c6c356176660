"""Twilio SendGrid: events, many in one post.

Source: Twilio SendGrid, "Event webhook reference".
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from delivery.domain.channels import Channel
from delivery.domain.users.receipts import (
    ProviderReceipt,
    ReceiptStatus,
    Suppress,
    enhanced_code,
    suppress_bounce,
    suppress_by_code,
)
from delivery.errors import InvalidReceipt
from delivery.transports.receipts import fields

logger = logging.getLogger(__name__)

NAME = "sendgrid"
MAX_EVENTS = 1_000
_STATUSES = {
    "delivered": ReceiptStatus.DELIVERED,
    "deferred": ReceiptStatus.DEFERRED,
    "bounce": ReceiptStatus.BOUNCED,
    "dropped": ReceiptStatus.FAILED,
    "spamreport": ReceiptStatus.COMPLAINED,
    "open": ReceiptStatus.OPENED,
    "click": ReceiptStatus.CLICKED,
    "unsubscribe": ReceiptStatus.UNSUBSCRIBED,
    "group_unsubscribe": ReceiptStatus.UNSUBSCRIBED,
}
_DROPPED = {
    "bounced address": Suppress.HARD_BOUNCE,
    "invalid": Suppress.HARD_BOUNCE,
    "spam reporting address": Suppress.COMPLAINT,
}


def receipts_of(body: Any) -> list[ProviderReceipt]:
    """The receipts in one post; kinds that say nothing about a delivery are left out, and so are
    items that are no events among others that are.

    Raises:
        InvalidReceipt: the body is no list of events.
    """
    events = [one for one in body if isinstance(one, dict)] if isinstance(body, list) else []
    if not isinstance(body, list) or (body and not events):
        raise InvalidReceipt("the body must be a list of events, JSON objects")
    if len(body) > MAX_EVENTS:
        raise InvalidReceipt(f"the list has over {MAX_EVENTS} events")
    if len(events) < len(body):
        logger.warning("callback sendgrid: %d items are no events", len(body) - len(events))
    return [receipt for event in events if (receipt := _receipt(event)) is not None]


def _receipt(event: Mapping[str, Any]) -> ProviderReceipt | None:
    kind = event.get("event")
    status = _STATUSES.get(kind) if isinstance(kind, str) else None
    if status is None:
        return None
    words = fields.words(event.get("reason") or event.get("response"))
    code = fields.code(event.get("status")) or enhanced_code(words or "")
    return ProviderReceipt(
        Channel.EMAIL,
        NAME,
        status,
        fields.references(
            event.get(fields.REFERENCE),
            fields.inside(event, "unique_args").get(fields.REFERENCE),
            event.get("smtp-id"),
            event.get("sg_message_id"),
        ),
        address=fields.words(event.get("email")),
        code=code if status.is_failure or status is ReceiptStatus.DEFERRED else None,
        text=words if status.is_failure else None,
        suppress=_suppress(status, event, code),
        at=fields.instant(event.get("timestamp")),
    )


def _suppress(status: ReceiptStatus, event: Mapping[str, Any], code: str | None) -> Suppress | None:
    if status is ReceiptStatus.COMPLAINED:
        return Suppress.COMPLAINT
    if status is ReceiptStatus.FAILED:
        return _DROPPED.get(str(event.get("reason")).strip().lower())
    if status is not ReceiptStatus.BOUNCED:
        return None
    kind = str(event.get("bounce_classification")).lower()
    if kind == "invalid address":
        return Suppress.HARD_BOUNCE
    if event.get("type") == "blocked":
        # Refused now, often for our sake: SendGrid itself goes on sending to the address.
        soft = Suppress.SOFT_BOUNCE if kind == "mailbox unavailable" else None
        return (suppress_by_code(code) if code else None) or soft
    return suppress_bounce(code, is_permanent=True)
