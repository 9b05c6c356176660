"""Story 1: the page is open. Five events arrive live, in order, and each is known to have."""

from __future__ import annotations

import asyncio
import re

from delivery.domain.event import AGENT_TYPES
from tests.acceptance.conftest import Start
from tests.wire import eventually, listening


async def test_five_events_arrive_in_order_and_are_confirmed_with_who_what_and_when(
    start: Start,
) -> None:
    service = start()
    async with listening(service.url, service.token("ada"), device="laptop") as listener:
        ids = await asyncio.to_thread(service.emit, "ada", "run-1")
        events = await listener.receive(5)
        assert [event["id"] for event in events] == ids
        assert [event["type"] for event in events] == list(AGENT_TYPES)
        assert [event["seq"] for event in events] == [1, 2, 3, 4, 5]
        await eventually(lambda: service.states(ids), lambda states: set(states) == {"confirmed"})
    timeline = service.event(ids[0])
    assert timeline["due_at"] is None
    (confirmation,) = timeline["confirmations"]
    assert (confirmation["channel"], confirmation["by"]) == ("websocket", "laptop")
    assert confirmation["evidence"] == listener.welcome["connection_id"]
    assert re.match(r"\d{4}-\d\d-\d\dT.*Z$", confirmation["at"])
    assert {channel for channel, _ in service.outcomes(ids[0])} <= {"websocket"}
    assert listener.ids == ids, "no event came twice"
    assert service.process.stop() == 0


async def test_an_event_reaches_only_its_user(start: Start) -> None:
    service = start()
    async with (
        listening(service.url, service.token("ada")) as ada,
        listening(service.url, service.token("bob")) as bob,
    ):
        ids = await asyncio.to_thread(service.emit, "ada", "run-1")
        mine = await asyncio.to_thread(service.emit, "bob", "run-2", ("agent_started",))
        await ada.receive(5)
        await bob.receive(1)
        assert (ada.ids, bob.ids) == (ids, mine)


async def test_stopping_sends_the_client_elsewhere_and_loses_nothing(start: Start) -> None:
    service = start(ack_timeout=30.0)
    async with listening(service.url, service.token("ada"), acks=False) as listener:
        ids = await asyncio.to_thread(service.emit, "ada", "run-1")
        await listener.receive(5)
        assert await asyncio.to_thread(service.process.stop) == 0
        await listener.until(lambda: listener.frames[-1]["type"] == "reconnect")
    again = start(ack_timeout=30.0)
    async with listening(again.url, again.token("ada")) as listener:
        await listener.receive(5)
        assert listener.ids == ids


async def test_what_was_accepted_survives_a_kill(start: Start) -> None:
    service = start(ack_timeout=30.0)
    ids = service.emit("ada", "run-1")
    service.process.kill()
    again = start(ack_timeout=30.0)
    async with listening(again.url, again.token("ada")) as listener:
        await listener.receive(5)
        assert listener.ids == ids
        await eventually(lambda: again.states(ids), lambda states: set(states) == {"confirmed"})
