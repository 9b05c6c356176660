"""The bus over a Redis cluster: sharded pub/sub, one channel for all and one for each node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, closing

import msgspec
import pytest
import redis
from redis.exceptions import ClusterError, MovedError

from delivery.bus.redis_bus import CHANNEL, RedisBus
from delivery.bus.resend import BusResend
from delivery.bus.topology import Layout
from delivery.bus.user_streams import RedisStreams
from delivery.domain.node_messages import (
    Gap,
    Hello,
    NodeMessage,
    Pushes,
    ResendAnswer,
    ResendRequest,
    Wake,
)
from tests import servers
from tests.messages import make_event
from tests.waiting import until

DEADLINE = 30.0
# Probes come often; a process that a busy machine holds up for a while is not deaf.
QUICK = {"probe_interval": 0.05, "probe_timeout": 3.0, "timeout": 1.5, "jitter": lambda: 0.5}


@pytest.fixture(scope="module")
def members() -> Iterator[list[servers.Server]]:
    """Two servers that share the slots."""
    with servers.redis_cluster(2) as members:
        yield members


def push(number: int) -> Pushes:
    """A push that tells a number."""
    return Pushes(node="one", users=[str(number)], events=[msgspec.Raw(b"{}")])


class Nodes:
    """Buses by name, and what each heard."""

    def __init__(self, urls: list[str], stack: AsyncExitStack) -> None:
        self._urls = urls
        self._stack = stack
        self.buses: dict[str, RedisBus] = {}
        self.heard: dict[str, list[NodeMessage]] = {}

    async def start(self, name: str) -> RedisBus:
        """One more; they enter the cluster at different doors."""
        bus = RedisBus(self._urls[len(self.buses) % len(self._urls)], name, **QUICK)
        heard = self.heard[name] = []

        def on_message(message: NodeMessage) -> None:
            heard.append(message)
            if isinstance(message, ResendRequest):
                bus.publish(ResendAnswer(node=name, request=message.request, count=1))

        await bus.start(on_message)
        self._stack.push_async_callback(bus.stop)
        self.buses[name] = bus
        bus.publish(Hello(node=name))
        return bus

    async def know_each_other(self) -> None:
        """Every node has heard of every other one."""
        await until(
            lambda: all(len(bus._peers) == len(self.buses) - 1 for bus in self.buses.values())
        )

    def pushes(self, name: str) -> list[int]:
        """The numbers of the pushes that a node heard."""
        return [
            int(message.users[0]) for message in self.heard[name] if isinstance(message, Pushes)
        ]


@pytest.fixture
async def nodes(members: list[servers.Server]) -> AsyncIterator[Nodes]:
    """No bus yet."""
    async with AsyncExitStack() as stack:
        yield Nodes([member.url for member in members], stack)


def channels(members: list[servers.Server], question: str) -> set[str]:
    found: set[str] = set()
    for member in members:
        with redis.Redis.from_url(member.url) as client:
            found |= {name.decode() for name in client.execute_command(question)}
    return found


async def test_what_comes_per_event_reaches_every_other_node_once_and_in_order(
    nodes: Nodes,
) -> None:
    for name in ("one", "two", "three"):
        await nodes.start(name)
    await nodes.know_each_other()
    for number in range(500):
        nodes.buses["one"].publish(push(number))
    await until(lambda: len(nodes.pushes("two")) >= 500 and len(nodes.pushes("three")) >= 500)
    assert nodes.pushes("two") == nodes.pushes("three") == list(range(500))
    assert nodes.pushes("one") == []


async def test_each_node_has_a_channel_of_its_own_and_none_is_an_ordinary_one(
    nodes: Nodes, members: list[servers.Server]
) -> None:
    for name in ("one", "two"):
        await nodes.start(name)
    await nodes.know_each_other()
    found = channels(members, "PUBSUB SHARDCHANNELS")
    assert len(found) == 3
    assert CHANNEL in found
    assert {name.removeprefix(f"{CHANNEL}:").partition("#")[0] for name in found - {CHANNEL}} == {
        "one",
        "two",
    }
    assert channels(members, "PUBSUB CHANNELS") == set()


async def test_a_node_is_known_as_soon_as_it_says_hello(nodes: Nodes) -> None:
    one = await nodes.start("one")
    await nodes.start("two")
    await until(lambda: Hello(node="two") in nodes.heard["one"])
    one.publish(push(1))
    await until(lambda: nodes.pushes("two") == [1])


async def test_a_node_that_is_gone_is_forgotten(nodes: Nodes) -> None:
    one = await nodes.start("one")
    two = await nodes.start("two")
    await nodes.know_each_other()
    await two.stop()
    await until(lambda: one._peers == {})


async def test_a_worker_asks_all_gateways_and_wakes_them(nodes: Nodes) -> None:
    for name in ("one", "two", "three"):
        await nodes.start(name)
    for url in nodes._urls:
        with closing(BusResend(url)) as worker:
            assert await asyncio.to_thread(worker.resend, "ada", ["id-1"], 10.0) == 3
            await asyncio.to_thread(worker.wake, ["ada"])
    await until(
        lambda: all(
            sum(isinstance(message, Wake) for message in heard) == 2
            for heard in nodes.heard.values()
        )
    )


async def test_a_server_that_comes_back_is_listened_to_again_and_the_gap_is_reported() -> None:
    with servers.redis_cluster(2) as members:
        async with AsyncExitStack() as stack:
            nodes = Nodes([member.url for member in members], stack)
            one, two = await nodes.start("one"), await nodes.start("two")
            await nodes.know_each_other()
            for member in members:
                member.kill()
            await until(lambda: not one.healthy and not two.healthy)
            one.publish(push(1))
            for member in members:
                member.restart()
            await until(lambda: one.healthy and two.healthy)
            await nodes.know_each_other()
            assert Gap(node="two") in nodes.heard["two"]
            one.publish(push(2))
            await until(lambda: 2 in nodes.pushes("two"))
            # Whether the first one still made it depends on how soon the servers were back.
            assert nodes.pushes("two") in ([2], [1, 2])


def move_slot_of(channel: str, members: list[servers.Server]) -> None:
    """Give the slot of a channel to the other of two servers, as a rebalancing does."""
    with (
        redis.Redis.from_url(members[0].url, decode_responses=True) as first,
        redis.Redis.from_url(members[1].url, decode_responses=True) as second,
    ):
        slot = first.execute_command("CLUSTER KEYSLOT", channel)
        names = {client: client.execute_command("CLUSTER MYID") for client in (first, second)}
        source, target = (first, second) if owns(first, channel) else (second, first)
        target.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", names[source])
        source.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", names[target])
        for client in (target, source):
            client.execute_command("CLUSTER SETSLOT", slot, "NODE", names[target])


def owns(server: redis.Redis, channel: str) -> bool:
    """Whether a server has the slot; another one sends a reader away."""
    try:
        server.get(channel)
    except MovedError:
        return False
    return True


async def test_while_slots_move_nothing_is_lost_in_silence_and_the_new_owner_is_found() -> None:
    with servers.redis_cluster(2) as members:
        async with AsyncExitStack() as stack:
            nodes = Nodes([member.url for member in members], stack)
            one = await nodes.start("one")
            await nodes.start("two")
            await nodes.know_each_other()
            number = 0
            for _ in range(3):
                for channel in sorted(channels(members, "PUBSUB SHARDCHANNELS")):
                    number += 1
                    one.publish(push(number))
                    await asyncio.to_thread(move_slot_of, channel, members)
                    number += 1
                    one.publish(push(number))
                moved = number

                def has_heard_a_later_one(moved: int = moved) -> bool:
                    nonlocal number
                    number += 1
                    one.publish(push(number))
                    return any(heard > moved for heard in nodes.pushes("two"))

                await until(has_heard_a_later_one, DEADLINE)
            await until(lambda: all(bus.healthy for bus in nodes.buses.values()), DEADLINE)
            heard = nodes.pushes("two")
            assert heard == sorted(set(heard)), "in order, and none twice"
            if set(heard) != set(range(1, max(heard) + 1)):
                assert Gap(node="two") in nodes.heard["two"]


async def test_a_cluster_that_is_away_at_the_start_is_found_later() -> None:
    with servers.redis_cluster(1) as (only,):
        only.kill()
        async with AsyncExitStack() as stack:
            nodes = Nodes([only.url], stack)
            one = await nodes.start("one")
            await nodes.start("two")
            only.restart()
            await nodes.know_each_other()
            await until(lambda: all(bus.healthy for bus in nodes.buses.values()))
            one.publish(push(1))
            await until(lambda: nodes.pushes("two") == [1])
            assert Gap(node="two") in nodes.heard["two"]


def test_second_copies_are_spread_over_the_servers(members: list[servers.Server]) -> None:
    with closing(RedisStreams(members[0].url, 3_600.0)) as streams:
        users = [f"user-{number}" for number in range(20)]
        events = [make_event(number, user_id=user) for number, user in enumerate(users, 1)]
        streams.put(events)
        assert [streams.read(user)[0].id for user in users] == [event.id for event in events]
        for member in members:
            with redis.Redis.from_url(member.url) as client:
                assert client.dbsize() > 0
        assert streams.trim(0.0) == len(events)


def test_a_slot_without_an_owner_is_an_error_and_not_a_guess() -> None:
    with pytest.raises(ClusterError, match="owns slot"):
        Layout(((0, 0, ("127.0.0.1", 1)),)).server_of(CHANNEL)
