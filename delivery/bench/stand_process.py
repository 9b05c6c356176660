"""What runs inside the processes of a stand: ``python -m delivery.bench.stand_process``.

Owns: the roles, and the product with more than one run per user.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from delivery.bench.dead_peer import push_to_dead_peer
from delivery.bench.history import fill, probe
from delivery.bench.process import raise_file_limit, say
from delivery.bench.product import PATIENCE, Product
from delivery.bench.window import Load
from delivery.bootstrap.gateway import node_from_environment
from delivery.bootstrap.node import Node
from delivery.domain.event import AGENT_TYPES
from delivery.emitter.validate import new_event_id
from delivery.process.event_loop import run, settle_in

AT_ONCE = 1_000
"""Runs that are opened together; their events wait for their commits in memory."""


class ManyRuns(Product):
    """The product whose users have several runs under way, used in turn."""

    def __init__(self, node: Node, load: Load, mode: str, runs: int) -> None:
        super().__init__(node, load, mode)
        self._runs = runs
        self._seen = 0

    async def run(self) -> dict[str, Any]:
        """See ``Product.run``; what opened the runs is over before the load begins."""
        users = self.load.users
        # New runs each time: a connection that meets a run in its middle looks into the ledger, and
        # thousands of looks are not what is measured.
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
        settle_in()
        return await self._window.run()

    async def _open_runs(self) -> None:
        """Else the first events of thousands of runs would be paid for by the load."""
        for start in range(0, len(self._emitters), AT_ONCE):
            some = self._emitters[start : start + AT_ONCE]
            await asyncio.gather(*(one.emit("run_opened", self._data) for one in some))
        async with asyncio.timeout(PATIENCE):
            while self._seen < len(self._emitters):  # noqa: ASYNC110 - nobody announces it
                await asyncio.sleep(0.01)
        await self.node.journal.flush(PATIENCE)

    def acked(self, ids: Sequence[str]) -> None:
        """The gateway's: these were acknowledged."""
        self._seen += len(ids)
        super().acked(ids)

    def _emit(self, user: int, number: int) -> str:
        # As many emitters as users, times runs: the number names this user's next run. No event is
        # watched until it is durable: a task each would blur what else differs between two rounds.
        emitter = self._emitters[number % len(self._emitters)]
        identity = emitter.emit_nowait(AGENT_TYPES[number % len(AGENT_TYPES)], self._data).id
        self.ids.append(identity)
        return identity


def main() -> None:
    """Read the order from standard input, play the role, print the result."""
    order: dict[str, Any] = json.loads(sys.stdin.readline())
    raise_file_limit()
    run(_play(order))


async def _play(order: dict[str, Any]) -> None:
    node = node_from_environment("bench")
    match order.pop("role"):
        case "fill":
            say(**fill(node.ledger, **order, tell=lambda number: say(so_far=number)))
        case "probe":
            say(**probe(node.ledger, **order))
        case "dead_peer":
            say(**await push_to_dead_peer(node, secret=os.environ["DELIVERY_JWT_SECRET"], **order))
        case _:
            load = Load(**order["load"])
            product = ManyRuns(node, load, order["mode"], order["runs"])
            say(result=await product.serve(lambda url: say(url=url)))


if __name__ == "__main__":
    main()
