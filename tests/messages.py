"""Builders of events and messages for the tests of the last mile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from delivery import testing
from delivery.domain.event import Event, EventClass
from delivery.domain.operators.figures import AlertGroup
from delivery.domain.transports import Message
from delivery.domain.users.contact import Contact

AT = datetime(2026, 11, 1, 9, 0, tzinfo=UTC)
CONFIRM = "https://delivery.example.org/confirm/token-1?a=1&b=2"
UNSUBSCRIBE = "https://delivery.example.org/unsubscribe/" + "t" * 200


def make_event(
    number: int = 1,
    event_type: str = "agent_completed",
    data: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Event:
    """Event number ``number`` of ``run-7``, a second after the one before."""
    values: dict[str, Any] = {
        "id": f"01900000-0000-7000-8000-{number:012d}",
        "type": event_type,
        "user_id": "ada",
        "run_id": "run-7",
        "seq": number,
        "at": AT + timedelta(seconds=number),
        "event_class": EventClass.CRITICAL,
        "data": {} if data is None else data,
    }
    return testing.make_event(**values | fields)


def make_message(
    *,
    key: str = "digest-1",
    events: Sequence[Event] = (),
    run_id: str | None = "run-7",
    contact: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Message:
    """A message to Ada, who has every kind of address."""
    address = {"email": "ada@example.org", "phone": "+491701234567"} | dict(contact or {})
    values: dict[str, Any] = {
        "key": key,
        "user_id": "ada",
        "run_id": run_id,
        "events": tuple(events) or (make_event(),),
        "contact": Contact("ada", **address),
        "confirm_url": CONFIRM,
        "unsubscribe_url": UNSUBSCRIBE,
    }
    return Message(**values | fields)


def make_group(**fields: Any) -> AlertGroup:
    """A firing alert for critical events."""
    values: dict[str, Any] = {
        "id": "group-1",
        "event_class": EventClass.CRITICAL,
        "since": AT,
        "count": 3,
        "users": 2,
        "sample": ("id-1", "id-2"),
        "notified_at": None,
        "is_new": True,
    }
    return AlertGroup(**values | fields)
