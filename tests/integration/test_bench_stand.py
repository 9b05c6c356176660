"""A bench stand runs for real, small: many runs per user, and a dead peer."""

from __future__ import annotations

import pytest

from delivery.bench.children import BenchFailed
from delivery.bench.stand import _audit, new_stand
from delivery.bench.window import Load


def test_a_past_and_then_a_round_with_many_runs_in_one_ledger() -> None:
    with new_stand() as stand:
        assert stand.ask(role="fill", events=100, users=2)["finished"] == 100
        load = Load(users=2, events=300, window=50)
        result = stand.with_linger(0.005).round(load, runs=4)
    assert (result["events"], result["unconfirmed"]) == (300, 0)
    assert result["cpu_s_per_million"] > 0
    assert result["client_cpu_s_per_million"] > 0


@pytest.mark.parametrize(("is_open", "share"), [(True, 1.0), (False, 0.0)])
def test_an_open_breaker_hands_over_at_once_and_a_closed_one_waits(
    is_open: bool, share: float
) -> None:
    with new_stand() as stand:
        found = stand.ask(role="dead_peer", events=100, is_open=is_open)
    assert found["handed_over"] == share
    assert found["us_per_event"] > 0


def test_a_process_that_dies_fails_the_run() -> None:
    with new_stand() as stand, pytest.raises(BenchFailed):
        stand.ask(role="probe", nonsense=True)


def test_a_round_that_lost_or_repeated_events_has_no_figures() -> None:
    fine = {"unconfirmed": 0, "events": 5}
    _audit(fine, {"repeated": 0, "received": 5})
    for result, counted in (
        (fine | {"unconfirmed": 1}, {"repeated": 0, "received": 5}),
        (fine, {"repeated": 1, "received": 6}),
        (fine, {"repeated": 0, "received": 4}),
    ):
        with pytest.raises(BenchFailed, match="no figures"):
            _audit(result, counted)
