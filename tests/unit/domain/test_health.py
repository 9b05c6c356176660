"""The score of a connection and the three states of a breaker."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.domain.health import (
    OPEN_BELOW,
    RECOVERY,
    THRESHOLD,
    Breaker,
    BreakerState,
    Vitals,
    score,
    smooth,
    stretched,
)


def opened(at: float = 100.0) -> Breaker:
    breaker = Breaker()
    for _ in range(THRESHOLD):
        breaker = breaker.on_failure(at)
    return breaker


def test_a_connection_without_symptoms_is_perfect() -> None:
    assert score(Vitals()) == 100


@pytest.mark.parametrize(
    ("vitals", "expected"),
    [
        (Vitals(round_trip_ms=500), 90),
        (Vitals(round_trip_ms=60_000), 80),
        (Vitals(ack_ms=2_500), 90),
        (Vitals(missed_pongs=2), 50),
        (Vitals(failures=1), 85),
        (Vitals(queue_fill=1.0), 70),
        (Vitals(queue_fill=-1.0), 100),
    ],
)
def test_every_symptom_costs_its_share(vitals: Vitals, expected: int) -> None:
    assert score(vitals) == expected


def test_no_latency_alone_opens_the_breaker() -> None:
    assert score(Vitals(round_trip_ms=1e9, ack_ms=1e9)) >= OPEN_BELOW


def test_a_silent_connection_opens_the_breaker() -> None:
    assert score(Vitals(missed_pongs=3)) < OPEN_BELOW


@given(
    st.builds(
        Vitals,
        round_trip_ms=st.floats(0, 1e9),
        ack_ms=st.floats(0, 1e9),
        missed_pongs=st.integers(0, 99),
        failures=st.integers(0, 99),
        queue_fill=st.floats(-1, 9),
    )
)
def test_a_score_lies_between_0_and_100(vitals: Vitals) -> None:
    assert 0 <= score(vitals) <= 100


def test_the_first_sample_counts_whole_and_later_ones_by_their_weight() -> None:
    assert smooth(0.0, 50.0) == 50.0
    assert smooth(50.0, 100.0) == pytest.approx(60.0)


def test_a_new_breaker_lets_calls_pass() -> None:
    assert Breaker().allows(0.0)


def test_failures_under_the_threshold_leave_it_closed() -> None:
    breaker = Breaker()
    for _ in range(THRESHOLD - 1):
        breaker = breaker.on_failure(1.0)
    assert breaker.state is BreakerState.CLOSED
    assert breaker.allows(1.0)


def test_a_success_forgets_earlier_failures() -> None:
    breaker = Breaker()
    for _ in range(THRESHOLD - 1):
        breaker = breaker.on_failure(1.0)
    assert breaker.on_success(2.0).failures == 0


def test_the_threshold_opens_it() -> None:
    breaker = opened(100.0)
    assert breaker.state is BreakerState.OPEN
    assert not breaker.allows(100.0 + RECOVERY - 0.1)


def test_after_the_recovery_time_one_probe_passes() -> None:
    breaker = opened(100.0)
    assert breaker.allows(100.0 + RECOVERY)
    probing = breaker.on_attempt(100.0 + RECOVERY)
    assert probing.state is BreakerState.HALF_OPEN
    assert not probing.allows(100.0 + RECOVERY + 1.0)


def test_an_attempt_before_the_recovery_time_changes_nothing() -> None:
    breaker = opened(100.0)
    assert breaker.on_attempt(101.0) is breaker


def test_a_probe_that_succeeds_closes_it() -> None:
    probing = opened(100.0).on_attempt(100.0 + RECOVERY)
    assert probing.on_success(131.0) == Breaker(BreakerState.CLOSED, 0, 131.0)


def test_a_probe_that_fails_opens_it_again_at_once() -> None:
    again = opened(100.0).on_attempt(100.0 + RECOVERY).on_failure(131.0)
    assert again.state is BreakerState.OPEN
    assert again.since == 131.0


def test_a_probe_that_never_answers_makes_way_for_another() -> None:
    probing = opened(100.0).on_attempt(130.0)
    assert probing.allows(130.0 + RECOVERY)
    assert probing.on_attempt(130.0 + RECOVERY).since == 130.0 + RECOVERY


@given(st.lists(st.sampled_from(["ok", "fail", "try"]), max_size=60))
def test_a_breaker_always_lets_something_pass_again(inputs: list[str]) -> None:
    breaker, now = Breaker(), 0.0
    for item in inputs:
        now += 1.0
        if item == "ok":
            breaker = breaker.on_success(now)
        elif item == "fail":
            breaker = breaker.on_failure(now)
        else:
            breaker = breaker.on_attempt(now)
    assert breaker.allows(now + RECOVERY)
    assert breaker.failures >= THRESHOLD or breaker.state is BreakerState.CLOSED


@pytest.mark.parametrize(
    ("linger", "health", "held"),
    [(0.02, 100, 0.02), (0.02, 50, 0.03), (0.02, 0, 0.04), (0.1, 0, 0.1)],
)
def test_a_weak_connection_gets_fewer_larger_frames(
    linger: float, health: int, held: float
) -> None:
    assert stretched(linger, health) == pytest.approx(held)
