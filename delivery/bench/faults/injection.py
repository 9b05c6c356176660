"""Fault injection: one function per scenario, which runs beside the load.

Owns: the plan of a run, when and how often something breaks, and the record of it. Each function
leaves everything standing, or dead for ``restore`` to start again. Never does: look at what became
of the events.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import redis
from sqlalchemy import make_url

from delivery.bench.faults.audit import Window
from delivery.bench.faults.cluster import Cluster, Command
from delivery.bench.faults.listeners import Clients
from delivery.bench.faults.producers import Producers
from delivery.bench.faults.servers import Server
from delivery.errors import DeliveryError

TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes and times of a scenario.

    Attributes:
        rate: events per second, over all users.
        seconds: of load.
        outage: seconds that a server is away; ``away`` those that a cut client stays away.
        every: seconds between two faults of a scenario that repeats them.
        drain: seconds in which every event must have ended after the load.
        backlog: events that the backlog scenarios gather.
    """

    users: int = 200
    rate: float = 200.0
    seconds: float = 60.0
    outage: float = 20.0
    away: float = 2.0
    every: float = 5.0
    drain: float = 90.0
    backlog: int = 10_000
    seed: int = 1


@dataclass
class ScenarioContext:
    """One scenario while it runs: cluster, clients, producers, and the record of faults.

    Attributes:
        recovered_s: from the end of a fault until no gateway named an outage, where that is looked
            at.
    """

    cluster: Cluster
    clients: Clients
    producers: Producers
    plan: Plan
    started_at: float = field(default_factory=time.monotonic)
    windows: list[Window] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    recovered_s: float = 0.0

    def __post_init__(self) -> None:
        self.random = random.Random(self.plan.seed)

    @property
    def left(self) -> float:
        """Seconds of load to come."""
        return self.started_at + self.plan.seconds - time.monotonic()

    @asynccontextmanager
    async def fault(self, what: str) -> AsyncIterator[None]:
        """Record a fault that lasts until the end of the block."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self.windows.append(Window(what, begin, time.monotonic()))

    async def calm(self) -> None:
        """Let the load run undisturbed at first."""
        await asyncio.sleep(min(self.plan.every, self.plan.seconds / 6))

    async def again(self) -> AsyncIterator[int]:
        """Yield the number of each round of a repeated fault, while there is time left."""
        round_ = 0
        await self.calm()
        while self.left > self.plan.away:
            yield round_
            round_ += 1
            await asyncio.sleep(self.plan.every)

    async def outage(self) -> None:
        """Wait as long as a server is away."""
        await asyncio.sleep(self.plan.outage)


async def in_thread(work: Callable[[], object]) -> None:
    """Do blocking work while the load goes on."""
    await asyncio.to_thread(work)


async def restart(commands: Iterable[Command]) -> None:
    """Start processes and wait until they work."""
    found = list(commands)
    for command in found:
        command.begin()
    await asyncio.gather(*(asyncio.to_thread(command.ready) for command in found))


async def restore(cluster: Cluster) -> None:
    """Make every part work again, however the scenario ended."""
    for proxy in (
        cluster.clients_proxy,
        cluster.producers_proxy,
        cluster.database_proxy,
        cluster.redis_proxy,
    ):
        if proxy is not None:
            proxy.heal()
    for server in (cluster.servers.postgres, cluster.servers.redis):
        await in_thread(server.cont if server.is_running else server.start)
    gone = [one for one in (*cluster.gateways, *cluster.workers) if not one.is_running]
    await restart(gone)


async def cut_clients(context: ScenarioContext) -> None:
    """RST for a random half of the clients, again and again; each stays away for a while."""
    async for _ in context.again():
        async with context.fault("clients cut"):
            context.cluster.clients_proxy.cut(0.5, uniform=context.random.random)


async def kill_a_gateway(context: ScenarioContext) -> None:
    """SIGKILL for one gateway after the other, in mid-burst; each comes back after a while."""
    async for number in context.again():
        gateway = context.cluster.gateways[number % len(context.cluster.gateways)]
        async with context.fault(f"{gateway.name} killed"):
            await in_thread(gateway.kill)
        await asyncio.sleep(context.plan.away)
        await restart([gateway])


async def kill_all_gateways(context: ScenarioContext) -> None:
    """SIGKILL for every gateway at once; none serves until they have started again."""
    async for _ in context.again():
        async with context.fault("all gateways killed"):
            for gateway in context.cluster.gateways:
                await in_thread(gateway.kill)
            await restart(context.cluster.gateways)


async def roll_gateways(context: ScenarioContext) -> None:
    """SIGTERM for one gateway after the other, as a deploy does."""
    await context.calm()
    for gateway in context.cluster.gateways:
        async with context.fault(f"{gateway.name} stopped"):
            status = await asyncio.to_thread(gateway.stop)
        if status:
            raise DeliveryError(f"{gateway.name} ended with {status} on SIGTERM")
        await restart([gateway])
        await context.calm()


async def kill_workers(context: ScenarioContext) -> None:
    """SIGKILL for one worker after the other, while users who are away keep the chain busy."""
    async for number in context.again():
        worker = context.cluster.workers[number % len(context.cluster.workers)]
        async with context.fault(f"{worker.name} killed"):
            context.cluster.clients_proxy.cut(0.5, uniform=context.random.random)
            await in_thread(worker.kill)
        await asyncio.sleep(context.plan.away)
        await restart([worker])


async def freeze_redis(context: ScenarioContext) -> None:
    """SIGSTOP: Redis answers nothing, and its connections stay open."""
    await _freeze(context, context.cluster.servers.redis)


async def kill_redis(context: ScenarioContext) -> None:
    """Redis crashes, and comes back with what it had written."""
    await _kill(context, context.cluster.servers.redis)


async def empty_redis(context: ScenarioContext) -> None:
    """Redis crashes, and comes back with nothing."""
    await context.calm()
    server = context.cluster.servers.redis
    async with context.fault("redis killed"):
        await in_thread(server.kill)
        await context.outage()
        await in_thread(lambda: _forget(server))
        await in_thread(server.start)


async def flush_redis(context: ScenarioContext) -> None:
    """Everything in Redis is deleted, again and again: broker, copies, subscribers stay."""
    async for _ in context.again():
        async with context.fault("redis flushed"):
            await in_thread(lambda: _flush(context.cluster.servers.redis))


async def freeze_postgres(context: ScenarioContext) -> None:
    """SIGSTOP: PostgreSQL answers nothing, and its connections stay open."""
    await _freeze(context, context.cluster.servers.postgres)


async def restart_postgres(context: ScenarioContext) -> None:
    """PostgreSQL crashes in mid-transaction and starts again at once; then again."""
    async for _ in context.again():
        async with context.fault("postgres restarted"):
            await in_thread(context.cluster.servers.postgres.kill)
            await in_thread(context.cluster.servers.postgres.start)
        await asyncio.sleep(context.plan.away)


async def lock_postgres(context: ScenarioContext) -> None:
    """PostgreSQL takes no writes, as a replica or a full disk."""
    await context.calm()
    url = context.cluster.servers.postgres.url
    async with context.fault("postgres read-only"):
        await in_thread(lambda: _make_read_only(url, True))
        try:
            await context.outage()
        finally:
            await in_thread(lambda: _make_read_only(url, False))


async def kill_everything_below(context: ScenarioContext) -> None:
    """PostgreSQL and Redis away at once: the spool alone makes events durable."""
    await context.calm()
    servers = context.cluster.servers
    async with context.fault("postgres and redis killed"):
        await in_thread(servers.postgres.kill)
        await in_thread(servers.redis.kill)
        await context.outage()
        await asyncio.gather(in_thread(servers.postgres.start), in_thread(servers.redis.start))


async def deafen_the_bus(context: ScenarioContext) -> None:
    """The gateways' subscribers receive nothing, while Redis answers their other connections."""
    proxy = context.cluster.redis_proxy
    if proxy is None:
        raise DeliveryError("this scenario needs a proxied cluster")
    await context.calm()
    while context.left > context.plan.outage / 2:
        async with context.fault("subscribers deaf"):
            if not proxy.silence(b"SUBSCRIBE"):
                raise DeliveryError("no subscriber was found on the way to Redis")
        await context.outage()


