"""Refusals are logged once for each caller and reason, and counted after that."""

from __future__ import annotations

import logging

import pytest

from delivery.callers.refusals import MAX_CALLERS, Refusals


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _every_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def test_a_caller_that_repeats_itself_is_one_line_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    refusals = Refusals(clock=clock)
    for _ in range(500):
        refusals.note("GET /v1/stats: forbidden", "user eve")
    clock.now += 61.0
    refusals.note("GET /v1/stats: forbidden", "user eve")
    assert caplog.messages == [
        "refused: GET /v1/stats: forbidden, by user eve",
        "refused: GET /v1/stats: forbidden, by user eve (499 more since the last line)",
    ]


def test_callers_and_reasons_are_told_apart(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals(clock=Clock())
    for by in ("user eve", "user mallory"):
        for what in ("a", "b"):
            refusals.note(what, by)
            refusals.note(what, by)
    assert len(caplog.messages) == 4


def test_what_is_remembered_is_bounded() -> None:
    refusals = Refusals(clock=Clock())
    for number in range(3 * MAX_CALLERS):
        refusals.note("a", f"user {number}", logging.DEBUG)
    assert len(refusals) == MAX_CALLERS
