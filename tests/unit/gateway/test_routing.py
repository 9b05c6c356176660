"""Which nodes hear of an event: those that host its user, or all when none is known to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from delivery.bus.in_process import LocalBus, LocalHub
from delivery.domain.node_messages import (
    Confirmed,
    NodeMessage,
    PresenceChange,
    Pushes,
)
from delivery.gateway.peers import MAX_BYTES, MAX_EVENTS
from tests.fast_path import Node, World, make_event
from tests.waiting import until


class Recorder(LocalBus):
    """Remembers what was published, and to whom."""

    def __init__(self, hub: LocalHub | None = None) -> None:
        super().__init__(hub)
        self.pushes: list[list[str]] = []
        self.told: list[list[str]] = []

    def publish(self, message: NodeMessage, to: Any = ()) -> None:
        if isinstance(message, Pushes):
            self.pushes.append(list(to))
        elif isinstance(message, Confirmed):
            self.told.append(list(to))
        super().publish(message, to)


@asynccontextmanager
async def nodes(*names: str) -> AsyncIterator[list[Node]]:
    hub = LocalHub()
    made = [Node(name, bus=Recorder(hub)) for name in names]
    made[1:] = [Node(name, bus=Recorder(hub), ledger=made[0].ledger) for name in names[1:]]
    for node in made:
        await node.gateway.path.start()
    try:
        await until(lambda: all(node.registry.peers.has_nodes for node in made))
        yield made
    finally:
        for node in made:
            await node.gateway.path.stop()


def pushes(node: Node) -> list[list[str]]:
    bus = node.bus
    assert isinstance(bus, Recorder)
    return bus.pushes


async def test_an_event_for_a_user_who_is_only_here_leaves_no_message() -> None:
    async with nodes("n1", "n2") as (first, _):
        _, writer = await World(first).connect()
        event = make_event()
        assert first.emit(event) == 1
        await until(lambda: writer.ids == [event.id])
        assert pushes(first) == []


async def test_an_event_is_sent_to_the_nodes_of_its_user_and_to_no_other() -> None:
    async with nodes("n1", "n2", "n3") as (first, second, third):
        _, writer = await World(second).connect()
        await until(lambda: first.registry.peers.hosts_of("ada") == ("n2",))
        event = make_event()
        assert first.emit(event) == 1
        await until(lambda: writer.ids == [event.id])
        assert pushes(first) == [["n2"]]
        assert pushes(third) == [], "it got the message, which was for another node"


async def test_an_event_for_a_user_whom_no_node_reports_is_sent_to_all() -> None:
    async with nodes("n1", "n2") as (first, second):
        assert first.emit(make_event()) == 0
        await until(lambda: pushes(first) == [[]])
        assert pushes(second) == []


async def test_what_goes_to_the_same_nodes_in_one_turn_is_one_message() -> None:
    async with nodes("n1", "n2") as (first, second):
        world = World(second)
        _, ada = await world.connect("ada")
        _, eve = await world.connect("eve")
        await until(lambda: len(first.registry.peers.hosts_of("eve")) == 1)
        events = [make_event(name, seq=n) for n in (1, 2) for name in ("ada", "eve")]
        for event in events:
            first.emit(event)
        await until(lambda: len(ada.ids) == len(eve.ids) == 2)
        assert pushes(first) == [["n2"]]
        assert ada.ids == [events[0].id, events[2].id]


async def test_a_message_is_bounded_however_much_crosses_in_one_turn() -> None:
    async with nodes("n1", "n2") as (first, second):
        _, writer = await World(second).connect()
        await until(lambda: first.registry.peers.hosts_of("ada"))
        for seq in range(1, 2 * MAX_EVENTS + 2):
            first.emit(make_event(seq=seq))
        await until(lambda: len(writer.ids) == 2 * MAX_EVENTS + 1)
        assert pushes(first) == [["n2"]] * 3
        first.emit(make_event(seq=2 * MAX_EVENTS + 2, data={"text": "x" * MAX_BYTES}))
        first.emit(make_event(seq=2 * MAX_EVENTS + 3))
        await until(lambda: len(writer.ids) == 2 * MAX_EVENTS + 3)
        assert pushes(first) == [["n2"]] * 5


async def test_the_confirmation_of_an_event_is_told_to_its_node_alone() -> None:
    async with nodes("n1", "n2", "n3") as (first, second, _):
        world = World(second)
        connection, writer = await world.connect()
        await until(lambda: first.registry.peers.hosts_of("ada"))
        first.emit(event := make_event())
        await until(lambda: writer.ids == [event.id])
        world.ack(connection)
        await until(lambda: first.confirmed == [event.id])
        bus = second.bus
        assert isinstance(bus, Recorder)
        assert bus.told == [["n1"]]


async def test_an_event_that_finds_its_user_gone_is_passed_on_once() -> None:
    async with nodes("n1", "n2", "n3") as (first, second, third):
        _, writer = await World(third).connect()
        await until(lambda: first.registry.peers.hosts_of("ada") == ("n3",))
        # n1 has heard that ada came to n2, and not yet that she left for n3.
        first.registry.peers.on_bye("n3")
        first.registry.peers.on_presence_change(
            PresenceChange(node="n2", joined=["ada"], left=[]), 0.0
        )
        first.emit(event := make_event())
        await until(lambda: writer.ids == [event.id])
        assert pushes(first) == [["n2"]]
        assert pushes(second) == [[]]
        assert pushes(third) == []


async def test_a_second_device_reads_again_what_went_only_to_the_first_ones_node() -> None:
    async with nodes("n1", "n2") as (first, second):
        home, away = World(first), World(second)
        phone, _ = await home.connect()
        await until(lambda: second.registry.peers.hosts_of("ada") == ("n1",))
        laptop, writer = await away.connect()
        # Emitted before the news of the laptop arrived, and confirmed by the phone.
        first.registry.peers.on_bye("n2")
        first.emit(event := make_event())
        await until(lambda: phone.session.in_flight.n == 1)
        home.ack(phone)
        await until(lambda: first.confirmed == [event.id])
        assert writer.ids == []
        laptop.catch_up()  # for another reason, and too early: the second look still comes
        await until(lambda: laptop.is_live)
        assert writer.ids == []
        away.clock.now += 4.0
        laptop.on_tick(away.clock.now)
        await until(lambda: writer.ids == [event.id])


async def test_an_only_device_reads_the_ledger_once() -> None:
    async with nodes("n1", "n2") as (first, _):
        world = World(first)
        connection, _ = await world.connect()
        reads = first.ledger.feed.pages
        world.clock.now += 4.0
        connection.on_tick(world.clock.now)
        first.emit(make_event())
        await until(lambda: connection.session.in_flight.n == 1)
        assert first.ledger.feed.pages == reads


async def test_a_users_connections_are_told_by_every_node_that_has_some() -> None:
    async with nodes("n1", "n2", "n3") as (first, second, third):
        laptop, _ = await World(first).connect()
        phone, _ = await World(second).connect()
        laptop.session.device, phone.session.device = "laptop", "phone"
        await World(second).connect("grace")
        reports = first.gateway.path.reports
        await until(lambda: first.registry.peers.hosts_of("ada") == ("n2",))
        found = await reports.of_user("ada")
        assert [(one.node, one.device, one.transport) for one in found] == [
            ("n1", "laptop", "websocket"),
            ("n2", "phone", "websocket"),
        ]
        assert all(one.health == 100 and one.since for one in found)
        assert await third.gateway.path.reports.of_user("stranger") == []

        await until(lambda: len(reports.page("", "", 10)[0]) == 3)
        page, after = reports.page("", "", 2)
        assert [(one.user, one.node) for one in page] == [("ada", "n1"), ("ada", "n2")]
        assert page[1].id == ""  # another node's: only that there is one
        rest, end = reports.page(after or "", "", 2)
        assert ([one.user for one in rest], end) == (["grace"], None)
        assert [one.user for one in reports.page("", "gr", 2)[0]] == ["grace"]


async def test_a_node_that_does_not_answer_is_named_without_details(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("delivery.gateway.reports.ANSWER_TIMEOUT", 0.05)
    async with nodes("n1", "n2") as (first, second):
        await World(second).connect()
        await until(lambda: first.registry.peers.hosts_of("ada") == ("n2",))
        monkeypatch.setattr(second.gateway.path.reports, "on_asked", lambda message: None)
        [one] = await first.gateway.path.reports.of_user("ada")
        assert (one.node, one.user, one.id, one.health) == ("n2", "ada", "", None)
