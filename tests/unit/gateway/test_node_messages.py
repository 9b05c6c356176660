"""What a gateway does with messages of other nodes: good ones, bad ones, and its own bugs."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from delivery.bus.envelope import pack, seal
from delivery.bus.in_process import LocalBus, LocalHub
from delivery.domain.node_messages import (
    Confirmed,
    Disconnect,
    Heartbeat,
    Hello,
    NodeMessage,
    PresenceChange,
    Pushes,
    ResendAnswer,
    ResendRequest,
)
from delivery.protocol import encode_event
from tests.fast_path import Node, World, make_event
from tests.waiting import until


class BusWorld:
    """One gateway, and a way to say anything on its bus."""

    def __init__(self) -> None:
        self.hub = LocalHub()
        self.bus = LocalBus(self.hub)
        self.node = Node("n1", bus=self.bus)
        self._marks = 0

    def say(self, *messages: NodeMessage) -> None:
        self.say_raw(seal("n2#1", [pack(message) for message in messages]))

    def say_raw(self, raw: bytes) -> None:
        self.hub.broadcast(None, raw)

    async def hears(self) -> None:
        """Wait until the gateway has carried out what was said, by saying one thing more."""
        self._marks += 1
        mark = f"mark {self._marks}"
        self.say(Confirmed(node="n2", ids=[mark]))
        await until(lambda: self.node.confirmed[-1:] == [mark])


@asynccontextmanager
async def bench() -> AsyncIterator[BusWorld]:
    one = BusWorld()
    await one.node.gateway.path.start()
    try:
        yield one
    finally:
        await one.node.gateway.path.stop()


def pushes(*events: bytes, user: str = "ada") -> Pushes:
    raw = [msgspec.Raw(event) for event in events]
    return Pushes(node="n2", users=[user] * len(events), events=raw)


@pytest.mark.parametrize("bug", [KeyError, TypeError, ValueError, AttributeError, RuntimeError])
async def test_a_bug_of_ours_is_logged_as_one_and_the_next_message_is_heard(
    bug: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    async with bench() as one:
        heard: list[str] = []

        def fragile(user_id: str) -> int:
            if user_id == "bad":
                raise bug("ours")
            heard.append(user_id)
            return 0

        one.node.registry.disconnect = fragile  # type: ignore[method-assign]
        one.say(Disconnect(node="n2", user="bad"), Disconnect(node="n2", user="good"))
        await until(lambda: heard == ["good"])
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.exc_info[0] is bug
    assert "kind disconnect from node 'n2'" in record.getMessage()
    assert "malformed" not in caplog.text
    assert (one.bus.reader.malformed, one.bus.reader.ignored) == (0, 0)


async def test_a_malformed_event_does_not_cost_the_others_of_its_message(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with bench() as one:
        _, writer = await World(one.node).connect()
        good = [make_event(seq=number) for number in (1, 2)]
        for bad, event in zip((b"7", b'{"id":1}'), good, strict=True):
            one.say(pushes(bad, encode_event(event)))
        await until(lambda: writer.ids == [event.id for event in good])
        assert one.node.gateway.path.malformed_events == 2
    assert "malformed events from other nodes" in caplog.text
    assert all(record.exc_info is None for record in caplog.records)


async def test_a_malformed_event_of_a_user_who_is_elsewhere_is_not_even_decoded() -> None:
    async with bench() as one:
        one.say(pushes(b'{"id":1}', user="eve"))
        await one.hears()
        assert one.node.gateway.path.malformed_events == 0


async def test_an_event_that_cannot_be_pushed_does_not_cost_the_others_of_its_message(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with bench() as one:
        world = World(one.node)
        broken, _ = await world.connect("ada")
        _, writer = await world.connect("eve")

        def fail(item: object) -> object:
            raise ValueError("ours")

        broken.enqueue = fail  # type: ignore[assignment]
        bad, good = make_event("ada"), make_event("eve")
        one.say(
            Pushes(
                node="n2",
                users=["ada", "eve"],
                events=[msgspec.Raw(encode_event(event)) for event in (bad, good)],
            )
        )
        await until(lambda: writer.ids == [good.id])
    [record] = [record for record in caplog.records if record.exc_info is not None]
    assert bad.id in record.getMessage()


@pytest.mark.parametrize(
    "raw",
    [
        b'{"sender":"n0#1","message":{"kind":"hello","node":"n0"},"has_inbox":true}',
        b'{"sender":"n0#1","message":{"kind":"presence","node":"n0","users":["ada"]}}',
        b'{"sender":"n0#1","message":{"kind":"wake","node":"n0","users":["ada"]}}',
        b'{"v":2,"sender":"n9#1","body":[{"kind":"hello","node":"n9","v":2}]}',
        b'{"v":1,"sender":"n9#1","body":[{"kind":"hello","node":"n9","v":2}]}',
        b'{"v":1,"sender":"n9#1","body":[{"kind":"of a newer release","node":"n9"}]}',
    ],
)
async def test_a_message_of_another_release_changes_nothing_and_the_next_is_heard(
    raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "delivery.bus")
    async with bench() as one:
        _, writer = await World(one.node).connect()
        one.node.ledger.add(make_event())
        one.say_raw(raw)
        one.say_raw(raw)
        await one.hears()
        assert (one.bus.reader.ignored, one.bus.reader.malformed) == (2, 0)
        assert not one.node.registry.peers.has_nodes
        assert writer.ids == []
    assert [record.levelno for record in caplog.records] == [logging.INFO]


async def test_an_answer_for_a_worker_is_no_business_of_a_gateway(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with bench() as one:
        one.say(ResendAnswer(node="n2", request="r", count=1))
        await one.hears()
    assert caplog.records == []


async def test_a_heartbeat_leaves_presence_as_it_was_said_last() -> None:
    async with bench() as one:
        peers = one.node.registry.peers
        one.say(Hello(node="n2"), PresenceChange(node="n2", joined=["ada"], left=[]))
        await one.hears()
        one.say(Heartbeat(node="n2"))
        await one.hears()
        assert peers.hosts_of("ada") == ("n2",)
        one.say(PresenceChange(node="n2", joined=[], left=["ada"]))
        await one.hears()
        assert peers.hosts_of("ada") == ()


async def test_resends_at_once_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    async with bench() as one:
        await World(one.node).connect()
        asked = [
            ResendRequest(node="w", request=str(number), user="ada", ids=[], timeout=30.0)
            for number in range(40)
        ]
        one.say(*asked)
        await one.hears()
    assert sum("resends at once" in record.getMessage() for record in caplog.records) == 8
