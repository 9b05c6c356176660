"""Disconnects: a few teardowns per turn; unacknowledged events handed over after a grace period."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence

import pytest

from delivery.domain.event import Event
from delivery.gateway import disconnects, outcomes
from delivery.gateway.connection import Connection
from delivery.gateway.disconnects import PER_TURN, ReconnectGrace, TeardownQueue
from tests.fast_path import World, make_event
from tests.waiting import until


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "GRACE", 0.05)


async def in_flight() -> tuple[World, Connection, Event]:
    """A client that has an event and did not acknowledge it."""
    world = World()
    connection, writer = await world.connect()
    world.node.emit(event := make_event())
    await until(lambda: writer.ids == [event.id])
    return world, connection, event


async def test_what_a_client_leaves_unacknowledged_goes_to_the_chain_soon() -> None:
    world, connection, event = await in_flight()
    connection.detach("the client left")
    assert world.node.ledger.operations.expedited == [], "it gets a moment to come back"
    await until(lambda: world.node.chain_calls == 1)
    assert world.node.ledger.operations.expedited == [event.id]


async def test_a_client_that_is_back_in_time_is_spared_the_chain() -> None:
    world, connection, event = await in_flight()
    connection.detach("the client left")
    _, again = await world.connect()
    assert again.ids == [event.id]
    world.node.emit(make_event("eve"))
    leaver, _ = await world.connect("eve")
    world.node.emit(other := make_event("eve"))
    await until(lambda: leaver.session.in_flight.n == 2)
    leaver.detach("the client left")
    await until(lambda: other.id in world.node.ledger.operations.expedited)
    assert event.id not in world.node.ledger.operations.expedited


async def test_another_device_spares_the_chain() -> None:
    world = World()
    connection, writer = await world.connect()
    await world.connect()
    world.node.emit(event := make_event())
    await until(lambda: writer.ids == [event.id])
    connection.detach("the client left")
    await asyncio.sleep(0)
    assert not world.context.outcomes._reconnect_grace._waiting


async def test_a_node_that_shuts_down_hands_nothing_over_on_leaving() -> None:
    world = World()
    _, writer = await world.connect()
    world.node.emit(event := make_event())
    await until(lambda: writer.ids == [event.id])
    world.registry.close_all("shutdown", 1.0)
    assert not world.context.outcomes._reconnect_grace._waiting


async def test_a_crowd_ends_a_few_per_turn_and_in_order() -> None:
    teardowns = TeardownQueue()
    ended: list[int] = []
    turns: list[int] = []

    def count() -> None:
        turns.append(len(ended))
        if len(ended) < 100:
            asyncio.get_running_loop().call_soon(count)

    def end(number: int) -> Callable[[], None]:
        return lambda: ended.append(number)

    for number in range(100):
        teardowns.add(end(number))
    count()
    await until(lambda: len(ended) == 100)
    assert ended == list(range(100))
    assert max(b - a for a, b in itertools.pairwise(turns)) <= PER_TURN


async def test_a_ledger_that_is_away_leaves_them_to_their_due_time() -> None:
    world, connection, _ = await in_flight()
    world.node.ledger.go_away()
    connection.detach("the client left")
    await until(lambda: not world.context.outcomes._reconnect_grace._task)
    assert world.node.ledger.operations.expedited == []
    assert world.node.chain_calls == 0


async def test_unacknowledged_events_are_handed_over_in_portions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(disconnects, "PORTION", 10)
    portions: list[int] = []

    async def hand_over(ids: Sequence[str]) -> None:
        portions.append(len(ids))

    left = ReconnectGrace(lambda user_id: user_id != "back", hand_over, 0.05)
    for number in range(6):
        left.add(f"user-{number}", ["id"] * 5)
    left.add("back", ["id"] * 5)
    await until(lambda: sum(portions) == 30)
    assert portions == [10, 10, 10]
    await until(lambda: left._ids == 0)


async def test_events_that_wait_for_their_client_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(disconnects, "MAX_IDS", 7)

    async def hand_over(ids: Sequence[str]) -> None:
        raise AssertionError("closed before")

    left = ReconnectGrace(lambda user_id: True, hand_over, 0.05)
    left.add("ada", ["id"] * 5)
    left.add("eve", ["id"] * 5)
    assert left._ids == 5
    left.close()
    assert left._ids == 0
