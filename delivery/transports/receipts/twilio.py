"""Twilio: statuses of a text, as a form or as JSON.

A text of several segments has one SID and one status; a status may come late, twice or out of
order.

Source: Twilio, "Outbound message status in status callbacks".
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from delivery.domain.channels import Channel
from delivery.domain.users.receipts import ProviderReceipt, ReceiptStatus, Suppress
from delivery.errors import InvalidReceipt
from delivery.transports.receipts import fields

logger = logging.getLogger(__name__)

NAME = "twilio"
MAX_REPORTS = 100
_STATUSES = {
    "delivered": ReceiptStatus.DELIVERED,
    "read": ReceiptStatus.DELIVERED,
    "undelivered": ReceiptStatus.UNDELIVERED,
    "failed": ReceiptStatus.FAILED,
    "canceled": ReceiptStatus.FAILED,
}
# A filtered text (30007) or an unknown fault (30008) says nothing about the number.
# Source: Twilio's error dictionary.
_ABOUT_NUMBER = {
    "21211": Suppress.INVALID_NUMBER,
    "21214": Suppress.INVALID_NUMBER,  # cannot be reached at all
    "21217": Suppress.INVALID_NUMBER,
    "21614": Suppress.INVALID_NUMBER,  # not a mobile
    "30005": Suppress.INVALID_NUMBER,  # unknown
    "30006": Suppress.INVALID_NUMBER,  # a landline, or no carrier
    "21610": Suppress.COMPLAINT,  # answered STOP
    "30003": Suppress.SOFT_BOUNCE,  # switched off, or out of reach
    "30004": Suppress.SOFT_BOUNCE,  # takes no texts now
}


def suppress_by_twilio(code: str | None) -> Suppress | None:
    """What an error code of the API or of a status callback says about the number."""
    return None if code is None else _ABOUT_NUMBER.get(code)


def receipts_of(body: Any) -> list[ProviderReceipt]:
    """The receipts in one post: an object, or a list of them; a status on the way is left out, and
    so is a report that names no message among others that do.

    Raises:
        InvalidReceipt: no report names a message.
    """
    reports = body if isinstance(body, list) else [body]
    if len(reports) > MAX_REPORTS:
        raise InvalidReceipt(f"the list has over {MAX_REPORTS} reports")
    found: list[ProviderReceipt | None] = []
    faults: list[InvalidReceipt] = []
    for report in reports:
        try:
            found.append(_receipt(fields.report(report)))
        except InvalidReceipt as fault:
            faults.append(fault)
    if faults and not found:
        raise faults[0]
    if faults:
        logger.warning("callback twilio: %d reports are left out: %s", len(faults), faults[0])
    return [receipt for receipt in found if receipt is not None]


def _receipt(report: Mapping[str, Any]) -> ProviderReceipt | None:
    # Events of Twilio's event streams hold the same fields, in another case, in ``data``.
    inner = fields.inside(report, "data") or report
    given = {name.lower(): value for name, value in inner.items()}
    sid = fields.name_of(given.get("messagesid") or given.get("smssid"), "MessageSid")
    name = fields.words(given.get("messagestatus") or given.get("smsstatus")) or ""
    status = _STATUSES.get(name.lower())
    if status is None:
        return None
    code = fields.code(given.get("errorcode")) if status.is_failure else None
    code = None if code == "0" else code
    return ProviderReceipt(
        Channel.SMS,
        NAME,
        status,
        (sid,),
        address=fields.words(given.get("to")),
        code=code,
        text=fields.words(given.get("errormessage")) if status.is_failure else None,
        suppress=suppress_by_twilio(code),
    )
