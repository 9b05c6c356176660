"""What gateways of a cluster know of each other: events, acks, receipts, presence, a sick Redis."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import redis
from aiohttp import web

from delivery.bootstrap import embed
from delivery.bootstrap.mount import Mounted
from delivery.config import load_settings
from tests import servers
from tests.cluster.conftest import Cluster
from tests.processes import AUDIT_SECRET
from tests.wire import Listener, eventually, listening

SAMPLES = 50
FROZEN = 3.0  # seconds, so that every client of Redis meets its timeouts
THINKING = ("agent_thinking",)


async def emit_to_arrival(
    cluster: Cluster, page: Listener, user: str, gateway: int, count: int
) -> list[float]:
    """Milliseconds from the moment a gateway took an event to its arrival, one at a time."""
    samples = []
    headers = {"Authorization": f"Bearer {cluster.service_token}"}
    url = f"{cluster.gateways[gateway].url}/v1/events"
    async with httpx.AsyncClient(headers=headers, timeout=30.0) as http:
        for _ in range(count):
            before = len(page.events)
            event = {"type": "agent_thinking", "user_id": user, "run_id": "run", "data": {}}
            begun = time.perf_counter()
            answer = asyncio.create_task(http.post(url, json=event))
            await page.receive(before + 1)
            samples.append((time.perf_counter() - begun) * 1000)
            assert (await answer).status_code == 202
    return samples


async def test_an_event_crosses_gateways_within_milliseconds(cluster: Cluster) -> None:
    async with listening(cluster.gateways[0].url, cluster.token("fast")) as page:
        await emit_to_arrival(cluster, page, "fast", 1, 5)  # connections and caches are warm
        samples = await emit_to_arrival(cluster, page, "fast", 1, SAMPLES)
    # From the request's first byte: HTTP, the commit, Redis and the socket are all in it.
    assert statistics.median(samples) < 60.0, sorted(samples)


async def test_two_devices_on_two_gateways_both_get_it_and_each_leaves_a_confirmation(
    cluster: Cluster,
) -> None:
    token = cluster.token("duo")
    async with (
        listening(cluster.gateways[0].url, token, device="phone", acks=False) as phone,
        listening(cluster.gateways[1].url, token, device="laptop", acks=False) as laptop,
    ):
        (event_id,) = await asyncio.to_thread(cluster.emit, "duo", "run", THINKING)
        await phone.receive(1)
        await laptop.receive(1)
        await laptop.send({"type": "ack", "upto": 1})
        first = await eventually(
            lambda: cluster.event(event_id), lambda event: event["state"] == "confirmed"
        )
        assert [confirmation["by"] for confirmation in first["confirmations"]] == ["laptop"]
        await phone.send({"type": "ack", "ids": [event_id]})
        both = await eventually(
            lambda: cluster.event(event_id), lambda event: len(event["confirmations"]) == 2
        )
    assert [confirmation["by"] for confirmation in both["confirmations"]] == ["laptop", "phone"]


async def test_an_ack_may_be_posted_at_any_node(cluster: Cluster) -> None:
    token = cluster.token("poster")
    async with listening(cluster.gateways[0].url, token, acks=False) as page:
        (event_id,) = await asyncio.to_thread(cluster.emit, "poster", "run", THINKING)
        await page.receive(1)

        def ack() -> httpx.Response:
            return httpx.post(
                f"{cluster.gateways[1].url}/v1/acks",
                json={"ids": [event_id, "01900000-0000-7000-8000-00000000beef"]},
                headers={"Authorization": f"Bearer {token}"},
            )

        answer = await asyncio.to_thread(ack)
        assert answer.json() == {
            "confirmed": [event_id],
            "unknown": ["01900000-0000-7000-8000-00000000beef"],
        }
    assert cluster.states([event_id]) == ["confirmed"]


@asynccontextmanager
async def in_this_process(cluster: Cluster) -> AsyncIterator[Mounted]:
    """One more node of the cluster, inside of an application of the test's own."""
    names = ("database_url", "redis_url", "jwt_secret", "policies")
    values = {name: cluster.settings[name.upper()] for name in names}
    values |= {"audit_secret": AUDIT_SECRET}
    values |= {"data_dir": str(cluster.folder / "own"), "node": "own"}
    app = web.Application()
    mounted = await asyncio.to_thread(embed, app, load_settings(**values))
    runner = web.AppRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield mounted
    finally:
        await runner.cleanup()


