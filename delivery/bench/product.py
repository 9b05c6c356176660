"""The product under load: a complete gateway process that emits to its own users.

Owns: the emission through the public emitter, and the count of events that the ledger does not have
as confirmed afterwards.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from delivery.bench.load import Acceptances, Load, PolledWindow, Window, measured
from delivery.bootstrap.gateway import serve_node
from delivery.bootstrap.node import Node
from delivery.domain.event import AGENT_TYPES
from delivery.domain.lifecycle import State
from delivery.emitter.emitter import Emitter
from delivery.emitter.validate import new_event_id
from delivery.process.event_loop import tune_garbage_collector

PAGE = 500
TIMEOUT = 120.0
MAX_BACKLOG = 15_000
"""Events that wait for their commit, beyond which the load pauses."""
AT_ONCE = 1_000
"""Runs that are opened together; their events wait for their commits in memory."""


class Product:
    """One gateway and its users, in modes ``durable`` and ``performance``."""

    def __init__(self, node: Node, load: Load, mode: str) -> None:
        self.node = node
        self.load = load
        self.ids: list[str] = []
        self._performance = mode == "performance"
        self._data = {"text": "x" * load.payload}
        self._window = Window(load, self._emit, self._is_full)
        self._accepted = Acceptances(load)
        self._emitters: list[Emitter] = []

    async def serve(self, tell: Callable[[str], None]) -> dict[str, Any]:
        """Listen, report the address, run the load once all clients are connected, audit."""
        node = self.node
        await node.open()
        try:
            await serve_node(node)
            node.on_confirmed(self.acked)
            before = resident_kib()
            tell(node.settings.base_url)
            await self._all_connected()
            each = (resident_kib() - before) / self.load.users
            result = await self.run()
            result["unconfirmed"] = await asyncio.to_thread(self._unconfirmed)
            return result | {"kib_per_connection": each}
        finally:
            await node.gateway.stop(0.0)
            await node.close()

    async def run(self) -> dict[str, Any]:
        """The load, from the first event until every acknowledgement is recorded."""
        self._emitters = [
            self.node.emitter(f"user-{user}", f"run-{user}", performance=self._performance)
            for user in range(self.load.users)
        ]
        await self._introduce_runs()
        tune_garbage_collector()
        result = await self._window.run(self.record)
        return result | {"accepted_ms": await self._accepted.percentiles()}

    async def record(self) -> None:
        """Return when the ledger has every event and its confirmation."""
        await self.node.journal.flush(TIMEOUT)

    def _is_full(self) -> bool:
        # Acknowledgements can outrun the commits of a slow ledger; the emitter would refuse.
        return self.node.journal.backlog > MAX_BACKLOG

    async def _all_connected(self) -> None:
        async with asyncio.timeout(60):
            # A client that still catches up gets its events late, which is not to be measured.
            while self.node.live < self.load.users:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def _introduce_runs(self) -> None:
        """Emit each run's first event: the ledger numbers it, which is not to be measured."""
        await asyncio.gather(*(e.emit("run_opened", self._data) for e in self._emitters))

    def _emit(self, user: int, number: int) -> str:
        receipt = self._emitters[user].emit_nowait(AGENT_TYPES[number % 5], self._data)
        self.ids.append(receipt.id)
        self._accepted.watch(number, receipt)
        return receipt.id

    def acked(self, ids: Sequence[str]) -> None:
        """Note acknowledged ids; called by the gateway."""
        acked = self._window.acked
        for identity in ids:
            acked(identity)

    def _unconfirmed(self) -> int:
        """Count of events that the ledger does not have as confirmed; must be 0."""
        confirmed = 0
        for start in range(0, len(self.ids), PAGE):
            found = self.node.ledger.events.read(self.ids[start : start + PAGE])
            confirmed += sum(one.state is State.CONFIRMED for one in found)
        return len(self.ids) - confirmed


