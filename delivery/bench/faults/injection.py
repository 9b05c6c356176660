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
from delivery.bench.faults.listeners import Audience
from delivery.bench.faults.producers import Producing
from delivery.bench.faults.servers import Server
from delivery.errors import DeliveryError

PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How large and how long.

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
class Stage:
    """One scenario while it runs."""

    cluster: Cluster
    audience: Audience
    producing: Producing
    plan: Plan
    begun: float = field(default_factory=time.monotonic)
    windows: list[Window] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.plan.seed)

    @property
    def left(self) -> float:
        """Seconds of load to come."""
        return self.begun + self.plan.seconds - time.monotonic()

    @asynccontextmanager
    async def fault(self, what: str) -> AsyncIterator[None]:
        """Something is broken from here until the end of the block."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self.windows.append(Window(what, begin, time.monotonic()))

    async def calm(self) -> None:
        """Let the load run undisturbed at first."""
        await asyncio.sleep(min(self.plan.every, self.plan.seconds / 6))

    async def again(self) -> AsyncIterator[int]:
        """Count the rounds of a fault that comes every few seconds, while there is time left."""
        round_ = 0
        await self.calm()
        while self.left > self.plan.away:
            yield round_
            round_ += 1
            await asyncio.sleep(self.plan.every)

    async def outage(self) -> None:
        """As long as a server is away."""
        await asyncio.sleep(self.plan.outage)


async def aside(work: Callable[[], object]) -> None:
    """Do blocking work while the load goes on."""
    await asyncio.to_thread(work)


async def begin_again(commands: Iterable[Command]) -> None:
    """Start processes and wait until they work."""
    found = list(commands)
    for command in found:
        command.begin()
    await asyncio.gather(*(asyncio.to_thread(command.ready) for command in found))


async def restore(cluster: Cluster) -> None:
    """Whatever was broken works again, however the scenario ended."""
    for way in (cluster.front, cluster.door, cluster.database_way, cluster.redis_way):
        if way is not None:
            way.heal()
    for server in (cluster.servers.postgres, cluster.servers.redis):
        await aside(server.cont if server.is_running else server.start)
    gone = [one for one in (*cluster.gateways, *cluster.workers) if not one.is_running]
    await begin_again(gone)


async def cut_clients(stage: Stage) -> None:
    """RST for a random half of the clients, again and again; each stays away for a while."""
    async for _ in stage.again():
        async with stage.fault("clients cut"):
            stage.cluster.front.cut(0.5, dice=stage.dice.random)


async def kill_a_gateway(stage: Stage) -> None:
    """SIGKILL for one gateway after the other, in mid-burst; each comes back after a while."""
    async for number in stage.again():
        gateway = stage.cluster.gateways[number % len(stage.cluster.gateways)]
        async with stage.fault(f"{gateway.name} killed"):
            await aside(gateway.kill)
        await asyncio.sleep(stage.plan.away)
        await begin_again([gateway])


async def kill_all_gateways(stage: Stage) -> None:
    """SIGKILL for every gateway at once; nobody is there until they have started again."""
    async for _ in stage.again():
        async with stage.fault("all gateways killed"):
            for gateway in stage.cluster.gateways:
                await aside(gateway.kill)
            await begin_again(stage.cluster.gateways)


async def roll_gateways(stage: Stage) -> None:
    """SIGTERM for one gateway after the other, as a deploy does."""
    await stage.calm()
    for gateway in stage.cluster.gateways:
        async with stage.fault(f"{gateway.name} stopped"):
            status = await asyncio.to_thread(gateway.stop)
        if status:
            raise DeliveryError(f"{gateway.name} ended with {status} on SIGTERM")
        await begin_again([gateway])
        await stage.calm()


async def kill_workers(stage: Stage) -> None:
    """SIGKILL for one worker after the other, while users who are away keep the chain busy."""
    async for number in stage.again():
        worker = stage.cluster.workers[number % len(stage.cluster.workers)]
        async with stage.fault(f"{worker.name} killed"):
            stage.cluster.front.cut(0.5, dice=stage.dice.random)
            await aside(worker.kill)
        await asyncio.sleep(stage.plan.away)
        await begin_again([worker])


async def freeze_redis(stage: Stage) -> None:
    """SIGSTOP: Redis answers nothing, and its connections stay open."""
    await _freeze(stage, stage.cluster.servers.redis)


async def kill_redis(stage: Stage) -> None:
    """Redis crashes, and comes back with what it had written."""
    await _kill(stage, stage.cluster.servers.redis)


async def empty_redis(stage: Stage) -> None:
    """Redis crashes, and comes back with nothing."""
    await stage.calm()
    server = stage.cluster.servers.redis
    async with stage.fault("redis killed"):
        await aside(server.kill)
        await stage.outage()
        await aside(lambda: _forget(server))
        await aside(server.start)


async def flush_redis(stage: Stage) -> None:
    """Everything in Redis is deleted, again and again: broker, copies, subscribers stay."""
    async for _ in stage.again():
        async with stage.fault("redis flushed"):
            await aside(lambda: _flush(stage.cluster.servers.redis))


async def freeze_postgres(stage: Stage) -> None:
    """SIGSTOP: PostgreSQL answers nothing, and its connections stay open."""
    await _freeze(stage, stage.cluster.servers.postgres)


async def restart_postgres(stage: Stage) -> None:
    """PostgreSQL crashes in mid-transaction and starts again at once; then again."""
    async for _ in stage.again():
        async with stage.fault("postgres restarted"):
            await aside(stage.cluster.servers.postgres.kill)
            await aside(stage.cluster.servers.postgres.start)
        await asyncio.sleep(stage.plan.away)


async def lock_postgres(stage: Stage) -> None:
    """PostgreSQL takes no writes, as a replica or a full disk."""
    await stage.calm()
    url = stage.cluster.servers.postgres.url
    async with stage.fault("postgres read-only"):
        await aside(lambda: _make_read_only(url, True))
        try:
            await stage.outage()
        finally:
            await aside(lambda: _make_read_only(url, False))


async def kill_everything_below(stage: Stage) -> None:
    """PostgreSQL and Redis away at once: the spool alone makes events durable."""
    await stage.calm()
    servers = stage.cluster.servers
    async with stage.fault("postgres and redis killed"):
        await aside(servers.postgres.kill)
        await aside(servers.redis.kill)
        await stage.outage()
        await asyncio.gather(aside(servers.postgres.start), aside(servers.redis.start))


async def deafen_the_bus(stage: Stage) -> None:
    """The gateways' subscribers hear nothing, while all else they say to Redis is answered."""
    way = stage.cluster.redis_way
    if way is None:
        raise DeliveryError("this scenario needs a proxied cluster")
    await stage.calm()
    while stage.left > stage.plan.outage / 2:
        async with stage.fault("subscribers deaf"):
            if not way.silence(b"SUBSCRIBE"):
                raise DeliveryError("no subscriber was found on the way to Redis")
        await stage.outage()


