"""Bounces and complaints that come as mails: delivery status notifications and feedback reports.

Owns: finding the reported message and the verdict in one mail. Never does: trust its address: any
stranger can write such a mail, so it is no more than a report about the message that it names.

Source: RFC 3464 (delivery status notifications), RFC 6522 (multipart/report), RFC 5965 (feedback
reports).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import Message
from email.utils import parsedate_to_datetime

from delivery.domain.channels import Channel
from delivery.domain.users.receipts import (
    ProviderReceipt,
    ReceiptStatus,
    Suppress,
    enhanced_code,
    suppress_bounce,
)
from delivery.errors import InvalidReceipt
from delivery.transports.receipts import fields

DSN = "dsn"
FEEDBACK = "feedback-report"
MAX_MAIL = 1 << 20
MAX_PARTS = 100
MAX_RECIPIENTS = 20
MAX_NAMES = 20
_PART = re.compile(rb"content-type", re.IGNORECASE)
_NAME = re.compile(r"<[^<>\s]{1,250}>")
_ACTIONS = {
    "failed": ReceiptStatus.BOUNCED,
    "delayed": ReceiptStatus.DEFERRED,
    "delivered": ReceiptStatus.DELIVERED,
    "relayed": ReceiptStatus.DELIVERED,
    "expanded": ReceiptStatus.DELIVERED,
}


def receipts_of(raw: bytes) -> list[ProviderReceipt]:
    """The receipts in one mail; none in a mail that is no report.

    Raises:
        InvalidReceipt: it is empty, over ``MAX_MAIL`` bytes, or nested beyond reason.
    """
    if not raw.strip():
        raise InvalidReceipt("the mail is empty")
    if len(raw) > MAX_MAIL:
        raise InvalidReceipt(f"the mail is over {MAX_MAIL} bytes")
    if len(_PART.findall(raw)) > MAX_PARTS:
        raise InvalidReceipt(f"the mail has over {MAX_PARTS} parts")
    mail = message_from_bytes(raw, policy=policy.compat32)
    parts = _parts(mail)
    names = _names(mail, parts)
    if (status := parts.get("message/delivery-status")) is not None:
        return _notifications(status, names)
    if (feedback := parts.get("message/feedback-report")) is not None:
        return _feedback(feedback, names)
    return []


def _parts(mail: Message) -> dict[str, Message]:
    """The first part of each type in the report: the mail, or a part of it that a gateway put into
    another mail."""
    for report in (mail, *_children(mail)):
        if report.get_content_type() == "multipart/report":
            parts: dict[str, Message] = {}
            for part in _children(report):
                parts.setdefault(part.get_content_type(), part)
            return parts
    return {}


def _children(part: Message) -> list[Message]:
    payload = part.get_payload()
    return [one for one in payload if isinstance(one, Message)] if isinstance(payload, list) else []


def _names(mail: Message, parts: dict[str, Message]) -> tuple[str, ...]:
    """Names of the reported message: its own ``Message-ID``, then what the report refers to."""
    found: list[str] = []
    for kind in ("message/rfc822", "text/rfc822-headers", "message/global-headers"):
        part = parts.get(kind)
        if part is None:
            continue
        inner = _children(part)
        found.append(_text(inner[0] if inner else _headers(part), "Message-ID"))
    status = parts.get("message/delivery-status")
    for block in _blocks(status) if status is not None else ():
        found += [_text(block, name) for name in ("Original-Message-ID", "Original-Envelope-Id")]
    for name in ("Original-Message-ID", "In-Reply-To", "References"):
        found += _NAME.findall(_text(mail, name))
    return fields.references(*found)[:MAX_NAMES]


def _headers(part: Message) -> Message:
    body = part.get_payload(decode=True)
    raw = body if isinstance(body, bytes) else b""
    return message_from_bytes(raw, policy=policy.compat32)


def _text(part: Message, name: str) -> str:
    value = part.get(name)
    return " ".join(str(value)[:4_000].split()) if value is not None else ""


def _blocks(status: Message) -> Iterator[Message]:
    """The groups of fields of a delivery status: one of the message, then one of each recipient."""
    yield from _children(status)[: MAX_RECIPIENTS + 1]


def _notifications(status: Message, names: tuple[str, ...]) -> list[ProviderReceipt]:
    found = []
    for block in _blocks(status):
        kind = _ACTIONS.get(_text(block, "Action").lower())
        if kind is None:
            continue
        words = fields.words(_text(block, "Diagnostic-Code").rpartition(";")[2].strip())
        code = enhanced_code(_text(block, "Status")) or enhanced_code(words or "")
        is_bounce = kind is ReceiptStatus.BOUNCED
        found.append(
            ProviderReceipt(
                Channel.EMAIL,
                DSN,
                kind,
                names,
                address=_address(_text(block, "Original-Recipient"))
                or _address(_text(block, "Final-Recipient")),
                code=code,
                text=words if is_bounce else None,
                suppress=suppress_bounce(code, is_permanent=False) if is_bounce else None,
                is_authentic=False,
            )
        )
    return found


def _feedback(report: Message, names: tuple[str, ...]) -> list[ProviderReceipt]:
    inner = _children(report)
    block = inner[0] if inner else _headers(report)
    if _text(block, "Feedback-Type").lower() in ("", "not-spam"):
        return []
    try:
        at = parsedate_to_datetime(_text(block, "Arrival-Date"))
    except (ValueError, TypeError, IndexError, OverflowError):
        at = None
    return [
        ProviderReceipt(
            Channel.EMAIL,
            FEEDBACK,
            ReceiptStatus.COMPLAINED,
            names,
            address=_address(_text(block, "Original-Rcpt-To")) or None,
            code=fields.code(_text(block, "Feedback-Type")),
            suppress=Suppress.COMPLAINT,
            at=at if at is not None and at.tzinfo is not None else None,
            is_authentic=False,
        )
    ]


def _address(value: str) -> str | None:
    """``rfc822; ada@example.org`` -> the address."""
    return fields.words(value.partition(";")[2].strip() or value.strip().strip("<>"))
