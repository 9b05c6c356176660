"""What a scenario works with: the cluster, the load's time, and the record of what it broke.

Owns: the plan of a run and the windows of its faults. Never does: decide what breaks.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from delivery.bench.faults.audience import Audience
from delivery.bench.faults.audit import Window
from delivery.bench.faults.cluster import Cluster
from delivery.bench.faults.commands import Command
from delivery.bench.faults.producing import Producing


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
