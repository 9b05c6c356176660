"""Ephemeral pieces of text for a client that reads rarely: merged while they wait, or not.

Owns: a connection's outbound without a socket, since a socket's buffers hold an amount that differs
from system to system.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from delivery.domain.event import Event, EventClass
from delivery.emitter.validate import new_event_id
from delivery.gateway.in_flight import InFlight
from delivery.gateway.outbound import PIECES, Outbound
from delivery.protocol import Limits, encode_event

PIECE = "a few words, "
MERGED = PIECES[0]
SINGLE = "x" * len(MERGED)
"""A name as long as that of mergeable text, which is not merged."""


def read_slowly(*, events: int, behind: int, is_merged: bool) -> dict[str, Any]:
    """Push pieces one by one; the reader takes what waits each time ``behind`` more were pushed.

    Returns:
        What arrived: ``frames``, ``events``, ``bytes`` and the share of the ``text``; and processor
        time per pushed event in microseconds.
    """
    limits = Limits()
    in_flight = InFlight(limits.max_in_flight)
    outbound = Outbound(in_flight, limits.max_queue)
    outbound.take_page((), is_last=True)
    outbound.next_batch()  # it is live from here
    name = MERGED if is_merged else SINGLE
    got = {"frames": 0, "events": 0, "bytes": 0, "text": 0.0}
    started = time.process_time()
    for number in range(1, events + 1):
        event = _event({name: PIECE})
        outbound.push((event, encode_event(event)))
        outbound.settle()  # a model's words come each in a turn of its own
        if number % behind == 0 or number == events:
            _take(outbound, in_flight, name, got)
    took = time.process_time() - started
    got["text"] /= events * len(PIECE)
    return got | {"us_per_event": took / events * 1e6}


def _take(outbound: Outbound, in_flight: InFlight, name: str, got: dict[str, Any]) -> None:
    while (batch := outbound.next_batch()) is not None:
        events, encoded, is_durable = batch
        in_flight.on_push(events, 0.0, is_durable=is_durable)
        got["frames"] += 1
        got["events"] += len(events)
        got["bytes"] += sum(map(len, encoded))
        got["text"] += sum(len(event.data[name]) for event in events)


def _event(data: dict[str, Any]) -> Event:
    return Event.of(
        id=new_event_id(),
        type="token_delta",
        user_id="user-0",
        run_id="run-0",
        seq=None,
        at=datetime.now(UTC),
        event_class=EventClass.EPHEMERAL,
        data=data,
    )