async def lose_answers(stage: Stage) -> None:
    """The service takes a post, and its answer is lost."""
    async for _ in stage.again():
        async with stage.fault("answers to producers lost"):
            stage.cluster.door.swallow(b"POST /v1/events", 8)
    stage.notes["answers lost"] = stage.cluster.door.count("swallow")


async def lose_commits(stage: Stage) -> None:
    """PostgreSQL commits, and its answer is lost: nobody can tell whether it did."""
    way = stage.cluster.database_way
    if way is None:
        raise DeliveryError("this scenario needs a proxied cluster")
    async for _ in stage.again():
        async with stage.fault("answers to commits lost"):
            way.swallow(b"COMMIT", 4)
    stage.notes["commits whose answer was lost"] = way.count("swallow")


async def nothing(stage: Stage) -> None:
    """Nothing breaks."""
    stage.notes["faults"] = "none"


async def gather_without_redis(stage: Stage) -> None:
    """A backlog gathers while Redis is frozen."""
    await _gather(stage, stage.cluster.servers.redis)


async def gather_without_postgres(stage: Stage) -> None:
    """A backlog gathers in the spool while PostgreSQL is frozen."""
    await _gather(stage, stage.cluster.servers.postgres)


async def _gather(stage: Stage, server: Server) -> None:
    async with stage.fault(f"{server.version} frozen"):
        await aside(server.stop)
        try:
            await stage.producing.pace(stage.plan.backlog / stage.plan.outage, stage.plan.outage)
        finally:
            await aside(server.cont)


async def _freeze(stage: Stage, server: Server) -> None:
    await stage.calm()
    async with stage.fault(f"{server.version} frozen"):
        await aside(server.stop)
        try:
            await stage.outage()
        finally:
            await aside(server.cont)


async def _kill(stage: Stage, server: Server) -> None:
    await stage.calm()
    async with stage.fault(f"{server.version} killed"):
        await aside(server.kill)
        await stage.outage()
        await aside(server.start)


def _flush(server: Server) -> None:
    with closing(redis.Redis.from_url(server.url, socket_timeout=PATIENCE)) as client:
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
