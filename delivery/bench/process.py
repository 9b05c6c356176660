"""What runs inside each process of a benchmark: ``python -m delivery.bench.process ROLE``.

Owns: the roles, and their one line of JSON each. The parent pins and times them.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from typing import Any

from delivery.bench.client import ProductUser, connect
from delivery.bench.disconnect_roles import be_crowd, be_gateway, be_sweeper
from delivery.bench.floor import Floor
from delivery.bench.producer import produce
from delivery.bench.product import PRODUCTS
from delivery.bench.window import Load, percentiles
from delivery.bootstrap.gateway import node_from_environment
from delivery.process.event_loop import run


def main() -> None:
    """Read the order from standard input, play the role, print the result."""
    order: dict[str, Any] = json.loads(sys.stdin.readline())
    raise_file_limit()
    run(_play(order))


def say(**facts: Any) -> None:
    """One line of JSON for the parent."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def raise_file_limit() -> None:
    """As many sockets as the system allows without asking anybody."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


_TALKERS = {"crowd": be_crowd, "crowded": be_gateway, "sweeper": be_sweeper}
"""Roles that are told several things in turn."""


async def _play(order: dict[str, Any]) -> None:
    if order["role"] in _TALKERS:
        await _TALKERS[order["role"]](order, say)
        return
    if order["role"] == "client":
        await _be_client(order)
        return
    load = Load(**order["load"])
    if order["role"] == "producer":
        name = order.get("name", "run")
        say(accepted_ms=await produce(order["url"], order["token"], load, name))
        return

    def tell(url: str) -> None:
        say(url=url)

    if order["role"] == "floor":
        say(result=await Floor(load).serve(tell))
    else:
        node = node_from_environment("bench")
        say(result=await PRODUCTS[order["mode"]](node, load, order["mode"]).serve(tell))


async def _be_client(order: dict[str, Any]) -> None:
    users = await connect(order["url"], order["users"], order["tokens"])
    before = resource.getrusage(resource.RUSAGE_SELF)
    say(connected=len(users))
    reading = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    await asyncio.wait_for(reading, order["patience"])
    usage = resource.getrusage(resource.RUSAGE_SELF)
    waits = [wait for user in users if isinstance(user, ProductUser) for wait in user.waits]
    say(
        handler_ms=percentiles(waits),
        received=sum(user.received for user in users),
        repeated=sum(user.repeated for user in users),
        cpu_s=usage.ru_utime + usage.ru_stime - before.ru_utime - before.ru_stime,
    )


if __name__ == "__main__":
    main()
