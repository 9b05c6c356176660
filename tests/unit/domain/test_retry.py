"""Backoff and jitter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.domain.retry import PERFORMANCE, Backoff


@pytest.mark.parametrize(("retry", "seconds"), [(1, 0.1), (2, 0.2), (3, 0.4), (4, 0.8), (9, 2.0)])
def test_the_delay_doubles_up_to_its_limit(retry: int, seconds: float) -> None:
    assert Backoff(0.1, 2.0, 0.0).delay(retry, 0.9) == pytest.approx(seconds)


@pytest.mark.parametrize(("draw", "seconds"), [(0.0, 0.7), (0.5, 1.0), (1.0, 1.3)])
def test_a_draw_shortens_or_lengthens_by_the_jitter(draw: float, seconds: float) -> None:
    assert Backoff(1.0, 9.0, 0.3).delay(1, draw) == pytest.approx(seconds)


def test_performance_mode_waits_a_millisecond_for_any_draw() -> None:
    assert {PERFORMANCE.delay(retry, draw) for retry in (1, 5) for draw in (0.0, 0.99)} == {0.001}


def test_a_huge_retry_number_does_not_overflow() -> None:
    assert Backoff(0.1, 2.0, 0.0).delay(10**9, 0.5) == 2.0


@given(
    base=st.floats(0, 1e3),
    more=st.floats(0, 1e3),
    jitter=st.floats(0, 1),
    retry=st.integers(1, 100),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_a_delay_stays_within_its_limits(
    base: float, more: float, jitter: float, retry: int, draw: float
) -> None:
    delay = Backoff(base, base + more, jitter).delay(retry, draw)
    assert 0.0 <= delay <= (base + more) * (1 + jitter) * (1 + 1e-9)
