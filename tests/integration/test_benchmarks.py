"""The experiments of ``benchmarks`` run for real, small."""

from __future__ import annotations

import pytest

from delivery.bench.installation import new_installation


@pytest.mark.parametrize(("is_open", "share"), [(True, 1.0), (False, 0.0)])
def test_an_open_breaker_hands_over_at_once_and_a_closed_one_waits(
    is_open: bool, share: float
) -> None:
    with new_installation() as installation:
        found = installation.ask(
            module="benchmarks.dead_peer", role="dead_peer", events=100, is_open=is_open
        )
    assert found["handed_over"] == share
    assert found["us_per_event"] > 0
