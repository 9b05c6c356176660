"""Starts the processes of a run, pins them, and takes their results.

Owns: product and floor in turn, in fresh processes, on the same cores: figures drift with the
machine and the hour, ratios of one session do not.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from delivery.bench.profile import profiling
from delivery.bench.window import Load
from delivery.errors import DeliveryError
from delivery.gateway.auth import make_token

PATIENCE = 180.0
GOODBYE = 10.0
WAITS = ("ack_ms", "accepted_ms", "handler_ms")
"""From the emission until the acknowledgement is in, the event durable, its handler called."""


class BenchFailed(DeliveryError):
    """A process of the run ended without a result."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure.

    Attributes:
        mode: ``durable``, ``performance``, ``ephemeral`` or ``remote``.
        database_url: the ledger; ``None`` for a new SQLite file.
        rounds: product and floor each run so often, in turn.
        profile: where to write a flame graph of the product's last round.
    """

    load: Load
    mode: str
    database_url: str | None
    rounds: int
    profile: Path | None = None


def run_plan(plan: Plan) -> dict[str, Any]:
    """All rounds of a plan; medians and the ratios to the floor.

    Raises:
        BenchFailed: an event was lost, came twice or stayed unconfirmed, or a process died.
    """
    products, floors = [], []
    for _ in range(plan.rounds):
        floors.append(_round(plan, "floor"))
        products.append(_round(plan, "product"))
    return {
        "mode": plan.mode,
        "load": asdict(plan.load),
        "rounds": plan.rounds,
        "product": _median(products),
        "floor": _median(floors),
        "ratio": {
            name: _median_of(products, name) / _median_of(floors, name)
            for name in ("events_per_s", "events_per_cpu_s")
        },
    }


def _round(plan: Plan, role: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="delivery-bench-") as folder:
        environment = _environment(plan, folder)
        order = {"role": role, "mode": plan.mode, "load": asdict(plan.load)}
        with _child(order, 0, environment) as server:
            url = _answer(server)["url"]
            tokens = None if role == "floor" else _tokens(environment, plan.load.users)
            users = {"role": "client", "url": url, "users": plan.load.users, "tokens": tokens,
                     "patience": PATIENCE}  # fmt: skip
            with _child(users, 1, environment) as clients:
                _answer(clients)
                result = _run(plan, role, server, url, environment)
                counted = _finish(clients)
    result["client_cpu_s"] = counted["cpu_s"]
    if role == "product" and plan.mode != "remote":  # whose events are stamped when they come in
        result["handler_ms"] = counted["handler_ms"]
    _audit(role, result, counted)
    return result


def _run(
    plan: Plan, role: str, server: subprocess.Popen[str], url: str, environment: dict[str, str]
) -> dict[str, Any]:
    """What the server measured, with the figures of a producer or a profile beside it."""
    with ExitStack() as stack:
        if role == "product" and plan.profile is not None:
            stack.enter_context(profiling(server.pid, plan.profile))
        found: dict[str, Any] = {}
        if role == "product" and plan.mode == "remote":
            token = make_token(
                environment["DELIVERY_JWT_SECRET"], "bench", scope="emit", ttl=3600.0
            )
            order = {"role": "producer", "load": asdict(plan.load), "url": url, "token": token}
            producer = stack.enter_context(_child(order, 1, environment))
            found["ack_ms"] = _answer(producer)["accepted_ms"]
        result: dict[str, Any] = _answer(server)["result"]
        return result | found


def _audit(role: str, result: dict[str, Any], counted: dict[str, Any]) -> None:
    """A run that lost or repeated something has no figure."""
    if role == "product":
        if counted["received"] < result["events"]:
            raise BenchFailed(
                f"{result['events'] - counted['received']} events did not arrive: no figures"
            )
        if result["unconfirmed"] or counted["repeated"]:
            raise BenchFailed(
                f"{result['unconfirmed']} events are not confirmed in the ledger and "
                f"{counted['repeated']} came twice: no figures"
            )
    elif counted["received"] != result["events"]:
        raise BenchFailed(f"the floor lost {result['events'] - counted['received']} events")


def _environment(plan: Plan, folder: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("DELIVERY_")}
    found = {
        "DELIVERY_DATA_DIR": folder,
        "DELIVERY_PORT": "0",
        "DELIVERY_JWT_SECRET": os.urandom(32).hex(),
        "DELIVERY_BROKER_URL": "memory://",
        "DELIVERY_MAX_IN_FLIGHT": str(max(1_000, plan.load.window)),
        "DELIVERY_LOG_LEVEL": "WARNING",
    }
    if plan.database_url is not None:
        found["DELIVERY_DATABASE_URL"] = plan.database_url
    return kept | found


def _tokens(environment: dict[str, str], users: int) -> list[str]:
    secret = environment["DELIVERY_JWT_SECRET"]
    return [make_token(secret, f"user-{user}", ttl=3600.0) for user in range(users)]


@contextmanager
def _child(
    order: dict[str, Any], core: int, environment: dict[str, str]
) -> Iterator[subprocess.Popen[str]]:
    """A process of its own, on a core of its own where the machine has one."""
    process = subprocess.Popen(
        [sys.executable, "-m", "delivery.bench.process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
        bufsize=1,
    )
    try:
        _pin(process.pid, core)
        _tell(process, json.dumps(order))
        yield process
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GOODBYE)  # it has said its result and ends by itself
    finally:
        process.kill()
        process.wait(10)


def _pin(pid: int, core: int) -> None:
    available = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(pid, {available[core % len(available)]})


def _tell(process: subprocess.Popen[str], line: str) -> None:
    if process.stdin is None:
        raise BenchFailed("a benchmark process has no input")
    process.stdin.write(line + "\n")
    process.stdin.flush()


def _answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next line of a process, within the patience of the whole run."""
    if process.stdout is None:
        raise BenchFailed("a benchmark process has no output")
    ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
    line = process.stdout.readline() if ready else ""
    if not line:
        raise BenchFailed("a benchmark process ended without a result; its errors stand above")
    answer: dict[str, Any] = json.loads(line)
    return answer


def _finish(clients: subprocess.Popen[str]) -> dict[str, Any]:
    _tell(clients, "done")
    return _answer(clients)


def _median_of(results: Sequence[dict[str, Any]], name: str) -> float:
    return float(statistics.median(result[name] for result in results))


def _median(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians of the plain figures; waits are those of the run with the median p99."""
    plain = {
        name: _median_of(results, name)
        for name, value in results[0].items()
        if isinstance(value, int | float)
    }
    typical = sorted(results, key=lambda result: result["ack_ms"]["p99"])[len(results) // 2]
    return plain | {name: typical[name] for name in WAITS if typical.get(name)}
