"""Shared token buckets on real servers: exact together, short without them."""

from __future__ import annotations

import asyncio
import signal
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import redis

from delivery.bus.rate_leases import PREFIX, RedisLeases
from delivery.callers.rates import Rates
from delivery.errors import RateLimited
from tests import servers


@asynccontextmanager
async def nodes(url: str, count: int, per_second: float) -> AsyncIterator[list[Rates]]:
    leases = [RedisLeases(url, timeout=2.0) for _ in range(count)]
    try:
        yield [Rates({"emit": per_second}, one) for one in leases]
    finally:
        for one in leases:
            await one.close()


async def admitted(rates: Rates, caller: str, tries: int, cost: int = 1) -> int:
    passed = 0
    for _ in range(tries):
        try:
            await rates.take("emit", caller, cost)
        except RateLimited:
            continue
        passed += 1
    return passed


async def test_gateways_share_one_limit(redis_url: str) -> None:
    caller = uuid.uuid4().hex
    async with nodes(redis_url, 3, 20.0) as (one, two, three):
        began = time.monotonic()
        found = await asyncio.gather(*(admitted(node, caller, 300) for node in (one, two, three)))
        most = 200 + 20.0 * (time.monotonic() - began) + 1
        assert 200 <= sum(found) <= most


async def test_a_batch_counts_its_events_everywhere(redis_url: str) -> None:
    caller = uuid.uuid4().hex
    async with nodes(redis_url, 2, 5.0) as (one, two):
        await one.take("emit", caller, 1_000)
        try:
            await two.take("emit", caller)
        except RateLimited as error:
            assert 150.0 < error.retry_after <= 200.0  # noqa: PT017 - the wait is the point
        else:
            raise AssertionError("a second gateway knew nothing of it")


async def test_keys_hold_no_names_and_end_by_themselves(redis_url: str) -> None:
    caller = f"zoe-{uuid.uuid4().hex}"  # letters that no hash in hexadecimal has
    async with nodes(redis_url, 1, 20.0) as (one,):
        await one.take("emit", caller)
    with redis.Redis.from_url(redis_url) as client:
        keys = list(client.scan_iter(f"{PREFIX}:*", count=1_000))
        assert keys
        assert not any(b"zoe" in key for key in keys)
        assert all(0 < client.pttl(key) <= 30 * 60_000 for key in keys)


async def test_a_redis_that_is_frozen_then_restarted_costs_little_and_is_used_again() -> None:
    with servers.redis_server() as server:
        leases = RedisLeases(server.url, timeout=0.2)
        rates = Rates({"emit": 20.0}, leases)
        try:
            assert await admitted(rates, "a", 10) == 10
            with redis.Redis.from_url(server.url) as client:
                client.script_flush()
            assert await admitted(rates, "b", 1) == 1
            server.process.send_signal(signal.SIGSTOP)
            began = time.monotonic()
            # Each holds its limit alone: a caller is admitted up to the burst and no further.
            assert 200 <= await admitted(rates, "c", 400) < 300
            assert time.monotonic() - began < 10.0
            server.process.send_signal(signal.SIGCONT)
        finally:
            await leases.close()


async def test_a_cluster_keeps_each_bucket_on_the_server_of_its_slot() -> None:
    with servers.redis_cluster(2) as members:
        async with nodes(members[0].url, 2, 20.0) as (one, two):
            for number in range(8):
                caller = f"caller-{number}"
                began = time.monotonic()
                found = await admitted(one, caller, 150) + await admitted(two, caller, 150)
                assert 200 <= found <= 200 + 20.0 * (time.monotonic() - began) + 1
