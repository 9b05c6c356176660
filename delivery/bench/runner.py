"""Runs product and floor in turn, and judges their results.

Owns: the order of a round, in fresh processes, on the same cores: figures drift with the machine
and the hour, ratios of one session do not.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from delivery.bench.children import PATIENCE, BenchFailed, answer, child, tell
from delivery.bench.profile import profiling
from delivery.bench.window import Load
from delivery.gateway.auth import make_token

WAITS = ("ack_ms", "accepted_ms", "handler_ms")
"""From the emission until the acknowledgement is in, the event durable, its handler called."""


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
        environment = environment_of(plan.load, plan.database_url, folder)
        order = {"role": role, "mode": plan.mode, "load": asdict(plan.load)}
        with child(order, 0, environment) as server:
            url = answer(server)["url"]
            tokens = None if role == "floor" else _tokens(environment, plan.load.users)
            users = {"role": "client", "url": url, "users": plan.load.users, "tokens": tokens,
                     "patience": PATIENCE}  # fmt: skip
            with child(users, 1, environment) as clients:
                answer(clients)
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
            producer = stack.enter_context(child(order, 1, environment))
            found["ack_ms"] = answer(producer)["accepted_ms"]
        result: dict[str, Any] = answer(server)["result"]
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


def environment_of(load: Load, database_url: str | None, folder: str) -> dict[str, str]:
    """What the processes of a run are told: nothing of this machine's settings."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("DELIVERY_")}
    found = {
        "DELIVERY_DATA_DIR": folder,
        "DELIVERY_PORT": "0",
        "DELIVERY_JWT_SECRET": os.urandom(32).hex(),
        "DELIVERY_BROKER_URL": "memory://",
        "DELIVERY_MAX_IN_FLIGHT": str(max(1_000, load.window)),
        "DELIVERY_LOG_LEVEL": "WARNING",
    }
    if database_url is not None:
        found["DELIVERY_DATABASE_URL"] = database_url
    return kept | found


def _tokens(environment: dict[str, str], users: int) -> list[str]:
    secret = environment["DELIVERY_JWT_SECRET"]
    return [make_token(secret, f"user-{user}", ttl=3600.0) for user in range(users)]


def _finish(clients: subprocess.Popen[str]) -> dict[str, Any]:
    tell(clients, "done")
    return answer(clients)


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
