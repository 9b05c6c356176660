"""`delivery bench growth`: the past that is made up, what is compared, what is printed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from delivery.bench import growth
from delivery.bench.growth import EMPTY, FULL, Plan, _report
from delivery.bench.history import READER, fill, probe
from delivery.bench.load import Load
from delivery.cli import main
from delivery.domain.lifecycle import State
from delivery.domain.records import EventFilter
from delivery.ledger import SqlLedger, migrate

LOAD = Load(users=2, events=100, window=10)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[SqlLedger]:
    url = f"sqlite:///{tmp_path / 'bench.sqlite3'}"
    migrate.upgrade(url)
    with closing(SqlLedger(url)) as opened:
        yield opened


def states(ledger: SqlLedger) -> dict[str, int]:
    return {state: count for state, count in ledger.statistics.stats().states.items() if count}


def test_a_past_is_spread_over_the_users_and_all_of_it_is_confirmed(ledger: SqlLedger) -> None:
    told: list[int] = []
    facts = fill(ledger, events=630, users=2, tell=told.append)
    assert (facts["finished"], told) == (630, [630])
    assert states(ledger) == {State.CONFIRMED: 630}
    for user_id in ("user-0", "user-1", READER):
        found, _ = ledger.events.find(EventFilter(user_id=user_id), limit=500)
        assert len(found) == 210
        assert len({(one.event.run_id, one.event.seq) for one in found}) == 210


def test_a_probe_times_full_pages_and_leaves_nothing_open(ledger: SqlLedger) -> None:
    fill(ledger, events=300, users=2, tell=lambda _: None)
    found = probe(ledger, samples=2)
    assert found["sweep_ms"] > 0
    assert found["feed_ms"] > 0
    assert set(states(ledger)) == {State.CONFIRMED}
    assert ledger.chain.sweep().due == ()


def test_files_take_turns_and_one_database_is_filled_last() -> None:
    turns = Plan(LOAD, runs=5, rounds=2).cells()
    assert turns[:4] == [(EMPTY, 1), (FULL, 1), (EMPTY, 5), (FULL, 5)] == turns[4:]
    ledgers = [ledger for ledger, _ in Plan(LOAD, rounds=2, database_url="postgresql://x").cells()]
    assert ledgers == [EMPTY] * 4 + [FULL] * 4


def report() -> dict[str, Any]:
    plan = Plan(LOAD, runs=5, finished=1_000, rounds=3)
    costs = {
        (EMPTY, 1): [40.0, 90.0, 41.0],
        (FULL, 1): [82.0, 82.0, 82.0],
        (EMPTY, 5): [41.0, 41.0, 41.0],
        (FULL, 5): [41.0, 41.0, 41.0],
    }
    probes = {EMPTY: {"sweep_ms": 4.0, "feed_ms": 2.0}, FULL: {"sweep_ms": 4.0, "feed_ms": 3.0}}
    return _report(plan, costs, probes) | {"fill": {"filled_per_s": 10_000.0}}


def test_medians_are_compared_full_to_empty_and_many_runs_to_one() -> None:
    assert report()["ratio"] == {
        "cpu_s_per_million": 2.0,
        "cpu_s_per_million_many_runs": 1.0,
        "sweep_ms": 1.0,
        "feed_ms": 1.5,
        "runs_empty": 1.0,
        "runs_full": 0.5,
    }


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """Nothing is measured; the plans that would have been."""
    seen: list[Plan] = []

    def pretend(plan: Plan) -> dict[str, Any]:
        seen.append(plan)
        return report()

    monkeypatch.setattr(growth, "run_growth", pretend)
    return seen


def run(*args: str) -> Result:
    return CliRunner().invoke(main, ["bench", "growth", *args])


def test_the_table_fits_and_says_what_grew(plans: list[Plan]) -> None:
    done = run("--finished", "5000000", "--runs", "1000")
    assert done.exit_code == 0, done.output
    assert plans == [Plan(Load(10, 50_000, 1_000), finished=5_000_000)]
    assert "one feed page of 100 events, ms" in done.output
    assert all(len(line) <= 80 for line in done.output.splitlines())


def test_growth_over_the_limit_is_a_failure(plans: list[Plan]) -> None:
    assert run("--at-most", "2.5").exit_code == 0
    done = run("--at-most", "1.2", "--json")
    assert done.exit_code == 1
    assert "cpu_s_per_million grew 2.00 times, over 1.20" in done.output
    assert json.loads(run("--json").output)["ratio"]["feed_ms"] == 1.5
