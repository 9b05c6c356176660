"""The product under load: a whole gateway process, with everything on, that emits to its own users.

Owns: the emission through the public emitter and the audit afterwards. A run that lost an event, or
left one unconfirmed in the ledger, has no figure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from delivery.bench.window import TYPES, Load, Window
from delivery.bootstrap.gateway import serve_node
from delivery.bootstrap.loop import settle_in
from delivery.bootstrap.node import Node
from delivery.domain.lifecycle import State
from delivery.emitter.emitter import Emitter

PAGE = 500


class Product:
    """One gateway and its users."""

    def __init__(self, node: Node, load: Load, mode: str) -> None:
        """
        Args:
            mode: ``durable`` or ``performance``.
        """
        self._node = node
        self._load = load
        self._mode = mode
        self._ids: list[str] = []
        self._data = {"text": "x" * load.payload}
        self._window = Window(load, self._emit)
        self._emitters: list[Emitter] = []

    async def serve(self, tell: Callable[[str], None]) -> dict[str, Any]:
        """Listen, tell the address, run the load once everybody is there, audit."""
        node = self._node
        await node.open()
        try:
            await serve_node(node)
            node.on_confirmed(self._acked)
            tell(node.settings.base_url)
            await self._everybody()
            self._emitters = [
                node.emitter(f"user-{user}", f"run-{user}", performance=self._mode == "performance")
                for user in range(self._load.users)
            ]
            await self._introduce_runs()
            settle_in()
            result = await self._window.run()
            await node.journal.flush(60.0)
            result["unconfirmed"] = await asyncio.to_thread(self._unconfirmed)
            return result
        finally:
            await node.gateway.stop(0.0)
            await node.close()

    async def _everybody(self) -> None:
        async with asyncio.timeout(60):
            # Connections announce themselves to nobody in this process: look again and again.
            while self._node.connections < self._load.users:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def _introduce_runs(self) -> None:
        """A run's first event is numbered by the ledger; what is measured is a run under way."""
        await asyncio.gather(*(e.emit("run_opened", self._data) for e in self._emitters))

    def _emit(self, user: int, number: int) -> str:
        receipt = self._emitters[user].emit_nowait(TYPES[number % 5], self._data)
        self._ids.append(receipt.id)
        return receipt.id

    def _acked(self, ids: Sequence[str]) -> None:
        for identity in ids:
            self._window.acked(identity)

    def _unconfirmed(self) -> int:
        """How many events the ledger does not know as confirmed; 0 is the only good answer."""
        confirmed = 0
        for start in range(0, len(self._ids), PAGE):
            found = self._node.ledger.events.read(self._ids[start : start + PAGE])
            confirmed += sum(one.state is State.CONFIRMED for one in found)
        return len(self._ids) - confirmed
