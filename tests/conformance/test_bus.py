"""One suite for every bus: what reaches whom, in which order, and what never waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Protocol

import msgspec
import pytest

from delivery.bus.in_process import LocalBus, LocalHub
from delivery.bus.redis_bus import RedisBus
from delivery.domain.node_messages import Hello, NodeMessage, Pushes, Wake
from delivery.domain.ports import Bus

DEADLINE = 10.0


class AnyBus(Bus, Protocol):
    """A bus that also tells its health."""

    @property
    def healthy(self) -> bool: ...


def number(n: int) -> NodeMessage:
    """A message that tells a number."""
    return Wake(node="one", users=[str(n)])


class Node:
    """A bus and what it heard."""

    def __init__(self, bus: AnyBus) -> None:
        self.bus = bus
        self.heard: list[NodeMessage] = []
        self._news = asyncio.Event()

    def on_message(self, message: NodeMessage) -> None:
        self.heard.append(message)
        self._news.set()

    async def hears(self, count: int) -> list[NodeMessage]:
        """What was heard, once there are ``count`` messages."""
        async with asyncio.timeout(DEADLINE):
            while len(self.heard) < count:
                self._news.clear()
                await self._news.wait()
        return self.heard


StartNode = Callable[[str], Awaitable[Node]]


@pytest.fixture(params=["local", "redis"])
async def start(request: pytest.FixtureRequest) -> AsyncIterator[StartNode]:
    """Starts nodes that share one bus."""
    hub = LocalHub()
    url = request.getfixturevalue("redis_url") if request.param == "redis" else ""
    async with AsyncExitStack() as stack:

        async def start_node(name: str) -> Node:
            node = Node(RedisBus(url, name) if url else LocalBus(hub))
            await node.bus.start(node.on_message)
            stack.push_async_callback(node.bus.stop)
            return node

        yield start_node


async def test_a_message_reaches_every_other_node_and_not_its_own(start: StartNode) -> None:
    one, two, three = [await start(name) for name in ("one", "two", "three")]
    one.bus.publish(Hello(node="one"))
    for node in (two, three):
        assert await node.hears(1) == [Hello(node="one")]
    two.bus.publish(Hello(node="two"))
    assert await one.hears(1) == [Hello(node="two")]
    await three.hears(2)
    assert len(two.heard) == 1


async def test_messages_of_one_node_arrive_in_order(start: StartNode) -> None:
    one, two = await start("one"), await start("two")
    said = [number(n) for n in range(1_000)]
    for message in said:
        one.bus.publish(message)
    assert await two.hears(1_000) == said


async def test_a_message_arrives_with_all_that_json_can_say(start: StartNode) -> None:
    one, two = await start("one"), await start("two")
    event = '{"data": {"ü": [1, 2.5, null, true, {"x": "é\\n"}]}}'.encode()
    message = Pushes(node="one", users=["ü\n"], events=[msgspec.Raw(event)], to=["two"])
    one.bus.publish(message)
    assert await two.hears(1) == [message]


async def test_a_message_that_json_cannot_say_is_the_callers_error(start: StartNode) -> None:
    one = await start("one")
    with pytest.raises(TypeError):
        one.bus.publish(Hello(node=object()))  # type: ignore[arg-type]


async def test_two_nodes_with_one_name_still_hear_each_other(start: StartNode) -> None:
    one, twin = await start("same"), await start("same")
    one.bus.publish(number(1))
    assert await twin.hears(1) == [number(1)]


async def test_a_node_that_fails_on_a_message_hears_the_next(
    start: StartNode, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = await start("one"), await start("two")
    heard = two.on_message

    def fragile(message: NodeMessage) -> None:
        if message == number(1):
            raise KeyError("no such field")
        heard(message)

    await two.bus.stop()
    await two.bus.start(fragile)
    one.bus.publish(number(1))
    one.bus.publish(number(2))
    assert (await two.hears(1))[-1] == number(2)
    assert "bus message handler failed" in caplog.text
    assert "KeyError" in caplog.text


async def test_a_node_that_has_stopped_hears_nothing_more(start: StartNode) -> None:
    one, two, three = [await start(name) for name in ("one", "two", "three")]
    assert two.bus.healthy
    await two.bus.stop()
    assert not two.bus.healthy
    one.bus.publish(number(1))
    await three.hears(1)
    assert two.heard == []


async def test_a_bus_without_others_takes_messages_and_is_healthy(start: StartNode) -> None:
    one = await start("one")
    one.bus.publish(number(1))
    assert one.bus.healthy
