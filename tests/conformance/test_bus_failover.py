"""The bus while Redis servers change places: nodes meet again on the new primary."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import psutil
import pytest
import redis

from delivery.bench.faults import replication
from delivery.bench.faults.proxy import fault_proxy
from delivery.bus.redis_bus import RedisBus
from delivery.bus.resend import BusResend
from delivery.bus.user_streams import RedisStreams
from delivery.domain.event import Event, EventClass
from delivery.domain.node_messages import Gap, NodeMessage, Wake
from delivery.domain.operators.outages import OutageKind
from delivery.errors import ChannelUnavailable
from tests import servers
from tests.waiting import until, until_blocking

QUICK = {"probe_interval": 0.05, "probe_timeout": 2.0, "timeout": 0.5, "jitter": lambda: 0.5}
LONG = 30.0

Pair = tuple[servers.Server, servers.Server]


@pytest.fixture(params=servers.REDIS_KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pair(kind: str) -> Iterator[Pair]:
    """A primary and its replica."""
    with (
        servers.redis_server(kind, persistent=True) as primary,
        replication.replica_of(primary, kind) as replica,
    ):
        yield primary, replica


def port_of(server: servers.Server) -> int:
    return int(server.url.rpartition(":")[2].partition("/")[0])


def wake(text: str) -> NodeMessage:
    return Wake(node="one", users=[text])


def quick(url: str, node: str) -> RedisBus:
    options: dict[str, Any] = QUICK
    return RedisBus(url, node, **options)


def kinds(bus: RedisBus) -> set[OutageKind]:
    return {outage.kind for outage in bus.outages()}


async def meet(one: RedisBus, heard: list[NodeMessage], text: str) -> None:
    """Publish until the other node hears it."""

    def is_heard() -> bool:
        one.publish(wake(text))
        return wake(text) in heard

    await until(is_heard, LONG)


async def test_nodes_leave_a_server_that_became_a_replica(pair: Pair) -> None:
    primary, replica = pair
    heard: list[NodeMessage] = []
    async with fault_proxy(port_of(primary)) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}/0"
        one, two = quick(url, "one"), quick(url, "two")
        await one.start(lambda message: None)
        await two.start(heard.append)
        await until(lambda: one.healthy and two.healthy)
        proxy.targets = [port_of(replica)]  # the connections to the old primary stay open
        replication.redis_switch_over(primary, replica)
        elsewhere = quick(replica.url, "elsewhere")
        await elsewhere.start(lambda message: None)
        await meet(elsewhere, heard, "from the new primary")
        await meet(one, heard, "from a node that followed")
        assert Gap(node="two") in heard, "what was missed is read from the ledger"
        for bus in (one, two, elsewhere):
            await bus.stop()


async def test_where_only_a_replica_can_be_reached_the_bus_says_so_and_makes_no_noise(
    pair: Pair,
) -> None:
    _, replica = pair
    heard: list[NodeMessage] = []
    bus = quick(replica.url, "one")
    await bus.start(heard.append)
    await until(lambda: kinds(bus) >= {OutageKind.REDIS_REPLICA, OutageKind.BUS_DEAF})
    assert not bus.healthy
    assert heard == []
    replication.redis_switch_over(pair[0], replica)
    await until(lambda: bus.healthy and not kinds(bus), LONG)
    await bus.stop()


async def test_nodes_follow_sentinel(pair: Pair, kind: str) -> None:
    primary, _ = pair
    heard: list[NodeMessage] = []
    with replication.sentinel_of(primary, "events", kind) as sentinel:
        one, two = quick(sentinel.url, "one"), quick(sentinel.url, "two")
        await one.start(lambda message: None)
        await two.start(heard.append)
        await until(lambda: one.healthy and two.healthy)
        await meet(one, heard, "before")
        replication.sentinel_fail_over(sentinel, primary)
        await meet(one, heard, "after")
        for bus in (one, two):
            await bus.stop()


async def test_nodes_follow_sentinel_when_the_primary_dies(pair: Pair, kind: str) -> None:
    primary, _ = pair
    heard: list[NodeMessage] = []
    with replication.sentinel_of(primary, "events", kind) as sentinel:
        unknown = sentinel.url.replace("127.0.0.1", "127.0.0.1:1,127.0.0.1")
        one, two = quick(unknown, "one"), quick(sentinel.url, "two")
        await one.start(lambda message: None)
        await two.start(heard.append)
        await until(lambda: one.healthy and two.healthy)
        primary.kill()
        await meet(one, heard, "after")
        for bus in (one, two):
            await bus.stop()


def event(user_id: str) -> Event:
    return Event(
        id="0190b3a4-0000-7000-8000-000000000001",
        type="note",
        user_id=user_id,
        run_id="r",
        raw_data=msgspec.Raw(b"{}"),
        seq=1,
        at=datetime.now(UTC),
        event_class=EventClass.STANDARD,
    )


def test_copies_and_resends_follow_sentinel(pair: Pair, kind: str) -> None:
    primary, _ = pair
    with replication.sentinel_of(primary, "events", kind) as sentinel:
        streams = RedisStreams(sentinel.url, 60.0)
        resend = BusResend(sentinel.url)
        streams.put([event("ada")])
        resend.wake(["ada"])
        replication.sentinel_fail_over(sentinel, primary)

        def works() -> bool:
            try:
                streams.put([event("ada")])
                resend.wake(["ada"])
            except ChannelUnavailable:
                return False
            return True

        until_blocking(works)
        assert [one.id for one in streams.read("ada")] == [event("ada").id]
        streams.close()
        resend.close()


async def test_a_resend_over_a_replica_is_unavailable_and_not_unheard(pair: Pair) -> None:
    _, replica = pair
    resend = BusResend(replica.url)
    with pytest.raises(ChannelUnavailable, match="replica"):
        resend.wake(["ada"])
    with pytest.raises(ChannelUnavailable, match="replica"):
        resend.resend("ada", ["id"], 0.2)
    resend.close()


async def test_a_redis_without_memory_is_named(kind: str) -> None:
    with servers.redis_server(kind) as server:
        bus = quick(server.url, "one")
        await bus.start(lambda message: None)
        await until(lambda: bus.healthy)
        assert kinds(bus) == set()
        with redis.Redis.from_url(server.url) as client:
            client.config_set("maxmemory", "100kb")  # less than an empty one of any version uses
            await until(lambda: kinds(bus) == {OutageKind.REDIS_OOM})
            [outage] = bus.outages()
            assert "out of memory" in outage.text
            client.config_set("maxmemory", "0")
        await until(lambda: kinds(bus) == set())
        await bus.stop()


@pytest.mark.parametrize(
    ("breaks", "mends", "says"),
    [
        (
            [("CONFIG", "SET", "requirepass", "other"), ("AUTH", "other")],
            [("CONFIG", "SET", "requirepass", "")],
            "the bus's Redis refuses the user or the password",
        ),
        (
            [("CONFIG", "SET", "min-replicas-to-write", "1")],
            [("CONFIG", "SET", "min-replicas-to-write", "0")],
            "the bus's Redis takes no writes: it has too few replicas",
        ),
        (
            [("ACL", "SETUSER", "default", "-publish")],
            [("ACL", "SETUSER", "default", "+@all")],
            "the bus's Redis does not permit this user a command, a key or a channel",
        ),
    ],
    ids=["password", "replicas", "rights"],
)
async def test_a_redis_that_answers_and_refuses_is_named(
    breaks: list[tuple[str, ...]], mends: list[tuple[str, ...]], says: str
) -> None:
    with servers.redis_server() as server, redis.Redis.from_url(server.url) as admin:
        bus = quick(server.url, "one")
        await bus.start(lambda message: None)
        await until(lambda: bus.healthy)
        for words in breaks:
            admin.execute_command(*words)
        admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await until(lambda: OutageKind.REDIS_REFUSES in kinds(bus))
        [text] = [one.text for one in bus.outages() if one.kind is OutageKind.REDIS_REFUSES]
        assert text == says
        assert OutageKind.REDIS_AWAY not in kinds(bus)
        for words in mends:
            admin.execute_command(*words)
        await until(lambda: not kinds(bus), LONG)
        await bus.stop()


@pytest.mark.parametrize(
    ("breaks", "mends", "says"),
    [
        (
            [("ACL", "SETUSER", "default", "-subscribe")],
            [("ACL", "SETUSER", "default", "+subscribe")],
            "does not permit this user",
        ),
        (
            [("CONFIG", "SET", "maxclients", "1")],
            [("CONFIG", "SET", "maxclients", "1000")],
            "takes no more connections",
        ),
        (
            [("ACL", "SETUSER", "default", "resetchannels")],
            [("ACL", "SETUSER", "default", "allchannels")],
            "does not permit this user",
        ),
    ],
    ids=["subscribe", "connections", "channels"],
)
async def test_a_bus_that_is_deaf_says_why(
    kind: str, breaks: list[tuple[str, ...]], mends: list[tuple[str, ...]], says: str
) -> None:
    with servers.redis_server(kind) as server, redis.Redis.from_url(server.url) as admin:
        bus = quick(server.url, "one")
        await bus.start(lambda message: None)
        await until(lambda: bus.healthy)
        for words in breaks:
            admin.execute_command(*words)
        for clients in ("normal", "pubsub"):
            admin.execute_command("CLIENT", "KILL", "TYPE", clients, "SKIPME", "yes")

        def deafness() -> str:
            return next((o.text for o in bus.outages() if o.kind is OutageKind.BUS_DEAF), "")

        await until(lambda: says in deafness(), LONG)
        for words in mends:
            admin.execute_command(*words)
        await until(lambda: not kinds(bus), LONG)
        await bus.stop()


async def test_a_redis_that_cannot_save_is_named_until_it_can(kind: str) -> None:
    with servers.redis_server(kind) as server, redis.Redis.from_url(server.url) as admin:
        bus = quick(server.url, "one")
        await bus.start(lambda message: None)
        await until(lambda: bus.healthy)
        admin.config_set("save", "3600 1")
        admin.config_set("rdb-key-save-delay", "10000000")
        admin.set("key", "value")
        admin.bgsave()
        await until(lambda: kill_children(server))
        await until(lambda: OutageKind.REDIS_REFUSES in kinds(bus))
        [text] = [one.text for one in bus.outages()]
        assert text == "the bus's Redis takes no writes: it cannot save to its disk"
        admin.config_set("rdb-key-save-delay", "0")
        admin.config_set("save", "")
        await until(lambda: not kinds(bus), LONG)
        await bus.stop()


def kill_children(server: servers.Server) -> bool:
    """End the process that saves; whether there was one."""
    assert server.process is not None
    children = psutil.Process(server.process.pid).children()
    for child in children:
        child.kill()
    return bool(children)
