"""One gateway process against several behind one port: the cost of events that have to cross.

Owns: the load over HTTP from several producers, and the processor time of all gateway processes. On
a machine with fewer cores than processes only the cost of an event is meaningful, not its time: N
processes carry N times as much as one, divided by the growth of the cost per event.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from delivery.bench.faults.cluster import Command, Servers, two_servers
from delivery.bench.faults.servers import free_port
from delivery.bench.processes import (
    TOKEN_TTL,
    BenchFailed,
    answer,
    child,
    client_tokens,
    new_folder,
)
from delivery.domain.lifecycle import State
from delivery.ledger import SqlLedger
from delivery.tokens import make_token

TIMEOUT = 120.0
PRODUCERS = 4
"""Each keeps a connection of its own: the system spreads them over the processes."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """Sizes of a comparison: ``workers`` processes against one, ``rounds`` times in turn."""

    workers: int = 2
    users: int = 100
    events: int = 150_000
    window: int = 1_000
    payload: int = 100
    rounds: int = 3


def run_scaling(plan: Scaling) -> dict[str, Any]:
    """All rounds; medians of CPU seconds per million events, and how much more N carry.

    Raises:
        BenchFailed: an event was not confirmed in time. ConfigError: a server is missing.
    """
    counts = (1, plan.workers)
    found: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(plan.rounds):
        for count in counts:
            with two_servers() as servers, new_folder() as folder:
                found[count].append(_measure(plan, count, servers, folder))
    costs = {count: median(found[count]) for count in counts}
    return {
        "workers": plan.workers,
        "users": plan.users,
        "events": plan.events,
        "rounds": plan.rounds,
        "cpu_s_per_million": {str(count): cost for count, cost in costs.items()},
        "capacity_ratio": plan.workers * costs[1] / costs[plan.workers],
    }


def _measure(plan: Scaling, workers: int, servers: Servers, folder: Path) -> float:
    """CPU seconds of the gateways per million events, each confirmed in the ledger."""
    secret, port = os.urandom(32).hex(), free_port()
    settings = {
        "DATABASE_URL": servers.postgres.url,
        "REDIS_URL": servers.redis.url,
        "JWT_SECRET": secret,
        "AUDIT_SECRET": os.urandom(32).hex(),
        "DATA_DIR": str(folder / "data"),
        "LOG_LEVEL": "WARNING",
    }
    Command("migrate", ["migrate"], settings, folder).run()
    args = ["gateway", "--json", "--port", str(port), "--workers", str(workers)]
    gateways = Command("gateways", args, settings, folder)
    with ExitStack() as stack:
        stack.callback(gateways.kill)
        gateways.begin()
        gateways.ready()
        url = f"http://127.0.0.1:{port}"
        tokens = client_tokens(secret, plan.users)
        order = {
            "role": "client",
            "url": url,
            "users": plan.users,
            "tokens": tokens,
            "timeout": TIMEOUT,
        }
        answer(stack.enter_context(child(order, 1, dict(os.environ))))
        before = _cpu_seconds(gateways)
        _produce(plan, url, make_token(secret, "bench", scope="emit", ttl=TOKEN_TTL))
        _wait_until_confirmed(servers)
        return (_cpu_seconds(gateways) - before) / plan.events * 1e6


def _produce(plan: Scaling, url: str, token: str) -> None:
    load = {
        "users": plan.users,
        "events": plan.events // PRODUCERS,
        "window": plan.window,
        "payload": plan.payload,
    }
    order = {"role": "producer", "load": load, "url": url, "token": token}
    with ExitStack() as stack:
        producers = [
            stack.enter_context(child(order | {"name": f"run-{number}"}, 1, dict(os.environ)))
            for number in range(PRODUCERS)
        ]
        for producer in producers:
            answer(producer)


def _wait_until_confirmed(servers: Servers) -> None:
    """Wait until no event is unconfirmed."""
    deadline = time.monotonic() + TIMEOUT
    with closing(SqlLedger(servers.postgres.url, pool_size=1)) as ledger:
        while True:
            states = ledger.statistics.stats().states
            unconfirmed = sum(states.get(state.value, 0) for state in State if state.is_unconfirmed)
            if not unconfirmed:
                return
            if time.monotonic() > deadline:
                raise BenchFailed(f"{unconfirmed} events were not confirmed: no figures")
            time.sleep(0.2)


def _cpu_seconds(command: Command) -> float:
    """Processor time of a command and its children so far; they share its session."""
    leader = command.process.pid if command.process is not None else 0
    ticks = sum(
        int(fields[11]) + int(fields[12]) for fields in _stats() if int(fields[3]) == leader
    )
    return ticks / os.sysconf("SC_CLK_TCK")


def _stats() -> Iterator[list[str]]:
    """Per process the fields behind its name. Source: proc(5), ``/proc/pid/stat``."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            yield path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
