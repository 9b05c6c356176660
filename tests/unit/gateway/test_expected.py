"""Users whose connection was lost a moment ago: what is emitted for them waits for them."""

from __future__ import annotations

import pytest

from delivery.domain.event import EventClass
from delivery.domain.node_messages import PresenceChange
from delivery.gateway import expected, outcomes, registry
from delivery.gateway.expected import EXPECTED_FOR, ExpectedUsers
from delivery.protocol import Close, encode_event
from tests.fast_path import Clock, World, make_event
from tests.waiting import until


def push(world: World, *, event_class: EventClass = EventClass.CRITICAL) -> tuple[str, bool]:
    """Record and push an event as the emitter does; its id, and whether it waits."""
    event = make_event(event_class=event_class)
    world.node.ledger.add(event)
    pushed = world.registry.push(event, encode_event(event))
    if pushed.is_expected:
        world.registry.keep_waiting(event, is_recorded=True)
    return event.id, pushed.is_expected


def test_they_are_expected_for_a_while_and_forgotten_then() -> None:
    clock = Clock()
    users = ExpectedUsers(clock)
    users.add("ada")
    clock.now += 1.0
    users.add("eve")
    users.note_unrecorded("eve")
    assert "ada" in users
    clock.now += EXPECTED_FOR - 1.0
    assert "ada" not in users
    assert "eve" in users
    users.on_tick(clock.now)
    assert users.discard("eve"), "an event of hers was not committed yet"
    assert not users.discard("eve")
    assert not users._until


def test_they_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expected, "MAX_EXPECTED", 2)
    users = ExpectedUsers(Clock())
    for name in ("ada", "eve", "mia"):
        users.add(name)
    assert [name in users for name in ("ada", "eve", "mia")] == [True, True, False]


async def test_an_event_for_a_lost_client_waits_and_is_on_its_feed_when_it_is_back() -> None:
    world = World()
    connection, _ = await world.connect()
    connection.detach("the client left")
    event_id, waits = push(world)
    assert waits
    _, writer = await world.connect()
    await until(lambda: event_id in writer.ids)
    assert world.node.journal.hand_overs == []


async def test_a_client_that_said_farewell_is_not_expected() -> None:
    world = World()
    connection, _ = await world.connect()
    connection.has_left = True
    connection.detach("the client left")
    assert push(world)[1] is False


@pytest.mark.parametrize(
    ("code", "waits"),
    [
        (Close.FORCED_RECONNECT, True),
        (Close.TOKEN_EXPIRED, True),
        (Close.SLOW_CONSUMER, True),
        (Close.NO_PONG, False),
        (Close.OPERATOR, False),
        (Close.INVALID_TOKEN, False),
    ],
)
async def test_a_client_is_expected_if_its_close_code_asks_it_to_come_back(
    code: Close, waits: bool
) -> None:
    world = World()
    connection, _ = await world.connect()
    connection.close(code, "a test")
    assert push(world)[1] is waits


async def test_sign_in_events_do_not_wait() -> None:
    world = World()
    connection, _ = await world.connect()
    connection.detach("the client left")
    assert push(world, event_class=EventClass.AUTH)[1] is False


async def test_a_user_who_does_not_come_back_gets_the_chain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outcomes, "EXPECTED_FOR", 0.05)
    world = World()
    connection, _ = await world.connect()
    connection.detach("the client left")
    event_id, waits = push(world)
    assert waits
    await until(lambda: world.node.journal.hand_overs == [(event_id, "nobody connected")])
    assert world.node.chain_calls == 1


async def test_after_a_while_the_chain_takes_events_at_once() -> None:
    world = World()
    connection, _ = await world.connect()
    connection.detach("the client left")
    world.clock.now += EXPECTED_FOR
    assert push(world)[1] is False


async def test_other_nodes_expect_them_too() -> None:
    world = World()
    here = world.registry
    here.on_presence_change(PresenceChange(node="n2", joined=[], left=["ada"], lost=["ada"]))
    assert push(world)[1] is True
    here.on_presence_change(PresenceChange(node="n2", joined=["ada"], left=[]))
    assert "ada" not in here.expected
    here.on_presence_change(PresenceChange(node="n2", joined=[], left=["ada"]))
    assert "ada" not in here.expected, "her client said farewell"


async def test_an_event_that_is_committed_after_the_first_read_is_read_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "READ_AGAIN", 0.05)
    world = World()
    connection, _ = await world.connect()
    connection.detach("the client left")
    event = make_event()
    assert world.registry.push(event, encode_event(event)).is_expected
    world.registry.keep_waiting(event, is_recorded=False)
    _, writer = await world.connect()
    world.node.ledger.add(event)  # its commit comes late
    await until(lambda: event.id in writer.ids)
