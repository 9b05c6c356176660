"""The processes of a mass disconnect: the gateway, the crowd's clients, the sweeper.

Owns: the crowd's open events, the paced load of the other users, the instant at which each event's
task was published. Never does: cut a connection; the parent kills the crowd's process. Instants are
monotonic seconds, which all processes of one machine share.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from celery.signals import after_task_publish

from delivery.bench.clients import connect
from delivery.bench.load import BURST
from delivery.bench.product import MAX_BACKLOG, PAGE
from delivery.bootstrap.gateway import node_from_environment, serve_node
from delivery.bootstrap.node import Node
from delivery.domain.event import AGENT_TYPES, EventClass
from delivery.domain.lifecycle import State
from delivery.emitter.emitter import Emitter
from delivery.process.event_loop import tune_garbage_collector
from delivery.tasks.broker.app import SWEEP_INTERVAL
from delivery.tasks.sweep import Sweeper

Say = Callable[..., None]
TIMEOUT = 120.0
CHILDREN = 2
"""Sweeps at one time: as many as a worker with two children would run."""
STEPS = (AGENT_TYPES[1], AGENT_TYPES[2], AGENT_TYPES[3])


async def next_line() -> str:
    """The parent's next line."""
    reading = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    line: str = await reading
    return line.strip()


class Published:
    """When this process first published a task for each event."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}
        after_task_publish.connect(self._on_published, weak=False)

    def _on_published(self, body: Any = None, **_: Any) -> None:
        now = time.monotonic()
        for event_id in body[0][0]:
            self.at.setdefault(event_id, now)


async def be_crowd(order: dict[str, Any], say: Say) -> None:
    """Connect and acknowledge nothing; answer each line with the count. The parent kills it."""
    users = await connect(order["url"], len(order["tokens"]), order["tokens"], are_silent=True)
    say(connected=len(users))
    while await next_line():
        say(received=sum(user.received for user in users))


async def be_sweeper(_order: dict[str, Any], say: Say) -> None:
    """Sweep as often as beat orders it, as a worker does."""
    node = node_from_environment("sweeper")  # never opened: its ledger, policies and relay
    published = Published()
    node.relay.start()
    sweeper = Sweeper(node.ledger, node.policies, node.relay)
    sweeps: list[tuple[float, float, int]] = []
    stopping = asyncio.Event()
    sweeping = asyncio.create_task(_sweep_until(stopping, sweeper, sweeps))
    say(ready=True)
    while (line := await next_line()) and line != "done":
        say(published=len(published.at))
    stopping.set()
    await sweeping
    await asyncio.to_thread(node.relay.stop)
    say(published=published.at, sweeps=sweeps)
    node.ledger.close()


async def _sweep_until(
    stopping: asyncio.Event, sweeper: Sweeper, sweeps: list[tuple[float, float, int]]
) -> None:
    """Sweep side by side: beat does not wait for the sweep before, and another child takes it."""
    running: set[asyncio.Task[None]] = set()

    async def sweep() -> None:
        started = time.monotonic()
        report = await asyncio.to_thread(sweeper.sweep)
        sweeps.append((started, time.monotonic(), report.due))

    due = time.monotonic()
    while not stopping.is_set():
        if len(running) < CHILDREN:
            task = asyncio.create_task(sweep())
            running.add(task)
            task.add_done_callback(running.discard)
        due = max(due + SWEEP_INTERVAL, time.monotonic())
        with suppress(TimeoutError):
            async with asyncio.timeout(due - time.monotonic()):
                await stopping.wait()
    await asyncio.gather(*running)


async def be_gateway(order: dict[str, Any], say: Say) -> None:
    """Serve, and emit on the parent's lines ``pace``, ``crowd`` and ``done``."""
    node = node_from_environment("bench")
    published = Published()
    await node.open()
    try:
        await serve_node(node)
        say(url=node.settings.base_url)
        await next_line()
        tune_garbage_collector()
        others = Others(node, order["others"], order["rate"], order["payload"])
        await others.begin()
        say(pacing=time.monotonic())
        await next_line()
        started = time.monotonic()
        crowd = await _fill_crowd(node, order)
        say(
            started=started,
            emitted=time.monotonic(),
            events=len(crowd),
            ack_timeout=node.policies.of(EventClass.CRITICAL).ack_timeout,
        )
        await next_line()
        await others.end()
        await node.journal.flush(60.0)
        say(
            samples=others.samples,
            others=await asyncio.to_thread(_count, node, others.ids, State.CONFIRMED),
            crowd=await asyncio.to_thread(_count, node, crowd, State.FALLING_BACK),
            ids=crowd,
            published=published.at,
        )
    finally:
        await node.gateway.stop(0.0)
        await node.close()