class EphemeralProduct(Product):
    """Events that are not stored: only their connection knows of their acknowledgement."""

    def __init__(self, node: Node, load: Load, mode: str) -> None:
        super().__init__(node, load, mode)
        self._polled = PolledWindow(load, self._emit, self._look)
        # Not "text": texts that wait for a slow reader are merged, and fewer acknowledged.
        self._data = {"body": "x" * load.payload}
        self._names = [f"user-{user}" for user in range(load.users)]
        self._emitted = [0] * load.users
        self._seen = [0] * load.users

    async def run(self) -> dict[str, Any]:
        """See ``Product.run``; the ledger holds none of the events."""
        self._emitters = [self.node.emitter(name, f"run-of-{name}") for name in self._names]
        tune_garbage_collector()
        return await self._polled.run()

    def _emit(self, user: int, number: int) -> Any:
        self._emitters[user].emit_nowait("token_delta", self._data)
        self._emitted[user] += 1
        return user, self._emitted[user]

    def _look(self) -> None:
        with self._polled.unbilled():
            counts = map(self.node.acked, self._names)
            changed = [(u, count) for u, count in enumerate(counts) if count > self._seen[u]]
        for user, acked in changed:
            for number in range(self._seen[user] + 1, acked + 1):
                self._polled.acked((user, number))
            self._seen[user] = acked


class RemoteProduct(Product):
    """Events that another process posts over HTTP."""

    def __init__(self, node: Node, load: Load, mode: str) -> None:
        super().__init__(node, load, mode)
        self._all = asyncio.Event()

    async def run(self) -> dict[str, Any]:
        """The load, until every acknowledgement is recorded."""
        tune_garbage_collector()
        async with measured(self.load.events) as result:
            async with asyncio.timeout(TIMEOUT):
                await self._all.wait()
            await self.record()
        return result

    def acked(self, ids: Sequence[str]) -> None:
        """Note acknowledged ids; called by the gateway."""
        self.ids.extend(ids)
        if len(self.ids) >= self.load.events:
            self._all.set()


class ManyRuns(Product):
    """The product whose users have several runs under way, used in turn."""

    def __init__(self, node: Node, load: Load, mode: str, runs: int) -> None:
        super().__init__(node, load, mode)
        self._runs = runs
        self._seen = 0

    async def run(self) -> dict[str, Any]:
        """See ``Product.run``; the runs are open before the load begins."""
        users = self.load.users
        # New runs each time: a connection that gets a run from its middle on reads the ledger, and
        # thousands of such reads are not to be measured.
        of_this_round = new_event_id()
        self._emitters = [
            self.node.emitter(
                f"user-{number % users}",
                f"run-{number // users}-{of_this_round}",
                performance=self._performance,
            )
            for number in range(users * self._runs)
        ]
        await self._open_runs()
        tune_garbage_collector()
        return await self._window.run(self.record)

    async def _open_runs(self) -> None:
        """Open the runs beforehand: their first events cost more and are no part of the load."""
        for start in range(0, len(self._emitters), AT_ONCE):
            some = self._emitters[start : start + AT_ONCE]
            await asyncio.gather(*(one.emit("run_opened", self._data) for one in some))
        async with asyncio.timeout(TIMEOUT):
            while self._seen < len(self._emitters):  # noqa: ASYNC110 - counted by ``acked``
                await asyncio.sleep(0.01)
        await self.node.journal.flush(TIMEOUT)

    def acked(self, ids: Sequence[str]) -> None:
        """Note acknowledged ids; called by the gateway."""
        self._seen += len(ids)
        super().acked(ids)

    def _emit(self, user: int, number: int) -> str:
        # As many emitters as users, times runs: the number selects this user's next run. No event
        # is watched until it is durable: a task each would hide the difference between rounds.
        emitter = self._emitters[number % len(self._emitters)]
        identity = emitter.emit_nowait(AGENT_TYPES[number % len(AGENT_TYPES)], self._data).id
        self.ids.append(identity)
        return identity


def resident_kib() -> int:
    """Memory of this process in KiB; without ``/proc``, its maximum so far."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(statm.read_text().split()[1]) * resource.getpagesize() // 1024


PRODUCTS: dict[str, type[Product]] = {
    "durable": Product,
    "performance": Product,
    "ephemeral": EphemeralProduct,
    "remote": RemoteProduct,
}