async def lose_answers(context: ScenarioContext) -> None:
    """The service takes a post, and its answer is lost."""
    async for _ in context.again():
        async with context.fault("answers to producers lost"):
            context.cluster.producers_proxy.swallow(b"POST /v1/events", 8)
    context.notes["answers lost"] = context.cluster.producers_proxy.count("swallow")


async def lose_commits(context: ScenarioContext) -> None:
    """PostgreSQL commits, and its answer is lost: the gateway cannot tell whether it did."""
    proxy = context.cluster.database_proxy
    if proxy is None:
        raise DeliveryError("this scenario needs a proxied cluster")
    async for _ in context.again():
        async with context.fault("answers to commits lost"):
            proxy.swallow(b"COMMIT", 4)
    context.notes["commits whose answer was lost"] = proxy.count("swallow")


async def nothing(context: ScenarioContext) -> None:
    """Nothing breaks."""
    context.notes["faults"] = "none"


async def gather_without_redis(context: ScenarioContext) -> None:
    """A backlog gathers while Redis is frozen."""
    await _gather(context, context.cluster.servers.redis)


async def gather_without_postgres(context: ScenarioContext) -> None:
    """A backlog gathers in the spool while PostgreSQL is frozen."""
    await _gather(context, context.cluster.servers.postgres)


async def _gather(context: ScenarioContext, server: Server) -> None:
    async with context.fault(f"{server.version} frozen"):
        await in_thread(server.stop)
        try:
            await context.producers.pace(
                context.plan.backlog / context.plan.outage, context.plan.outage
            )
        finally:
            await in_thread(server.cont)


async def _freeze(context: ScenarioContext, server: Server) -> None:
    await context.calm()
    async with context.fault(f"{server.version} frozen"):
        await in_thread(server.stop)
        try:
            await context.outage()
        finally:
            await in_thread(server.cont)


async def _kill(context: ScenarioContext, server: Server) -> None:
    await context.calm()
    async with context.fault(f"{server.version} killed"):
        await in_thread(server.kill)
        await context.outage()
        await in_thread(server.start)


def _flush(server: Server) -> None:
    with closing(redis.Redis.from_url(server.url, socket_timeout=TIMEOUT)) as client:
        client.flushall()


def _forget(server: Server) -> None:
    """Delete what a dead Redis has written."""
    for path in Path(server.folder, "appendonlydir").glob("*"):
        path.unlink()


def _make_read_only(url: str, locked: bool) -> None:
    conninfo = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    options: dict[str, Any] = {"options": "-c default_transaction_read_only=off"}
    with psycopg.connect(conninfo, autocommit=True, **options) as connection:
        value = b"on" if locked else b"off"
        connection.execute(b"ALTER SYSTEM SET default_transaction_read_only = " + value)
        connection.execute("SELECT pg_reload_conf()")
