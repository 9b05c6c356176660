"""Reports in the shape of Resend's: ``{"type": "email.bounced", "data": {…}}``.

Resend posts them, and so may any provider or relay that signs as in Standard Webhooks.

Source: Resend, "Webhook event types".
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
    suppress_by_code,
)
from delivery.transports.receipts import fields

RESEND = "resend"
PLAIN = "email-provider"
_STATUSES = {
    "email.delivered": ReceiptStatus.DELIVERED,
    "email.delivery_delayed": ReceiptStatus.DEFERRED,
    "email.bounced": ReceiptStatus.BOUNCED,
    "email.complained": ReceiptStatus.COMPLAINED,
    "email.failed": ReceiptStatus.FAILED,
    "email.suppressed": ReceiptStatus.FAILED,
    "email.opened": ReceiptStatus.OPENED,
    "email.clicked": ReceiptStatus.CLICKED,
}

_DETAILS = {"email.bounced": "bounce", "email.failed": "failed", "email.suppressed": "suppressed"}


def receipts_of(body: Any, provider: str = RESEND) -> list[ProviderReceipt]:
    """The receipt in one post; none for kinds that say nothing about a delivery.

    Args:
        provider: ``PLAIN`` must name the message in ``data.message_id``.

    Raises:
        InvalidReceipt: names the field that is wrong.
    """
    report = fields.report(body)
    kind = fields.required(report, "type")
    data = fields.inside(report, "data")
    message_id = data.get("message_id")
    if provider == PLAIN:
        message_id = fields.name_of(message_id, "data.message_id")
    status = _STATUSES.get(kind)
    if status is None:
        return []
    details = fields.inside(data, _DETAILS.get(kind, ""))
    words = _words(details) or _words(data)
    code = enhanced_code(words or "") or fields.code(details.get("code") or data.get("code"))
    return [
        ProviderReceipt(
            Channel.EMAIL,
            provider,
            status,
            fields.references(
                fields.tag(data.get("tags"), fields.REFERENCE),
                message_id,
                fields.header(data.get("headers"), "Message-ID"),
                data.get("email_id"),
            ),
            address=fields.words(fields.first(data.get("to")) or data.get("email")),
            code=code or fields.code(details.get("subType")) if status.is_failure else None,
            text=words if status.is_failure else None,
            suppress=_suppress(kind, _verdict(details, data), code),
            at=fields.instant(report.get("created_at") or report.get("timestamp")),
        )
    ]


def _words(details: Mapping[str, Any]) -> str | None:
    found = fields.first(details.get("diagnosticCode"))
    return fields.words(found or details.get("message") or details.get("reason"))


def _verdict(details: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """The kind of a bounce in lower case; a bounce of no kind is permanent, as Resend's are."""
    found = details.get("type") or data.get("bounce_type") or data.get("bounce")
    return found.lower() if isinstance(found, str) else "permanent"


def _suppress(kind: str, verdict: str, code: str | None) -> Suppress | None:
    if kind == "email.complained":
        return Suppress.COMPLAINT
    if kind == "email.suppressed":
        return Suppress.HARD_BOUNCE
    if kind != "email.bounced":
        return None
    is_enhanced = code is not None and code.count(".") == 2
    if verdict == "undetermined":
        return suppress_by_code(code) if is_enhanced and code else None
    return suppress_bounce(
        code if is_enhanced else None, is_permanent=verdict in ("permanent", "hard", "hardbounce")
    )
