"""The bus over a Redis that is away, frozen, restarted, or connected and deaf."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from delivery.bench.faults.proxy import fault_proxy
from delivery.bus.redis_bus import CHANNEL, RedisBus
from delivery.domain.node_messages import Bye, Gap, Hello, NodeMessage, Wake
from delivery.errors import ConfigError
from tests import servers
from tests.waiting import until

DEADLINE = 20.0
QUICK = {"probe_interval": 0.05, "probe_timeout": 0.5, "timeout": 0.3, "jitter": lambda: 0.5}


@pytest.fixture
def own_redis() -> Iterator[servers.Server]:
    """A Redis that this test may freeze and kill."""
    with servers.redis_server() as server:
        yield server


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2].partition("/")[0])


def number(n: int) -> NodeMessage:
    """A message that tells a number."""
    return Wake(node="one", users=[str(n)])


def numbers(messages: list[NodeMessage]) -> list[int]:
    """The numbers that messages tell."""
    return [int(message.users[0]) for message in messages if isinstance(message, Wake)]


def quick(url: str, node: str, **options: Any) -> RedisBus:
    return RedisBus(url, node, **QUICK | options)


async def test_a_connection_that_went_deaf_is_replaced_and_the_gap_is_reported(
    redis_url: str,
) -> None:
    heard: list[NodeMessage] = []
    async with fault_proxy(port_of(redis_url)) as proxy:
        deaf = quick(f"redis://127.0.0.1:{proxy.port}/0", "deaf")
        await deaf.start(heard.append)
        other = quick(redis_url, "other")
        await other.start(lambda message: None)
        await until(lambda: deaf.healthy)
        proxy.silence()
        await until(lambda: not deaf.healthy)
        await until(lambda: deaf.healthy)
        assert Gap(node="deaf") in heard
        other.publish(number(1))
        await until(lambda: number(1) in heard)
        await other.stop()
        await deaf.stop()


async def test_a_redis_that_is_away_at_the_start_is_found_later(
    own_redis: servers.Server,
) -> None:
    own_redis.kill()
    heard: list[NodeMessage] = []
    one, two = quick(own_redis.url, "one"), quick(own_redis.url, "two")
    begun = time.monotonic()
    await one.start(heard.append)
    await two.start(lambda message: None)
    assert time.monotonic() - begun < 5.0
    assert not one.healthy
    own_redis.restart()
    await until(lambda: one.healthy and two.healthy)
    two.publish(number(1))
    await until(lambda: number(1) in heard)
    assert Gap(node="one") in heard
    await one.stop()
    await two.stop()


async def test_a_frozen_redis_makes_no_caller_wait_and_what_was_lost_is_reported(
    own_redis: servers.Server,
) -> None:
    heard: list[NodeMessage] = []
    one, two = quick(own_redis.url, "one", max_queue=10), quick(own_redis.url, "two")
    await one.start(lambda message: None)
    await two.start(heard.append)
    await until(lambda: one.healthy and two.healthy)
    own_redis.stop()
    begun = time.monotonic()
    for n in range(1_000):
        one.publish(number(n))
    assert time.monotonic() - begun < 1.0
    assert one.dropped >= 900
    await until(lambda: not one.healthy)
    own_redis.cont()
    await until(lambda: one.healthy and two.healthy)
    one.publish(number(1_000))
    # By the one that lost them, or by the other's own new subscription.
    await until(lambda: any(isinstance(message, Gap) for message in heard))
    await one.stop()
    await two.stop()


async def test_stopping_does_not_wait_for_a_frozen_redis(own_redis: servers.Server) -> None:
    bus = quick(own_redis.url, "one")
    await bus.start(lambda message: None)
    own_redis.stop()
    bus.publish(number(1))
    begun = time.monotonic()
    await bus.stop()
    assert time.monotonic() - begun < 5.0
    own_redis.cont()


async def test_what_was_published_before_the_stop_still_leaves(redis_url: str) -> None:
    heard: list[NodeMessage] = []
    one, two = quick(redis_url, "one"), quick(redis_url, "two")
    await two.start(heard.append)
    await one.start(lambda message: None)
    await until(lambda: one.healthy)
    one.publish(Bye(node="one"))
    await one.stop()
    await until(lambda: Bye(node="one") in heard)
    await two.stop()


async def test_foreign_words_on_the_channel_are_skipped(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[NodeMessage] = []
    one, two = quick(redis_url, "one"), quick(redis_url, "two")
    await one.start(heard.append)
    await two.start(lambda message: None)
    with redis.Redis.from_url(redis_url) as client:
        for words in (b"not json", b"[1]", b'{"no": "sender"}', b"\xff"):
            client.publish(CHANNEL, words)
    two.publish(number(1))
    await until(lambda: heard == [number(1)])
    assert "malformed" in caplog.text
    assert one.reader.malformed == two.reader.malformed == 4
    await one.stop()
    await two.stop()


async def test_nodes_of_another_release_on_the_channel_are_ignored(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    heard: list[NodeMessage] = []
    one = quick(redis_url, "one")
    await one.start(heard.append)
    foreign = (
        b'{"sender":"old#1","message":{"kind":"hello","node":"old"},"has_inbox":true}',
        b'{"v":2,"sender":"new#1","body":[{"kind":"hello","node":"new"}],"has_inbox":true}',
        b'{"v":1,"sender":"next#1","body":[{"kind":"hello","node":"next","v":2},'
        b'{"kind":"later","node":"next"},{"kind":"hello","node":"next","v":1,"later":true}]}',
    )
    with redis.Redis.from_url(redis_url) as client:
        for raw in foreign * 2:
            client.publish(CHANNEL, raw)
    await until(lambda: len(heard) == 2)
    assert heard == [Hello(node="next")] * 2
    assert (one.reader.ignored, one.reader.malformed) == (8, 0)
    ignored = [r.getMessage() for r in caplog.records if "bus: ignored" in r.getMessage()]
    assert len(ignored) == 4
    assert one.healthy
    await one.stop()


def test_a_url_that_cannot_be_read_is_refused_without_repeating_it() -> None:
    with pytest.raises(ConfigError, match="DELIVERY_REDIS_URL") as caught:
        RedisBus("http://user:sesame@h", "one")
    assert "sesame" not in str(caught.value)


async def test_stopping_ends_every_task_at_whatever_moment_it_comes(redis_url: str) -> None:
    before = asyncio.all_tasks()
    for turn in range(30):
        bus = quick(redis_url, "one")
        await bus.start(lambda message: None)
        for _ in range(turn):
            await asyncio.sleep(0)  # one turn of the loop later than the time before
        async with asyncio.timeout(DEADLINE):
            await bus.stop()
    assert {task for task in asyncio.all_tasks() if task.get_name().startswith("bus-")} <= before


async def test_what_is_addressed_to_one_node_costs_the_others_nothing(redis_url: str) -> None:
    heard: dict[str, list[NodeMessage]] = {"one": [], "two": [], "three": []}
    buses = {name: quick(redis_url, name) for name in heard}
    for name, bus in buses.items():
        await bus.start(heard[name].append)
    # A node that was received is known to have a channel of its own.
    await until(lambda: all(len(bus._peers) == 2 for bus in buses.values()))
    for n in range(50):
        buses["one"].publish(number(n), ["two"] if n % 2 else ())
    await until(lambda: len(heard["two"]) == 50)
    await until(lambda: len(heard["three"]) == 25)
    assert sorted(numbers(heard["two"])) == list(range(50))
    assert numbers(heard["three"]) == list(range(0, 50, 2))
    for bus in buses.values():
        await bus.stop()


async def test_what_is_addressed_to_a_node_without_a_channel_is_heard_by_all(
    redis_url: str,
) -> None:
    heard: list[NodeMessage] = []
    one, two = quick(redis_url, "one"), quick(redis_url, "two")
    await one.start(lambda message: None)
    await two.start(heard.append)
    one.publish(number(1), ["of an older release"])
    await until(lambda: heard == [number(1)])
    await one.stop()
    await two.stop()


async def test_probes_tell_how_long_a_message_takes(redis_url: str) -> None:
    found: list[float] = []
    bus = quick(redis_url, "a", on_latency=found.append)
    await bus.start(lambda message: None)
    try:
        await until(lambda: len(found) >= 2)
    finally:
        await bus.stop()
    assert all(0.0 < seconds < 60.0 for seconds in found)
