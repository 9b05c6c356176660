"""What was acknowledged elsewhere makes room here, and can still be acknowledged here."""

from __future__ import annotations

from delivery.gateway.in_flight import InFlight
from tests.fast_path import make_event


def test_what_was_acknowledged_elsewhere_makes_room_once() -> None:
    in_flight = InFlight(3)
    events = [make_event() for _ in range(3)]
    in_flight.on_push(events, 0.0)
    assert in_flight.release([events[1].id, make_event().id])
    assert in_flight.room == 1
    assert not in_flight.release([events[1].id])
    assert in_flight.ids == (events[0].id, events[2].id)


def test_it_can_still_be_acknowledged_here_once() -> None:
    first, second, third = events = [make_event() for _ in range(3)]
    in_flight = InFlight(3)
    in_flight.on_push(events, 0.0)
    in_flight.release([first.id, third.id])
    assert in_flight.on_ack(2, [first.id], 1.0) == [second.id, first.id]
    assert in_flight.on_ack(None, [third.id], 1.0) == [third.id]
    assert in_flight.on_ack(3, [first.id, third.id], 1.0) == []


def test_one_that_is_sent_again_is_in_flight_again() -> None:
    event = make_event()
    in_flight = InFlight(1)
    in_flight.on_push([event], 0.0)
    in_flight.release([event.id])
    in_flight.on_push([event], 0.0)
    assert in_flight.ids == (event.id,)
    assert in_flight.on_ack(2, [], 1.0) == [event.id]


def test_the_memory_of_what_was_acknowledged_elsewhere_is_bounded() -> None:
    in_flight = InFlight(2, memory=100)
    events = [make_event() for _ in range(6)]
    for event in events:
        in_flight.on_push([event], 0.0)
        in_flight.release([event.id])
    assert in_flight.on_ack(6, [], 1.0) == [event.id for event in events[-2:]]
