"""The producers: events at a steady rate, in order within each run.

Owns: the pace, and for each event its instant and the connection its user had then. The emitter is
the public one over HTTP, with its retries. Never does: wait for a confirmation.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass

from delivery.bench.faults.listeners import Clients
from delivery.client.remote import Remote, RemoteEmitter, connect
from delivery.domain.emission import Receipt
from delivery.domain.event import AGENT_TYPES
from delivery.errors import DeliveryError

PRODUCERS = 8
"""Connections to the service; the users are shared among them, so that one that hangs holds up a
part of the load only."""
RUN_LENGTH = 20
DEADLINE = 180.0
"""Seconds for which an event is offered to the service before it counts as refused."""
TEXT = "x" * 100


@dataclass(frozen=True, slots=True)
class Sent:
    """An event on its way.

    Attributes:
        number: order of emission within its run.
        connection: its user's at that moment, ``None`` if there was none.
        at: monotonic seconds, before anything was done with it.
    """

    receipt: Receipt
    user_id: str
    run_id: str
    number: int
    connection: int | None
    at: float


class Producers:
    """Emits round robin over the users."""

    def __init__(self, clients: Clients, url: str, token: str) -> None:
        self._clients = clients
        self._url = url
        self._token = token
        self._remotes: list[Remote] = []
        self._stack = AsyncExitStack()
        self._emitters: dict[str, tuple[RemoteEmitter, str]] = {}
        self._counts: dict[str, int] = {}
        self._next = 0
        self.sent: list[Sent] = []

    async def open(self) -> None:
        """Connect to the service."""
        for _ in range(PRODUCERS):
            remote = connect(self._url, self._token, deadline=DEADLINE, max_buffered=100_000)
            self._remotes.append(await self._stack.enter_async_context(remote))

    async def pace(self, rate: float, seconds: float) -> None:
        """Emit ``rate`` events per second for so long."""
        started_at = time.monotonic()
        for number in range(round(rate * seconds)):
            ahead = started_at + number / rate - time.monotonic()
            if ahead > 0:
                await asyncio.sleep(ahead)
            self.emit()

    async def burst(self, count: int, rate: float) -> None:
        """Emit ``count`` events on top of the load."""
        await self.pace(rate, count / rate)

    def emit(self) -> None:
        """The next user's next event."""
        listeners = self._clients.listeners
        index = self._next % len(listeners)
        self._next += 1
        listener = listeners[index]
        count = self._counts[listener.user_id] = self._counts.get(listener.user_id, -1) + 1
        if count % RUN_LENGTH == 0:
            run_id = f"run-{count // RUN_LENGTH}"
            # Not in step with the clients' turns: half of the events cross to another gateway.
            remote = self._remotes[index // 2 % len(self._remotes)]
            self._emitters[listener.user_id] = (remote.emitter(listener.user_id, run_id), run_id)
        emitter, run_id = self._emitters[listener.user_id]
        at = time.monotonic()
        receipt = emitter.emit_nowait(AGENT_TYPES[count % len(AGENT_TYPES)], {"text": TEXT})
        self.sent.append(Sent(receipt, listener.user_id, run_id, count, listener.connection, at))

    async def accepted(self, timeout: float) -> tuple[list[Sent], list[str]]:
        """Wait for the service's answers: the accepted events, and the refusals of the others."""
        waiting = [asyncio.ensure_future(one.receipt.accepted()) for one in self.sent]
        if waiting:
            await asyncio.wait(waiting, timeout=timeout)
        accepted, refused = [], []
        for one, answer in zip(self.sent, waiting, strict=True):
            if not answer.done():
                answer.cancel()
                refused.append("no answer in time")
            elif isinstance(error := answer.exception(), DeliveryError):
                refused.append(f"{type(error).__name__}: {error}")
            else:
                answer.result()
                accepted.append(one)
        return accepted, refused

    async def close(self) -> None:
        """Disconnect."""
        await self._stack.aclose()
