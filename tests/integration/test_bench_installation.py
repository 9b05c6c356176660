"""A benchmark's installation runs for real, small, with many runs per user."""

from __future__ import annotations

import pytest

from delivery.bench.installation import new_installation
from delivery.bench.load import Load
from delivery.bench.processes import BenchFailed, audit


def test_a_past_and_then_a_round_with_many_runs_in_one_ledger() -> None:
    with new_installation() as installation:
        assert installation.ask(role="fill", events=100, users=2)["finished"] == 100
        load = Load(users=2, events=300, window=50)
        result = installation.with_linger(0.005).round(load, runs=4)
    assert (result["events"], result["unconfirmed"]) == (300, 0)
    assert result["cpu_s_per_million"] > 0
    assert result["client_cpu_s_per_million"] > 0


def test_a_process_that_dies_fails_the_run() -> None:
    with new_installation() as installation, pytest.raises(BenchFailed):
        installation.ask(role="probe", nonsense=True)


def test_a_round_that_lost_or_repeated_events_has_no_figures() -> None:
    fine = {"unconfirmed": 0, "events": 5}
    audit(fine, {"repeated": 0, "received": 5})
    for result, counted in (
        (fine | {"unconfirmed": 1}, {"repeated": 0, "received": 5}),
        (fine, {"repeated": 1, "received": 6}),
        (fine, {"repeated": 0, "received": 4}),
    ):
        with pytest.raises(BenchFailed, match="no figures"):
            audit(result, counted)
