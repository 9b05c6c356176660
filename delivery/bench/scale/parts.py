"""The parts of the benchmark, one function each.

Owns: what is measured, and in which order. A part that lost an event has no figures.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from subprocess import Popen
from typing import Any

import click
import sqlalchemy as sa

from delivery.bench.faults.servers import postgres
from delivery.bench.installation import Installation, new_installation
from delivery.bench.load import Load
from delivery.bench.processes import (
    TOKEN_TTL,
    BenchFailed,
    answer,
    child,
    client_tokens,
    tell,
)
from delivery.bench.scale import gateways
from delivery.bench.scale.gateways import Gateways, server_cpu_s
from delivery.tokens import make_token

CROWD = "delivery.bench.scale.subscribers"
CHUNK = 60.0
"""Seconds of load per producer process."""
SETTLE = 60.0
"""Seconds after the load in which the last event must have come."""
PACED = 20.0
"""Seconds of a load at a rate."""
SETTLED = 46.0
"""Seconds until events that ended are history, for a client that comes back."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of the parts.

    Attributes:
        connections: the numbers to compare.
        idle: seconds in which idle connections are watched.
        users, rate, seconds, every, away: of the part in which lines break: subscribers, events per
            second, length of the load, seconds between two resets of one subscriber on average,
            and those that it stays away.
        ledger: finished events to compare at.
        events: of each round elsewhere; ``rounds`` so often, ``runs`` per user.
        gateways: their numbers to compare.
    """

    connections: tuple[int, ...] = (1_000, 5_000, 10_000)
    idle: float = 60.0
    users: int = 10_000
    rate: float = 500.0
    seconds: float = 120.0
    every: float = 15.0
    away: float = 2.0
    ledger: tuple[int, ...] = (0, 100_000, 1_000_000)
    events: int = 50_000
    rounds: int = 3
    runs: tuple[int, ...] = (1, 10, 100, 1_000)
    gateways: tuple[int, ...] = (1, 2)


def connections(sizes: Sizes) -> list[dict[str, Any]]:
    """What a connection costs one gateway: to be made, and to be there."""
    return [_connections(count, sizes.idle) for count in sizes.connections]


def _connections(count: int, idle: float) -> dict[str, Any]:
    with gateways.running(1) as found:
        time.sleep(min(5.0, idle))
        memory, begun = found.memory(), found.cpu_s()
        time.sleep(idle)
        rest = (found.cpu_s() - begun) / idle
        begun, started = found.cpu_s(), time.monotonic()
        with _crowd(found, count, every=1.0, away=1.0) as crowd:
            took = time.monotonic() - started
            connect = found.cpu_s() - begun
            time.sleep(min(5.0, idle))
            begun = found.cpu_s()
            time.sleep(idle)
            busy = (found.cpu_s() - begun) / idle
            grown = found.memory() - memory
            tell(crowd, "done")
    return {
        "connections": count,
        "kib_per_connection": grown / 1024 / count,
        "connect_cpu_ms": connect / count * 1e3,
        "connects_per_s": count / took,
        "idle_cpu_percent": busy * 100,
        "empty_cpu_percent": rest * 100,
        "idle_cpu_us_per_connection_s": max(0.0, busy - rest) / count * 1e6,
    }


@contextmanager
def _crowd(found: Gateways, users: int, *, every: float, away: float) -> Iterator[Popen[str]]:
    """Subscribers in a process of their own, all connected."""
    order = {
        "role": "crowd",
        "urls": found.urls,
        "tokens": client_tokens(found.secret, users),
        "every": every,
        "away": away,
    }
    with child(order, 1, dict(os.environ), CROWD) as process:
        while "connected" not in answer(process):
            pass
        yield process


def resets(sizes: Sizes) -> dict[str, Any]:
    """Subscribers whose lines break again and again, and how long events were under way.

    Raises:
        BenchFailed: an event did not arrive.
    """
    with gateways.running(max(sizes.gateways)) as found:
        cpu = found.cpu_s()
        with _crowd(found, sizes.users, every=sizes.every, away=sizes.away) as crowd:
            tell(crowd, "reset")
            published = _publish(found, sizes)
            tell(crowd, "stop")
            answer(crowd)
            _await_all(crowd, published)
            tell(crowd, "done")
            counted = answer(crowd)
        cpu = found.cpu_s() - cpu
    if counted["received"] != published:
        raise BenchFailed(f"{counted['received']} of {published} events arrived: no figures")
    return {
        "users": sizes.users,
        "every_s": sizes.every,
        "away_s": sizes.away,
        "rate": sizes.rate,
        "seconds": sizes.seconds,
        "gateways": len(found.urls),
        "published": published,
        "cpu_s": cpu,
    } | counted


def _publish(found: Gateways, sizes: Sizes) -> int:
    published, left = 0, sizes.seconds
    token = make_token(found.secret, "bench", scope="emit", ttl=TOKEN_TTL)
    while left > 0.5:
        seconds = min(CHUNK, left)
        events = max(1, int(seconds * sizes.rate))
        load = {"users": sizes.users, "events": events, "window": 1_000, "rate": sizes.rate}
        order = {"role": "producer", "load": load, "url": found.urls[0], "token": token}
        with child(order | {"name": f"run-{left:g}"}, 1, dict(os.environ)) as producer:
            answer(producer)
        published, left = published + events, left - seconds
    return published


def _await_all(crowd: Popen[str], published: int) -> None:
    deadline = time.monotonic() + SETTLE
    while time.monotonic() < deadline:
        tell(crowd, "count")
        if answer(crowd)["received"] >= published:
            return
        time.sleep(0.5)


def ledger(sizes: Sizes) -> list[dict[str, Any]]:
    """What an event costs in a PostgreSQL with more and more finished events."""
    rows: list[dict[str, Any]] = []
    load = Load(10, sizes.events, 1_000)
    with postgres() as server, new_installation(server.url) as installation:
        filled = 0
        for size in sorted(sizes.ledger):
            if size > filled:
                installation.ask(role="fill", events=size - filled, users=load.users)
                filled = size
                time.sleep(SETTLED)
            costs = [_round(installation, load, server) for _ in range(sizes.rounds)]
            rows.append(
                {
                    "finished": size,
                    "gateway_us": median(one[0] for one in costs),
                    "postgres_us": median(one[1] for one in costs),
                    "bytes": _size(server.url),
                }
                | installation.ask(role="probe", samples=15)
            )
            # The next size may take an hour to fill: what was measured is not lost with it.
            click.echo(f"ledger: {rows[-1]}", err=True)
    return rows


def _round(installation: Installation, load: Load, server: Any) -> tuple[float, float]:
    """Microseconds of processor time per event: the gateway's, PostgreSQL's."""
    before = server_cpu_s(server)
    result = installation.round(load)
    spent = server_cpu_s(server) - before
    return float(result["cpu_s_per_million"]), spent / load.events * 1e6


def _size(url: str) -> int:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        asked = sa.text("select pg_database_size(current_database())")
        return int(connection.execute(asked).scalar_one())


def runs(sizes: Sizes) -> list[dict[str, Any]]:
    """What an event costs with more and more runs per user, on PostgreSQL."""
    rows: list[dict[str, Any]] = []
    load = Load(10, sizes.events, 1_000)
    with postgres() as server, new_installation(server.url) as installation:
        installation.round(load)
        for count in sizes.runs:
            found = [
                float(installation.round(load, runs=count)["cpu_s_per_million"])
                for _ in range(sizes.rounds)
            ]
            rows.append({"runs": count, "gateway_us": median(found)})
    return rows


def redis_commands(sizes: Sizes) -> list[dict[str, Any]]:
    """Commands that Redis gets for an event, and what an event costs, with several gateways: at
    full speed, where events share commands, and at the given rate."""
    return [
        _redis_commands(count, events, rate)
        for count in sizes.gateways
        for events, rate in (
            (sizes.events, 0.0),
            (max(1, min(sizes.events, int(sizes.rate * PACED))), sizes.rate),
        )
    ]


def _redis_commands(count: int, events: int, rate: float) -> dict[str, Any]:
    users = 100
    with gateways.running(count) as found, _crowd(found, users, every=1.0, away=1.0) as crowd:
        load = {"users": users, "events": events, "window": 1_000, "rate": rate}
        token = make_token(found.secret, "bench", scope="emit", ttl=TOKEN_TTL)
        order = {"role": "producer", "load": load, "url": found.urls[0], "token": token}
        before, cpu = found.redis_commands(), found.cpu_s()
        with child(order, 1, dict(os.environ)) as producer:
            answer(producer)
        _await_all(crowd, events)
        cpu = found.cpu_s() - cpu
        after = found.redis_commands()
        tell(crowd, "done")
        counted = answer(crowd)
    if counted["received"] != events:
        raise BenchFailed(f"{counted['received']} of {events} events arrived: no figures")
    called = {name: calls - before.get(name, 0) for name, calls in after.items()}
    each = {name: calls / events for name, calls in called.items() if calls > 0}
    each.pop("info", None)
    return {
        "gateways": count,
        "rate": rate,
        "commands_per_event": sum(each.values()),
        "by_command": dict(sorted(each.items(), key=lambda item: -item[1])),
        "gateway_us": cpu / events * 1e6,
    }


PARTS = {
    "connections": connections,
    "resets": resets,
    "ledger": ledger,
    "runs": runs,
    "redis": redis_commands,
}
