"""Append throughput: events accepted per second while no user is connected, beside the same rows
written by the database alone.

Owns: the load in the gateway's process and over HTTP, and the limit: rows that a round has left,
written once more by the database's bulk statement, indexes included. Never does: work in the chain;
accepted events are handed over at once, because their users are away, and stay due.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from subprocess import Popen
from typing import Any, TypeVar

import aiohttp
import sqlalchemy as sa

from delivery.bench.load import BURST, Load, measured
from delivery.bench.processes import (
    TOKEN_TTL,
    BenchFailed,
    answer,
    child,
    environment_of,
    new_folder,
    processor_s,
    tell,
)
from delivery.bench.product import MAX_BACKLOG
from delivery.bootstrap.gateway import node_from_environment, serve_node
from delivery.bootstrap.ledger import database_url
from delivery.bootstrap.node import Node
from delivery.domain.emission import Receipt
from delivery.domain.event import AGENT_TYPES
from delivery.process.event_loop import tune_garbage_collector
from delivery.tokens import make_token

T = TypeVar("T")

IN_PROCESS, OVER_HTTP = WAYS = "in process", "over HTTP"
TIMEOUT = 170.0
"""Seconds for the events of one round, under the wait of the parent."""
BATCH = 100
"""Events of one request."""
PER_TRANSACTION = 1_000
"""Rows that the database takes in one transaction when it works alone."""
COPIED = "bench_append"
"""Table of PostgreSQL that the rows are copied into; gone afterwards."""


@dataclass(frozen=True, slots=True)
class Append:
    """Sizes of a measurement.

    Attributes:
        database_url: the ledger, a new and empty PostgreSQL database; ``None`` for SQLite files.
        rounds: how often each way and the database alone run, in turn.
    """

    load: Load
    database_url: str | None = None
    rounds: int = 3


def run_append(plan: Append) -> dict[str, Any]:
    """All rounds: medians per way, and their share of what the database takes.

    Raises:
        BenchFailed: an event is not in the ledger, or a process died.
    """
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    limits: list[float] = []
    before = 0
    for _ in range(plan.rounds):
        for way in WAYS:
            with new_folder() as folder:
                before = 0 if plan.database_url is None else before
                environment = environment_of(folder, plan.load.window, plan.database_url)
                result, ledger = _round(plan.load, way, environment, before)
                found[way].append(result)
                before = int(ledger["rows"])
                limits.append(ledger["rows_per_s"])
    limit = median(limits)
    ways = {way: _medians(rounds) for way, rounds in found.items()}
    return {
        "load": asdict(plan.load),
        "rounds": plan.rounds,
        "database": "sqlite" if plan.database_url is None else "postgresql",
        "database_rows_per_s": limit,
        "ways": ways,
        "ratio": {way: one["accepted_per_s"] / limit for way, one in ways.items()},
    }


def _medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: median(one[name] for one in rounds) for name in rounds[0]}


def _round(
    load: Load, way: str, environment: dict[str, str], before: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """Accept everything, then write the same rows by the database alone.

    Args:
        before: events that the ledger had.
    """
    order = {"role": "appender", "load": asdict(load), "way": way}
    with child(order, 0, environment) as gateway:
        url = answer(gateway)["url"]
        if way == IN_PROCESS:
            result = answer(gateway)["result"]
        else:
            result = _post(load, url, environment["DELIVERY_JWT_SECRET"], gateway)
            tell(gateway, "done")
    with child({"role": "rewriter"}, 0, environment) as rewriter:
        ledger = answer(rewriter)
    # Each run's first event is one more, which opens it.
    if ledger["rows"] - before < load.events:
        raise BenchFailed(f"the ledger has {ledger['rows'] - before} of {load.events} events")
    return {name: result[name] for name in ("accepted_per_s", "cpu_us_per_event")}, ledger


def _post(load: Load, url: str, secret: str, gateway: Popen[str]) -> dict[str, float]:
    token = make_token(secret, "bench", scope="emit", ttl=TOKEN_TTL)
    before = processor_s(gateway.pid)
    order = {"role": "poster", "load": asdict(load), "url": url, "token": token}
    with child(order, 1, {}) as producer:
        took = float(answer(producer)["took_s"])
    cpu = processor_s(gateway.pid) - before
    return {"accepted_per_s": load.events / took, "cpu_us_per_event": cpu / load.events * 1e6}


async def be_appender(order: dict[str, Any], say: Callable[..., None]) -> None:
    """A gateway without users: it emits by itself, or serves until it reads a line."""
    node = node_from_environment("bench")
    await node.open()
    try:
        await serve_node(node)
        tune_garbage_collector()
        say(url=node.settings.base_url)
        if order["way"] == IN_PROCESS:
            say(result=await _emit_all(node, Load(**order["load"])))
        else:
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    finally:
        await node.gateway.stop(0.0)
        await node.close()


async def _emit_all(node: Node, load: Load) -> dict[str, float]:
    emitters = [node.emitter(f"user-{user}", f"run-{user}") for user in range(load.users)]
    data = {"text": "x" * load.payload}
    # The ledger numbers the first event of each run, which is not to be measured.
    await asyncio.gather(*(one.emit("run_opened", data) for one in emitters))
    waiting: deque[Receipt] = deque()
    async with asyncio.timeout(TIMEOUT), measured(load.events) as result:
        for number in range(load.events):
            if number % BURST == 0:
                await asyncio.sleep(0)
                while node.journal.backlog > MAX_BACKLOG:
                    await waiting.popleft().accepted()
            kind = AGENT_TYPES[number % len(AGENT_TYPES)]
            waiting.append(emitters[number % load.users].emit_nowait(kind, data))
        for receipt in waiting:
            await receipt.accepted()
    return {
        "accepted_per_s": result["events_per_s"],
        "cpu_us_per_event": result["cpu_s_per_million"],
    }


async def be_poster(order: dict[str, Any], say: Callable[..., None]) -> None:
    """Post batches that are ready beforehand; a client in Python costs more than the gateway."""
    load = Load(**order["load"])
    numbers = range(0, load.events, BATCH)
    bodies = iter([_body(load, start, min(start + BATCH, load.events)) for start in numbers])
    headers = {"Authorization": f"Bearer {order['token']}", "Content-Type": "application/json"}

    async def post(session: aiohttp.ClientSession) -> None:
        for body in bodies:
            async with session.post("/v1/events", data=body) as answer:
                if answer.status != 202 or (await answer.json())["rejected"]:
                    raise BenchFailed(f"a batch was not accepted: {answer.status}")

    async with aiohttp.ClientSession(order["url"], headers=headers) as session:
        started = time.perf_counter()
        async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as group:
            for _ in range(max(1, load.window // BATCH)):
                group.create_task(post(session))
        say(took_s=time.perf_counter() - started)


def _body(load: Load, start: int, end: int) -> bytes:
    data = {"text": "x" * load.payload}
    found = [
        {
            "type": AGENT_TYPES[number % len(AGENT_TYPES)],
            "user_id": f"user-{number % load.users}",
            "run_id": f"run-{number % load.users}",
            "data": data,
        }
        for number in range(start, end)
    ]
    return json.dumps({"events": found}).encode()


async def be_rewriter(_order: dict[str, Any], say: Callable[..., None]) -> None:
    """Write the ledger's events once more, by the bulk statement of its database."""
    url = sa.make_url(database_url(node_from_environment("bench").settings))
    if url.get_backend_name() == "sqlite":
        say(**_insert_again(Path(str(url.database))))
    else:
        say(**_copy_again(url))


