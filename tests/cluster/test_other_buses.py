"""Gateways whose bus is a Redis cluster, and one whose connection to the bus goes deaf."""

from __future__ import annotations

import asyncio
import time

import redis

from delivery.bench.faults.proxy import fault_proxy
from tests import servers
from tests.cluster.conftest import Cluster
from tests.wire import listening

THINKING = ("agent_thinking",)


async def test_a_connection_that_hears_nothing_is_noticed_and_what_it_missed_arrives(
    cluster: Cluster, own_redis: servers.Server
) -> None:
    port = int(own_redis.url.rpartition(":")[2].partition("/")[0])
    async with fault_proxy(port) as proxy:
        settings = {
            "REDIS_URL": f"redis://127.0.0.1:{proxy.port}/0",
            "BROKER_URL": own_redis.url,
        }
        context = cluster.extra("deaf", **settings)
        gateway = await asyncio.to_thread(context.__enter__)
        try:
            async with listening(gateway.url, cluster.token("deaf")) as page:
                (heard,) = await asyncio.to_thread(cluster.emit, "deaf", "run", THINKING)
                await page.until(lambda: heard in page.ids)
                proxy.silence()
                begun = time.monotonic()
                (missed,) = await asyncio.to_thread(cluster.emit, "deaf", "run", THINKING)
                await page.until(lambda: missed in page.ids, 20.0)
                assert time.monotonic() - begun < 15.0
                (after,) = await asyncio.to_thread(cluster.emit, "deaf", "run", THINKING)
                await page.until(lambda: after in page.ids, 5.0)
        finally:
            await asyncio.to_thread(context.__exit__, None, None, None)


async def test_gateways_talk_over_a_redis_cluster_on_a_shard_channel_each(
    cluster: Cluster, own_redis: servers.Server
) -> None:
    with servers.redis_cluster(1) as (shards,):
        settings = {"REDIS_URL": shards.url, "BROKER_URL": own_redis.url}
        first = cluster.extra("shard-a", **settings)
        second = cluster.extra("shard-b", **settings)
        gateways = await asyncio.gather(
            asyncio.to_thread(first.__enter__), asyncio.to_thread(second.__enter__)
        )
        try:
            with redis.Redis.from_url(shards.url) as client:
                names = client.execute_command("PUBSUB SHARDCHANNELS")
                assert {name.decode().partition("#")[0] for name in names} == {
                    "delivery:bus",
                    "delivery:bus:shard-a",
                    "delivery:bus:shard-b",
                }
                assert client.pubsub_channels() == []
            cluster.gateways += gateways
            async with listening(gateways[1].url, cluster.token("sharded")) as page:
                for _ in range(5):
                    (event_id,) = await asyncio.to_thread(
                        cluster.emit, "sharded", "run", THINKING, gateway=-2
                    )
                    await page.until(lambda event_id=event_id: event_id in page.ids, 5.0)
        finally:
            del cluster.gateways[2:]
            for context in (first, second):
                await asyncio.to_thread(context.__exit__, None, None, None)
