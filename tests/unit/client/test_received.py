"""The event as a client gets it."""

from datetime import UTC, datetime

import pytest

from delivery.client.received import ReceivedEvent
from delivery.testing import make_event, make_id


def test_every_field_of_the_contract_is_an_attribute():
    event = ReceivedEvent(make_event(thread_id="t1", meta={"m": 1}).as_wire())
    assert (event.id, event.type, event.user_id, event.run_id) == (make_id(1), "note", "u1", "r1")
    assert (event.thread_id, event.seq, event.event_class) == ("t1", 1, "standard")
    assert (event.data, event.meta) == ({"text": "hello"}, {"m": 1})
    assert event.at == datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
    assert event.is_durable


def test_what_a_newer_service_adds_is_kept():
    event = ReceivedEvent({**make_event().as_wire(), "class": "urgent", "colour": "red"})
    assert event.event_class == "urgent"
    assert event.wire["colour"] == "red"


def test_it_cannot_be_written():
    with pytest.raises(AttributeError):
        ReceivedEvent(make_event().as_wire()).type = "other"  # type: ignore[misc]
