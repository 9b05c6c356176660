"""Amazon SES: notifications and events, as SNS carries them.

Source: Amazon SES developer guide, "Contents of event data that Amazon SES publishes to Amazon
SNS" and "Amazon SNS notification contents".
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

NAME = "ses"
_PLAIN = {
    "Delivery": (ReceiptStatus.DELIVERED, "delivery"),
    "DeliveryDelay": (ReceiptStatus.DEFERRED, "deliveryDelay"),
    "Open": (ReceiptStatus.OPENED, "open"),
    "Click": (ReceiptStatus.CLICKED, "click"),
    "Subscription": (ReceiptStatus.UNSUBSCRIBED, "subscription"),
    "Reject": (ReceiptStatus.FAILED, "reject"),
    "Rendering Failure": (ReceiptStatus.FAILED, "failure"),
}
_NO_ADDRESS = frozenset({"NoEmail", "Suppressed", "OnAccountSuppressionList"})
_ABOUT_MESSAGE = frozenset(
    {"ContentRejected", "AttachmentRejected", "MessageTooLarge", "CustomTimeoutExceeded"}
)
MAX_RECIPIENTS = 50


def receipts_of(body: Any) -> list[ProviderReceipt]:
    """The receipts in one event; none for kinds that say nothing about a delivery.

    Raises:
        InvalidReceipt: the body is no event of SES.
    """
    event = fields.report(body)
    kind = event.get("eventType") or fields.required(event, "notificationType")
    names = _references(fields.inside(event, "mail"))
    if kind == "Bounce":
        return _bounces(fields.inside(event, "bounce"), names)
    if kind == "Complaint":
        return _complaints(fields.inside(event, "complaint"), names)
    if not isinstance(kind, str) or kind not in _PLAIN:
        return []
    status, part = _PLAIN[kind]
    details = fields.inside(event, part)
    return [
        ProviderReceipt(
            Channel.EMAIL,
            NAME,
            status,
            names,
            address=fields.words(fields.first(details.get("recipients"))),
            code=fields.code(details.get("delayType")),
            text=fields.words(details.get("reason") or details.get("errorMessage")),
            at=fields.instant(details.get("timestamp")),
        )
    ]


def _references(mail: Mapping[str, Any]) -> tuple[str, ...]:
    common, headers = fields.inside(mail, "commonHeaders"), mail.get("headers")
    return fields.references(
        fields.tag(mail.get("tags"), fields.REFERENCE),
        # SES puts an id of its own into the mail; these are as we sent them.
        common.get("messageId"),
        fields.header(headers, "Message-ID"),
        mail.get("messageId"),
    )


def _bounces(bounce: Mapping[str, Any], names: tuple[str, ...]) -> list[ProviderReceipt]:
    kind, detail = bounce.get("bounceType"), bounce.get("bounceSubType")
    found = []
    for one in _recipients(bounce, "bouncedRecipients"):
        words = fields.words(one.get("diagnosticCode"))
        status = fields.code(one.get("status")) or enhanced_code(words or "")
        found.append(
            ProviderReceipt(
                Channel.EMAIL,
                NAME,
                ReceiptStatus.BOUNCED,
                names,
                address=fields.words(one.get("emailAddress")),
                code=status or fields.code(detail),
                text=words or fields.words(detail),
                suppress=_suppress(kind, detail, status),
                at=fields.instant(bounce.get("timestamp")),
            )
        )
    return found


def _suppress(kind: Any, detail: Any, code: str | None) -> Suppress | None:
    if kind == "Permanent" and detail in _NO_ADDRESS:
        return Suppress.HARD_BOUNCE
    if detail in _ABOUT_MESSAGE:
        return None
    if kind == "Undetermined":
        return suppress_by_code(code) if code else None
    return suppress_bounce(code, is_permanent=kind == "Permanent")


def _complaints(complaint: Mapping[str, Any], names: tuple[str, ...]) -> list[ProviderReceipt]:
    kind = complaint.get("complaintFeedbackType")
    if kind == "not-spam":
        return []
    return [
        ProviderReceipt(
            Channel.EMAIL,
            NAME,
            ReceiptStatus.COMPLAINED,
            names,
            address=fields.words(one.get("emailAddress")),
            code=fields.code(kind) or fields.code(complaint.get("complaintSubType")),
            suppress=Suppress.COMPLAINT,
            at=fields.instant(complaint.get("timestamp")),
        )
        for one in _recipients(complaint, "complainedRecipients")
    ]


def _recipients(part: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    listed = part.get(name)
    found = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    # A report that names no recipient is still one about the message.
    return list(found[:MAX_RECIPIENTS]) or [{}]
