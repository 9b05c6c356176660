"""The processes of a benchmark, from inside: ``python -m delivery.bench.roles``.

Owns: the roles, and their lines of JSON. The parent starts, pins and times the processes.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from delivery.bench.append import be_appender, be_poster, be_rewriter
from delivery.bench.clients import ProductUser, connect
from delivery.bench.disconnect_roles import be_crowd, be_gateway, be_sweeper
from delivery.bench.floor import Floor
from delivery.bench.history import fill, probe
from delivery.bench.load import Load, percentiles
from delivery.bench.processes import raise_file_limit
from delivery.bench.producer import produce
from delivery.bench.product import PRODUCTS, ManyRuns
from delivery.bootstrap.gateway import node_from_environment
from delivery.process.event_loop import run

Order = dict[str, Any]
Say = Callable[..., None]
Role = Callable[[Order, Say], Awaitable[None]]


def main(roles: Mapping[str, Role]) -> None:
    """Read the order from standard input and play its role."""
    order: Order = json.loads(sys.stdin.readline())
    raise_file_limit()

    async def play() -> None:
        await roles[order.pop("role")](order, say)

    run(play())


def say(**facts: Any) -> None:
    """Write one line of JSON for the parent."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


async def _be_product(order: Order, say: Say) -> None:
    load, mode = Load(**order["load"]), order["mode"]
    node = node_from_environment("bench")
    product = (
        ManyRuns(node, load, mode, order["runs"])
        if "runs" in order
        else PRODUCTS[mode](node, load, mode)
    )
    say(result=await product.serve(lambda url: say(url=url)))


async def _be_floor(order: Order, say: Say) -> None:
    say(result=await Floor(Load(**order["load"])).serve(lambda url: say(url=url)))


async def _be_producer(order: Order, say: Say) -> None:
    load, name = Load(**order["load"]), order.get("name", "run")
    say(accepted_ms=await produce(order["url"], order["token"], load, name))


async def _be_client(order: Order, say: Say) -> None:
    users = await connect(order["url"], order["users"], order["tokens"])
    before = resource.getrusage(resource.RUSAGE_SELF)
    say(connected=len(users))
    reading = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    async with asyncio.timeout(order["timeout"]):
        await reading
    usage = resource.getrusage(resource.RUSAGE_SELF)
    waits = [wait for user in users if isinstance(user, ProductUser) for wait in user.waits]
    say(
        handler_ms=percentiles(waits),
        received=sum(user.received for user in users),
        repeated=sum(user.repeated for user in users),
        cpu_s=usage.ru_utime + usage.ru_stime - before.ru_utime - before.ru_stime,
    )


async def _fill_ledger(order: Order, say: Say) -> None:
    node = node_from_environment("bench")
    say(**fill(node.ledger, **order, tell=lambda number: say(so_far=number)))


async def _probe_ledger(order: Order, say: Say) -> None:
    say(**probe(node_from_environment("bench").ledger, **order))


ROLES: Mapping[str, Role] = {
    "appender": be_appender,
    "client": _be_client,
    "crowd": be_crowd,
    "crowded": be_gateway,
    "fill": _fill_ledger,
    "floor": _be_floor,
    "poster": be_poster,
    "probe": _probe_ledger,
    "producer": _be_producer,
    "product": _be_product,
    "rewriter": be_rewriter,
    "sweeper": be_sweeper,
}


if __name__ == "__main__":
    main(ROLES)
