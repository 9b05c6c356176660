"""The cost of an event as runs and history grow: the same work with few and with many of them.

Owns: the comparisons and their order. The cost of an event is processor time; that of a sweep and
of a feed page is time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from delivery.bench.installation import Installation, new_installation
from delivery.bench.load import Load

EMPTY, FULL = "empty", "full"
Cell = tuple[str, int]
"""Ledger (empty or full), and runs per user."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes of a comparison.

    Attributes:
        runs: runs per user, against one.
        finished: events in the full ledger beforehand.
        rounds: of each load.
        samples: sweeps and feed pages.
        settle: seconds between the last finished event and the first page. A client that comes back
            gets every event recorded up to 45 s before its cursor, finished or not: events that
            finished a moment ago are not history yet.
        database_url: a new, empty PostgreSQL database; ``None`` for SQLite files.
    """

    load: Load
    runs: int = 1_000
    finished: int = 200_000
    rounds: int = 3
    samples: int = 15
    settle: float = 46.0
    database_url: str | None = None

    def cells(self) -> list[Cell]:
        """Every round of every load. With SQLite files rounds alternate; in the one PostgreSQL
        database the rounds that need it empty come first."""
        cells = [(ledger, runs) for runs in (1, self.runs) for ledger in (EMPTY, FULL)]
        found = cells * self.rounds
        return found if self.database_url is None else sorted(found)


def run_growth(plan: Plan) -> dict[str, Any]:
    """All cells of a plan; medians and ratios.

    Raises:
        BenchFailed: an event was lost, came twice or stayed unconfirmed, or a process died.
    """
    with ExitStack() as stack:
        full = _Full(plan, stack.enter_context(new_installation(plan.database_url)))
        with new_installation(plan.database_url) as installation:
            probes = {EMPTY: installation.ask(role="probe", samples=plan.samples)}
        costs: dict[Cell, list[float]] = {cell: [] for cell in plan.cells()}
        for cell in plan.cells():
            costs[cell].append(_cost(plan, cell, full))
        full.wait()
        probes[FULL] = full.filled().ask(role="probe", samples=plan.samples)
    return _report(plan, costs, probes) | {"fill": full.facts}


class _Full:
    """The full ledger, filled at its first use."""

    def __init__(self, plan: Plan, installation: Installation) -> None:
        self.facts: dict[str, Any] = {}
        self._plan = plan
        self._installation = installation
        self._at = 0.0

    def filled(self) -> Installation:
        if not self.facts:
            plan = self._plan
            self.facts = self._installation.ask(
                role="fill", events=plan.finished, users=plan.load.users
            )
            self._at = time.monotonic()
        return self._installation

    def wait(self) -> None:
        """Wait until its events are history."""
        self.filled()
        time.sleep(max(0.0, self._at + self._plan.settle - time.monotonic()))


def _cost(plan: Plan, cell: Cell, full: _Full) -> float:
    ledger, runs = cell
    if ledger == FULL:
        result = full.filled().round(plan.load, runs=runs)
    else:
        with new_installation(plan.database_url) as installation:
            result = installation.round(plan.load, runs=runs)
    return float(result["cpu_s_per_million"])


def _report(
    plan: Plan, costs: dict[Cell, list[float]], probes: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Every measure in both ledgers, and its growth: full to empty, and many runs to one."""
    cost = {cell: statistics.median(found) for cell, found in costs.items()}
    measures = {
        "cpu_s_per_million": {which: cost[which, 1] for which in (EMPTY, FULL)},
        "cpu_s_per_million_many_runs": {which: cost[which, plan.runs] for which in (EMPTY, FULL)},
        "sweep_ms": {which: probes[which]["sweep_ms"] for which in (EMPTY, FULL)},
        "feed_ms": {which: probes[which]["feed_ms"] for which in (EMPTY, FULL)},
    }
    ratios = {name: found[FULL] / found[EMPTY] for name, found in measures.items()}
    ratios |= {f"runs_{which}": cost[which, plan.runs] / cost[which, 1] for which in (EMPTY, FULL)}
    return {
        "load": asdict(plan.load),
        "runs": plan.runs,
        "finished": plan.finished,
        "rounds": plan.rounds,
        "samples": plan.samples,
        "measures": measures,
        "ratio": ratios,
        "each": [_each(cell, found) for cell, found in costs.items()],
    }


def _each(cell: Cell, found: Sequence[float]) -> dict[str, Any]:
    return {"ledger": cell[0], "runs": cell[1], "cpu_s_per_million": list(found)}