async def _fill_crowd(node: Node, order: dict[str, Any]) -> list[str]:
    """Emit the crowd's events, one round after the other; returns when all are durable."""
    data = {"text": "x" * order["payload"]}
    emitters = [
        node.emitter(f"crowd-{user}", f"crowd-run-{user}") for user in range(order["crowd"])
    ]
    receipts = []
    for number in range(order["open_events"]):
        for user, emitter in enumerate(emitters):
            if user % BURST == 0:
                await _wait_for_room(node)
            receipts.append(emitter.emit_nowait(STEPS[number % len(STEPS)], data))
        if number == 0:  # a run's first event is numbered by the ledger, the others follow it
            await asyncio.gather(*(receipt.accepted() for receipt in receipts))
    for receipt in receipts:
        await receipt.accepted()
    return [receipt.id for receipt in receipts]


async def _wait_for_room(node: Node) -> None:
    await asyncio.sleep(0)
    async with asyncio.timeout(TIMEOUT):
        while node.journal.backlog > MAX_BACKLOG:  # noqa: ASYNC110 - the journal announces no room
            await asyncio.sleep(0.001)


def _count(node: Node, ids: Sequence[str], state: State) -> dict[str, int]:
    """Count of these events, of those in the ledger, and of those in the expected state."""
    found = [
        stored
        for start in range(0, len(ids), PAGE)
        for stored in node.ledger.events.read(ids[start : start + PAGE])
    ]
    return {
        "emitted": len(ids),
        "found": len(found),
        "in_state": sum(stored.state is state for stored in found),
    }


class Others:
    """The users who stay: a paced load, and how long each acknowledgement took.

    A wait begins when the event was due to be emitted: a loop that is held up emits late, and users
    wait for that, too.

    Attributes:
        samples: instant and seconds of each acknowledged event, in order of acknowledgement.
    """

    def __init__(self, node: Node, users: int, rate: float, payload: int) -> None:
        self.samples: list[tuple[float, float]] = []
        self.ids: list[str] = []
        self._rate = rate
        self._data = {"text": "x" * payload}
        self._emitters: list[Emitter] = [
            node.emitter(f"user-{user}", f"run-{user}") for user in range(users)
        ]
        self._sent: dict[str, float] = {}
        self._pacing: asyncio.Task[None] | None = None
        node.on_confirmed(self._acked)

    async def begin(self) -> None:
        """Open the runs, then emit until ``end``."""
        await asyncio.gather(*(one.emit("run_opened", self._data) for one in self._emitters))
        self._pacing = asyncio.create_task(self._pace())

    async def end(self) -> None:
        """Stop, and wait for the last acknowledgement.

        Raises:
            TimeoutError: it did not come.
        """
        if self._pacing is not None:
            self._pacing.cancel()
            with suppress(asyncio.CancelledError):
                await self._pacing
        async with asyncio.timeout(TIMEOUT):
            while self._sent:  # noqa: ASYNC110 - the run is over
                await asyncio.sleep(0.01)

    async def _pace(self) -> None:
        started, number = time.monotonic(), 0
        while True:
            due = started + number / self._rate
            ahead = due - time.monotonic()
            if ahead > 0:
                await asyncio.sleep(ahead)
            elif number % BURST == 0:  # late events must not keep acknowledgements waiting
                await asyncio.sleep(0)
            emitter = self._emitters[number % len(self._emitters)]
            receipt = emitter.emit_nowait(AGENT_TYPES[number % len(AGENT_TYPES)], self._data)
            self._sent[receipt.id] = due
            self.ids.append(receipt.id)
            number += 1

    def _acked(self, ids: Sequence[str]) -> None:
        now = time.monotonic()
        for event_id in ids:
            due = self._sent.pop(event_id, None)
            if due is not None:
                self.samples.append((due, now - due))
