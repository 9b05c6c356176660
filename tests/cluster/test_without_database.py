"""The database away for some seconds: what was accepted is spooled, delivered live, and drained."""

from __future__ import annotations

import asyncio
import os
import signal
import time

from tests import servers
from tests.cluster.conftest import Cluster
from tests.wire import eventually, listening

THINKING = ("agent_thinking",)
# A pooled connection is asked 3 s, a new one gets 3 s; a commit under way 11 s.
LONGEST = 20.0


async def test_a_frozen_database_is_given_up_and_its_events_are_drained_later(
    cluster: Cluster, own_postgres: servers.Server
) -> None:
    async with listening(cluster.gateways[0].url, cluster.token("icy")) as page:
        (before,) = await asyncio.to_thread(cluster.emit, "icy", "run", THINKING)
        await page.until(lambda: before in page.ids)
        begun = time.monotonic()
        own_postgres.stop()
        try:
            frozen = await asyncio.to_thread(cluster.emit, "icy")
            assert time.monotonic() - begun < LONGEST, "accepted means: somewhere durable"
            await page.until(lambda: set(frozen) <= set(page.ids))
            assert time.monotonic() - begun < LONGEST, "and a connected client has it live"
        finally:
            own_postgres.cont()
        await eventually(
            lambda: cluster.http().get(f"/v1/events/{frozen[-1]}").status_code,
            lambda status: status == 200,
            40.0,
        )
        await eventually(
            lambda: cluster.states([before, *frozen]),
            lambda states: states == ["confirmed"] * 6,
            40.0,
        )
        (after,) = await asyncio.to_thread(cluster.emit, "icy", "run-2", THINKING)
        await page.until(lambda: after in page.ids)
    events = [cluster.event(event_id) for event_id in frozen]
    assert [event["seq"] for event in events] == [1 + n for n in range(1, 6)], "in order"
    # An ack that could not be recorded in time may have cost a resend, and nothing else.
    assert list(dict.fromkeys(page.ids)) == [before, *frozen, after]


async def test_a_database_that_crashes_and_comes_back_has_everything(
    cluster: Cluster, own_postgres: servers.Server
) -> None:
    async with listening(cluster.gateways[1].url, cluster.token("crash")) as page:
        (before,) = await asyncio.to_thread(cluster.emit, "crash", "run", THINKING)
        await page.until(lambda: before in page.ids)
        own_postgres.kill()
        try:
            begun = time.monotonic()
            during = await asyncio.to_thread(cluster.emit, "crash", "run-2")
            assert time.monotonic() - begun < 5.0, "a refused connection costs nothing"
            await page.until(lambda: set(during) <= set(page.ids))
        finally:
            own_postgres.restart()
        await eventually(
            lambda: [cluster.http().get(f"/v1/events/{i}").status_code for i in during],
            lambda seen: set(seen) == {200},
            40.0,
        )
        await eventually(
            lambda: cluster.states(during), lambda states: set(states) == {"confirmed"}, 40.0
        )


async def test_what_a_killed_gateway_had_spooled_is_adopted(
    cluster: Cluster, own_postgres: servers.Server
) -> None:
    gateway = cluster.gateways[1]
    own_postgres.kill()
    try:
        ids = await asyncio.to_thread(cluster.emit, "orphan", gateway=1)
        os.kill(gateway.running.process.pid, signal.SIGKILL)
        gateway.running.process.wait(10)
    finally:
        own_postgres.restart()
    gateway.begin()
    await eventually(
        lambda: [cluster.http().get(f"/v1/events/{i}").status_code for i in ids],
        lambda seen: set(seen) == {200},
        40.0,
    )
    await asyncio.to_thread(gateway.ready)
    async with listening(gateway.url, cluster.token("orphan")) as page:
        await page.until(lambda: set(ids) <= set(page.ids))
        await eventually(
            lambda: cluster.states(ids), lambda states: set(states) == {"confirmed"}, 40.0
        )
