"""The chain at full speed: events of absent users per second through its first three steps.

Owns: the load on a cluster of its own, with real workers, PostgreSQL and Redis. There is no floor:
a bare server drops these events.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import delivery
from delivery.bench.faults.cluster import Cluster, Servers, Shape, running, two_servers
from delivery.bench.load import Load
from delivery.bench.processes import new_folder
from delivery.domain.channels import Channel
from delivery.domain.event import AGENT_TYPES
from delivery.errors import DeliveryError
from delivery.process.event_loop import run

STEPS = (Channel.DATABASE, Channel.QUEUE, Channel.DIRECT)
TRIES = 3
"""Attempts of the ``direct`` step under the cluster's policy."""
SHAPE = Shape(gateways=1, workers=2, pace=0.05)
TIMEOUT = 300.0
POLL = 0.1


class FallbackStuck(DeliveryError):
    """Not every event took the steps in time."""


def run_fallback(load: Load) -> dict[str, Any]:
    """One run on new servers.

    Raises:
        ConfigError: PostgreSQL or Redis is not on this machine.
        FallbackStuck: not every event took the three steps in time.
    """
    with (
        two_servers() as servers,
        new_folder() as folder,
    ):
        found: list[dict[str, Any]] = []

        async def main() -> None:
            found.append(await _measure(load, servers, folder))

        run(main())
        return found[0]


async def _measure(load: Load, servers: Servers, folder: Path) -> dict[str, Any]:
    async with running(SHAPE, servers, folder) as cluster:
        started = time.perf_counter()
        await _post(cluster, load)
        posted = time.perf_counter() - started
        await _wait_for_steps(cluster, load.events)
        took = time.perf_counter() - started
    return {
        "mode": "fallback",
        "events": load.events,
        "steps": list(STEPS),
        "workers": SHAPE.workers,
        "accepted_per_s": load.events / posted,
        "events_per_s": load.events / took,
    }


async def _post(cluster: Cluster, load: Load) -> None:
    token = cluster.token("bench", "emit")
    data = {"text": "x" * load.payload}
    async with (
        asyncio.timeout(TIMEOUT),
        delivery.connect(cluster.producers_url, token, max_buffered=load.events) as remote,
    ):
        emitters = [remote.emitter(f"user-{user}", f"run-{user}") for user in range(load.users)]
        receipts = [
            emitters[number % load.users].emit_nowait(AGENT_TYPES[number % len(AGENT_TYPES)], data)
            for number in range(load.events)
        ]
        for receipt in receipts:
            await receipt.accepted()


async def _wait_for_steps(cluster: Cluster, events: int) -> None:
    """Wait until each event has had its last attempt of the third step."""
    deadline = time.monotonic() + TIMEOUT
    with closing(cluster.ledger()) as ledger:
        while True:
            channels = (await asyncio.to_thread(ledger.statistics.stats)).channels
            missing = _missing({name: one.attempts for name, one in channels.items()}, events)
            if not missing:
                return
            if time.monotonic() > deadline:
                raise FallbackStuck(f"after {TIMEOUT:g} s these are short: {', '.join(missing)}")
            await asyncio.sleep(POLL)


def _missing(attempts: dict[str, int], events: int) -> Sequence[str]:
    wanted = dict.fromkeys(STEPS, events) | {Channel.DIRECT: events * TRIES}
    return [name for name, count in wanted.items() if attempts.get(name, 0) < count]
