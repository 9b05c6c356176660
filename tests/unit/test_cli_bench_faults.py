"""`delivery bench faults`: what it lists, what it prints, and when it exits with 1."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from click.testing import CliRunner, Result

from delivery.bench.faults import runner
from delivery.bench.faults.audit import Verdict
from delivery.bench.faults.runner import Outcome
from delivery.bench.faults.scenarios import SCENARIOS, Budget, Scenario, budget_misses
from delivery.cli import main


def run(*args: str) -> Result:
    return CliRunner().invoke(main, ["bench", "faults", *args])


def verdict(**changes: Any) -> Verdict:
    figures = dict.fromkeys(
        (
            "refused",
            "live",
            "replay",
            "fallback",
            "dead",
            "waiting",
            "lost",
            "unconfirmed",
            "twice",
            "disordered",
        ),
        0,
    )
    times = {"p50": 0.01, "p99": 2.5, "max": 61.23}
    return Verdict(
        accepted=12_000, to_handler_s=times, recover_s=2.7, settle_s=0.2, **figures | changes
    )


@pytest.fixture
def outcome(monkeypatch: pytest.MonkeyPatch) -> Callable[[Verdict], None]:
    """Every scenario ends like this, without a cluster."""

    def set_to(found: Verdict) -> None:
        def pretend(
            scenarios: Sequence[Scenario], shape: Any, plan: Any, told: Callable[..., None]
        ) -> bool:
            for one in scenarios:
                told(one, Outcome(found, ("p99 to the handler 9 s, budget 3 s",), {}))
            return found.is_good

        monkeypatch.setattr(runner, "run_scenarios", pretend)

    return set_to


def test_scenarios_are_listed() -> None:
    listed = json.loads(run("--list", "--json").output)
    assert [one["name"] for one in listed] == [one.name for one in SCENARIOS]
    assert "tcp-kill" in run("--list").output


def test_an_unknown_scenario_is_refused_with_the_known_ones() -> None:
    result = run("--scenario", "meteorite")
    assert result.exit_code == 2
    assert "no scenario 'meteorite'" in result.stderr
    assert "gateway-kill" in result.stderr


def test_the_table_fits_80_columns(outcome: Callable[[Verdict], None]) -> None:
    outcome(verdict(live=11_000, replay=1_000))
    result = run()
    assert result.exit_code == 0
    assert max(map(len, result.output.splitlines())) <= 80
    assert "over budget" in result.output


@pytest.mark.parametrize("fault", ["lost", "twice", "unconfirmed"])
def test_one_bad_event_ends_with_1(outcome: Callable[[Verdict], None], fault: str) -> None:
    outcome(verdict(**{fault: 1}))
    result = run("--scenario", "calm", "--json")
    assert result.exit_code == 1
    assert json.loads(result.output)["scenarios"]["calm"][fault] == 1


def test_a_budget_is_kept_or_missed() -> None:
    kept = Budget(p99_s=3.0, settle_s=10.0)
    assert budget_misses(kept, verdict()) == ()
    assert len(budget_misses(Budget(p99_s=2.0, settle_s=0.1), verdict())) == 2
    assert budget_misses(Budget(recover_s=2.7), verdict()) == ()
    assert budget_misses(Budget(recover_s=2.6), verdict()) == ("recovered in 2.7 s, budget 2.6 s",)
    never = Verdict(
        **{name: getattr(verdict(), name) for name in Verdict.__slots__} | {"settle_s": None}
    )
    assert budget_misses(kept, never) == ("the backlog was not drained in time",)
