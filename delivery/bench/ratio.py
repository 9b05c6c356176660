"""Product and floor in turn, and the ratio between them.

Owns: the order of a round, in fresh processes, on the same cores (figures drift with the machine
and the hour, ratios of one session do not), and a flame graph of the product's last round. py-spy,
which draws it, is no dependency.
"""

from __future__ import annotations

import shutil
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from delivery.bench.load import Load
from delivery.bench.processes import (
    ANSWER_TIMEOUT,
    TOKEN_TTL,
    BenchFailed,
    answer,
    audit,
    child,
    client_tokens,
    environment_of,
    new_folder,
    tell,
)
from delivery.errors import ConfigError
from delivery.tokens import make_token

WAITS = ("ack_ms", "accepted_ms", "handler_ms")
"""From the emission until the acknowledgement is in, the event durable, its handler called."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes of a measurement.

    Attributes:
        mode: ``durable``, ``performance``, ``ephemeral`` or ``remote``.
        database_url: the ledger; ``None`` for a new SQLite file.
        rounds: runs of product and floor each, in turn.
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
    with new_folder() as folder:
        environment = environment_of(folder, plan.load.window, plan.database_url)
        order = {"role": role, "mode": plan.mode, "load": asdict(plan.load)}
        with child(order, 0, environment) as server:
            url = answer(server)["url"]
            tokens = (
                None
                if role == "floor"
                else client_tokens(environment["DELIVERY_JWT_SECRET"], plan.load.users)
            )
            users = {
                "role": "client",
                "url": url,
                "users": plan.load.users,
                "tokens": tokens,
                "timeout": ANSWER_TIMEOUT,
            }
            with child(users, 1, environment) as clients:
                answer(clients)
                result = _run(plan, role, server, url, environment)
                counted = _finish(clients)
    result["client_cpu_s"] = counted["cpu_s"]
    if (
        role == "product" and plan.mode != "remote"
    ):  # there the instant of an event is that of its intake
        result["handler_ms"] = counted["handler_ms"]
    _audit(role, result, counted)
    return result


def _run(
    plan: Plan, role: str, server: subprocess.Popen[str], url: str, environment: dict[str, str]
) -> dict[str, Any]:
    """Figures of the server, and those of a producer where the mode has one."""
    with ExitStack() as stack:
        if role == "product" and plan.profile is not None:
            stack.enter_context(profiling(server.pid, plan.profile))
        found: dict[str, Any] = {}
        if role == "product" and plan.mode == "remote":
            token = make_token(
                environment["DELIVERY_JWT_SECRET"], "bench", scope="emit", ttl=TOKEN_TTL
            )
            order = {"role": "producer", "load": asdict(plan.load), "url": url, "token": token}
            producer = stack.enter_context(child(order, 1, environment))
            found["ack_ms"] = answer(producer)["accepted_ms"]
        result: dict[str, Any] = answer(server)["result"]
        return result | found


def _audit(role: str, result: dict[str, Any], counted: dict[str, Any]) -> None:
    """Refuse a run that lost or repeated an event: it has no figures."""
    if role == "product":
        audit(result, counted)
    elif counted["received"] != result["events"]:
        raise BenchFailed(f"the floor lost {result['events'] - counted['received']} events")


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


SAMPLE_RATE = 250
DRAW_TIMEOUT = 30.0


def find_profiler() -> str:
    """The path of py-spy, beside this interpreter or on the PATH.

    Raises:
        ConfigError: it is not installed.
    """
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if found is None:
        raise ConfigError("--profile needs py-spy: pip install py-spy")
    return found


@contextmanager
def profiling(pid: int, target: Path) -> Iterator[None]:
    """Sample a process during the block and write the flame graph.

    Raises:
        ConfigError: there is no profiler, or it may not read other processes here.
    """
    command = [
        find_profiler(),
        "record",
        "--gil",
        "--threads",
        "--rate",
        str(SAMPLE_RATE),
        "--output",
        str(target),
        "--pid",
        str(pid),
    ]
    spy = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        yield
    finally:
        spy.send_signal(signal.SIGINT)  # it writes its samples and ends
        try:
            _, said = spy.communicate(timeout=DRAW_TIMEOUT)
        except subprocess.TimeoutExpired:
            spy.kill()
            said = "it did not end in time"
    if not target.exists():
        raise ConfigError(f"py-spy wrote no profile: {said.strip()[-300:]}")
