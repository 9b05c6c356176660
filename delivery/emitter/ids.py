"""Event ids: UUIDv7, made here and nowhere else in the gateway's process.

Ids of one process increase, so that the ledger's index grows at its end.
Source: RFC 9562, section 5.7.
"""

from __future__ import annotations

from uuid_utils import uuid7


def new_event_id() -> str:
    """A canonical lower-case UUIDv7."""
    return str(uuid7())
