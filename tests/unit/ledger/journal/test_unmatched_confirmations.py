"""Confirmations without an event are offered again for a limited time."""

from __future__ import annotations

from delivery.domain.lifecycle import Confirmation
from delivery.ledger.journal.committing import UnmatchedConfirmations


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def confirmation(number: int) -> Confirmation:
    return Confirmation(f"event-{number}", "ada", "websocket", "ada", "c1")


def test_a_confirmation_is_offered_every_second_until_its_event_is_recorded() -> None:
    clock = Clock()
    unmatched = UnmatchedConfirmations(clock=clock)
    unmatched.settle((), [confirmation(1), confirmation(2)])
    assert unmatched.due() == [confirmation(1), confirmation(2)]
    assert unmatched.due() == [], "once a second"
    unmatched.settle([confirmation(1), confirmation(2)], [confirmation(2)])
    clock.now += 1.0
    assert unmatched.due() == [confirmation(2)]
    unmatched.settle([confirmation(2)], [])
    clock.now += 1.0
    assert unmatched.due() == []


def test_a_confirmation_whose_event_is_never_recorded_is_dropped() -> None:
    clock = Clock()
    unmatched = UnmatchedConfirmations(keep=10.0, clock=clock)
    unmatched.settle((), [confirmation(1)])
    for _ in range(9):
        clock.now += 1.0
        unmatched.settle(unmatched.due(), [confirmation(1)])
    assert len(unmatched) == 1
    clock.now += 1.0
    unmatched.settle(unmatched.due(), [confirmation(1)])
    assert len(unmatched) == 0


def test_the_oldest_confirmations_are_dropped_first() -> None:
    unmatched = UnmatchedConfirmations(limit=2, clock=Clock())
    unmatched.settle((), [confirmation(1), confirmation(2), confirmation(3)])
    assert unmatched.due() == [confirmation(2), confirmation(3)]
