"""Faults in which servers change places: PostgreSQL, Redis, and Redis behind Sentinel.

Owns: these scenarios, and how long the gateways take to work with the new primary. The old primary
stays up under its old address for a while, answers, and takes no writes.
"""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request

from delivery.bench.faults import replication
from delivery.bench.faults.injection import TIMEOUT, ScenarioContext, in_thread
from delivery.errors import DeliveryError

POLL = 0.1
RECOVERY_TIMEOUT = 60.0
HEALTHY = 2.5
"""Seconds for which a gateway must name no outage: it asks Redis every two seconds."""


async def switch_postgres(context: ScenarioContext) -> None:
    """The primary ends, its standby takes over, and the old one comes back as a standby; only then
    does the processes' address lead to the new primary."""
    primary, standby = context.cluster.servers.postgres, context.cluster.servers.standby
    proxy = context.cluster.database_proxy
    if standby is None or proxy is None:
        raise DeliveryError("this scenario needs a standby behind a proxy")
    await context.calm()
    async with context.fault("postgres switched over"):
        await in_thread(lambda: replication.switch_over(primary, standby))
        await asyncio.sleep(context.plan.away)  # every process connects to the old primary again
        context.cluster.postgres = standby
        proxy.targets = [replication.port_of(standby)]
    await _recovered(context)


async def switch_redis(context: ScenarioContext) -> None:
    """The replica becomes the primary, the old primary its replica, and then the processes' address
    leads to the new one; connections to the old one stay open."""
    primary, replica = context.cluster.servers.redis, context.cluster.servers.replica
    proxy = context.cluster.redis_proxy
    if replica is None or proxy is None:
        raise DeliveryError("this scenario needs a replica behind a proxy")
    await context.calm()
    async with context.fault("redis failed over"):
        await in_thread(lambda: replication.redis_switch_over(primary, replica))
        await asyncio.sleep(context.plan.away)
        proxy.targets = [replication.port_of(replica)]
    await _recovered(context)


async def lose_the_sentinels_primary(context: ScenarioContext) -> None:
    """The primary is killed; Sentinel makes the replica the new one."""
    servers = context.cluster.servers
    if servers.replica is None or servers.sentinel is None:
        raise DeliveryError("this scenario needs a replica and a sentinel")
    sentinel, primary = servers.sentinel, servers.redis
    await context.calm()
    async with context.fault("redis killed, sentinel promotes"):
        await in_thread(primary.kill)
        await in_thread(lambda: replication.sentinel_chose_another(sentinel, primary))
    await _recovered(context)


async def _recovered(context: ScenarioContext) -> None:
    """Wait until no gateway names an outage, and record how long that took.

    Raises:
        DeliveryError: one never did.
    """
    began = time.monotonic()
    since: float | None = None
    while since is None or time.monotonic() - since < HEALTHY:
        found: set[str] = set()
        for port in context.cluster.ports:
            found |= await asyncio.to_thread(_outages, port)
        if found:
            since = None
            context.notes["outages"] = sorted(found.union(context.notes.get("outages", ())))
        elif since is None:
            since = time.monotonic()
        if time.monotonic() - began > RECOVERY_TIMEOUT:
            raise DeliveryError(f"the gateways still name outages: {', '.join(found)}")
        await asyncio.sleep(POLL)
    context.recovered_s = since - began


def _outages(port: int) -> set[str]:
    url = f"http://127.0.0.1:{port}/readyz"
    with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
        return {f"{one['service']} {one['kind']}" for one in json.load(answer)["outages"]}