def _insert_again(file: Path) -> dict[str, float]:
    """Into a copy of the file, emptied, under the ledger's own settings of SQLite."""
    copy = file.with_name("copy.db")
    with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(copy)) as target:
        rows = source.execute("SELECT * FROM events").fetchall()
        source.backup(target)
        target.execute("PRAGMA journal_mode=WAL")
        target.execute("PRAGMA synchronous=NORMAL")
        target.execute("DELETE FROM events")
        target.commit()
        marks = ", ".join("?" * len(rows[0]))
        started = time.perf_counter()
        for some in _pages(rows):
            target.executemany(f"INSERT INTO events VALUES ({marks})", some)  # noqa: S608
            target.commit()
        return _rate(len(rows), started)


def _copy_again(url: sa.URL) -> dict[str, float]:
    """Into a table like the events' own."""
    import psycopg

    address = url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(address) as connection:
        with connection.cursor().copy("COPY events TO STDOUT") as reading:
            rows = [bytes(row) for row in reading]
        connection.execute(f"CREATE TABLE {COPIED} (LIKE events INCLUDING ALL)")
        connection.commit()
        started = time.perf_counter()
        for some in _pages(rows):
            with connection.cursor().copy(f"COPY {COPIED} FROM STDIN") as writing:
                writing.write(b"".join(some))
            connection.commit()
        found = _rate(len(rows), started)
        connection.execute(f"DROP TABLE {COPIED}")
        return found


def _pages(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(rows), PER_TRANSACTION):
        yield rows[start : start + PER_TRANSACTION]


def _rate(rows: int, started: float) -> dict[str, float]:
    return {"rows": rows, "rows_per_s": rows / (time.perf_counter() - started)}