async def test_a_receipt_in_process_sees_a_confirmation_on_another_node(
    cluster: Cluster,
) -> None:
    async with in_this_process(cluster) as node:
        url = cluster.gateways[1].url
        async with listening(url, cluster.token("seen"), acks=False) as page:
            emitter = node.emitter("seen", "run")
            receipt = await emitter.emit("agent_thinking", {"thought": "hm"})
            await page.receive(1)
            assert await receipt.confirmed(0.05) is False, "it is not acknowledged"
            waiting = asyncio.create_task(receipt.confirmed(20.0))
            begun = time.perf_counter()
            await page.send({"type": "ack", "upto": 1})
            assert await waiting is True
            assert time.perf_counter() - begun < 2.0
    # The other node commits what its clients acknowledged a moment later.
    await eventually(lambda: cluster.states([receipt.id]), lambda seen: seen == ["confirmed"])


def redis_port(server: servers.Server) -> int:
    return int(server.url.rpartition(":")[2].partition("/")[0])


async def test_a_frozen_redis_leaves_the_fast_path_flat_and_loses_nothing(
    cluster: Cluster, own_redis: servers.Server
) -> None:
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(
            listening(cluster.gateways[0].url, cluster.token("flat"))
        )
        there = await stack.enter_async_context(
            listening(cluster.gateways[1].url, cluster.token("far"))
        )
        calm = await emit_to_arrival(cluster, here, "flat", 0, SAMPLES)
        own_redis.stop()
        try:
            # A user at the other node, and one who is away: both need Redis now.
            far = await asyncio.to_thread(cluster.emit, "far")
            away = await asyncio.to_thread(cluster.emit, "gone", "run", THINKING)
            frozen: list[float] = []
            until = time.monotonic() + FROZEN
            while time.monotonic() < until:
                frozen += await emit_to_arrival(cluster, here, "flat", 0, 10)
        finally:
            own_redis.cont()
        assert statistics.median(frozen) < 3 * statistics.median(calm) + 10, (calm, frozen)
        assert max(frozen) < 500.0, sorted(frozen)
        await there.until(lambda: set(far) <= set(there.ids), 40.0)
        await eventually(
            lambda: cluster.states(far), lambda states: states == ["confirmed"] * 5, 40.0
        )
        await eventually(
            lambda: cluster.outcomes(away[0]), lambda seen: ("direct", "failed") in seen, 60.0
        )


async def test_a_redis_that_comes_back_empty_is_subscribed_to_again(
    cluster: Cluster, own_redis: servers.Server
) -> None:
    async with listening(cluster.gateways[0].url, cluster.token("again")) as page:
        (first,) = await asyncio.to_thread(cluster.emit, "again", "run", THINKING, gateway=1)
        await page.until(lambda: first in page.ids)
        own_redis.kill()
        (during,) = await asyncio.to_thread(cluster.emit, "again", "run", THINKING, gateway=1)
        own_redis.restart()

        def subscribers() -> int:
            with redis.Redis(port=redis_port(own_redis)) as client:
                return int(client.pubsub_numsub("delivery:bus")[0][1])

        await eventually(subscribers, lambda count: count >= 2, 20.0)
        # A new subscription has caught up with the ledger.
        await page.until(lambda: during in page.ids, 20.0)
        (after,) = await asyncio.to_thread(cluster.emit, "again", "run", THINKING, gateway=1)
        await page.until(lambda: after in page.ids)
        await eventually(
            lambda: cluster.states([first, during, after]),
            lambda states: states == ["confirmed"] * 3,
            40.0,
        )


async def test_a_killed_gateways_users_are_handed_over_at_once_when_it_is_missed(
    cluster: Cluster,
) -> None:
    """Until then they are believed to be there, and wait out the ack timeout."""
    gateway = cluster.gateways[1]

    async def reason(run: str) -> str:
        (event_id,) = await asyncio.to_thread(cluster.emit, "lost", run, THINKING)
        event = await eventually(
            lambda: cluster.event(event_id), lambda event: event["attempts"], 20.0
        )
        return str(event["attempts"][0]["error"])

    async with listening(gateway.url, cluster.token("lost")) as page:
        (event_id,) = await asyncio.to_thread(cluster.emit, "lost", "before", THINKING)
        await page.until(lambda: event_id in page.ids)
        os.kill(gateway.running.process.pid, signal.SIGKILL)
        gateway.running.process.wait(10)
    begun = time.monotonic()
    reasons = [await reason("during")]
    while "nobody connected" not in reasons[-1]:
        assert time.monotonic() - begun < 20.0, reasons
        reasons.append(await reason("during"))
    assert "nobody connected" not in reasons[0], "it was not missed at once"
    gateway.begin().ready()
    async with listening(gateway.url, cluster.token("lost")) as page:
        (event_id,) = await asyncio.to_thread(cluster.emit, "lost", "after", THINKING)
        await page.until(lambda: event_id in page.ids)
