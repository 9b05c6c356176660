"""The audit finds what was lost, repeated, late and out of order, and by which way events came."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from delivery.bench.faults.audit import Audit, Window
from delivery.bench.faults.listeners import Listener, Sight
from delivery.bench.faults.producers import Sent
from delivery.domain.lifecycle import Attempt, Outcome, State
from delivery.domain.records import ConfirmationRow, Stored
from delivery.testing import make_entry

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Shelf:
    """The part of a ledger that the audit asks."""

    rows: dict[str, Stored] = field(default_factory=dict)
    attempts: dict[str, list[Attempt]] = field(default_factory=dict)
    confirmations: dict[str, list[ConfirmationRow]] = field(default_factory=dict)

    @property
    def events(self) -> Shelf:
        return self

    def read(self, ids: Sequence[str]) -> list[Stored]:
        return [self.rows[one] for one in ids if one in self.rows]

    def get(self, event_id: str) -> Any:
        return SimpleNamespace(
            stored=self.rows[event_id],
            attempts=self.attempts.get(event_id, []),
            confirmations=self.confirmations.get(event_id, []),
        )


class Case:
    """One user, events one after the other, and what became of them."""

    def __init__(self) -> None:
        self.shelf = Shelf()
        self.listener = Listener("ada", "token")
        self.sent: list[Sent] = []

    def event(
        self,
        state: State | None = State.CONFIRMED,
        *,
        seen: Sequence[float] = (0.1,),
        connection: int = 0,
        handed_over: bool = False,
        run: str = "run",
    ) -> str:
        """Emitted at its number in seconds; seen so many seconds later, on this connection."""
        number = len(self.sent)
        event = make_entry(_event(run, number + 1)).event
        receipt: Any = SimpleNamespace(id=event.id)
        self.sent.append(Sent(receipt, "ada", run, number, 0, float(number)))
        if state is not None:
            self.shelf.rows[event.id] = Stored(
                event, number, state, None, None, NOW, 1, NOW, NOW if handed_over else None
            )
        for later in seen:
            self.listener.sights.append(Sight(event.id, connection, number + later))
        return event.id

    def audit(self) -> Audit:
        return Audit(self.shelf, self.sent, [self.listener])  # type: ignore[arg-type]

    def verdict(self, *windows: Window) -> Any:
        audit = self.audit()
        audit.open_events()
        return audit.verdict([], windows, None)


def _event(run: str, seq: int) -> Any:
    from tests.unit.tasks.fakes import make_event

    return make_event("ada", run).evolve(seq=seq)


def test_live_replay_and_resend_are_told_apart() -> None:
    case = Case()
    case.event()
    case.event(connection=1)
    resent = case.event(handed_over=True)
    case.shelf.attempts[resent] = [Attempt(resent, 1, "direct", 1, Outcome.CONFIRMED, NOW)]
    acked_late = case.event(handed_over=True)
    case.shelf.attempts[acked_late] = [
        Attempt(acked_late, 1, "database", 1, Outcome.DELIVERED, NOW)
    ]
    verdict = case.verdict()
    assert (verdict.live, verdict.replay, verdict.fallback) == (2, 1, 1)
    assert verdict.is_good


@pytest.mark.parametrize(
    ("state", "seen", "fault"),
    [
        (None, (), "lost"),
        (None, (0.1,), "lost"),
        (State.CONFIRMED, (), "lost"),
        (State.FALLING_BACK, (), "lost"),
        (State.CONFIRMED, (0.1, 0.2), "twice"),
        (State.ACCEPTED, (0.1,), "unconfirmed"),
    ],
)
def test_one_bad_event_makes_a_bad_verdict(
    state: State | None, seen: Sequence[float], fault: str
) -> None:
    case = Case()
    case.event()
    bad = case.event(state, seen=seen)
    verdict = case.verdict()
    assert getattr(verdict, fault) == 1
    assert not verdict.is_good
    assert bad in verdict.examples[fault][0]


def test_a_user_who_does_not_return_may_end_dead_or_with_a_mail() -> None:
    case = Case()
    case.listener.returns = False
    case.event(State.DEAD, seen=())
    mailed = case.event(seen=())
    case.shelf.confirmations[mailed] = [ConfirmationRow("email", "provider", "accepted", NOW)]
    case.event(State.FALLING_BACK, seen=())
    audit = case.audit()
    assert audit.open_events() == [case.sent[2].receipt.id]
    verdict = audit.verdict([], [], None)
    assert (verdict.dead, verdict.fallback, verdict.waiting, verdict.lost) == (1, 1, 1, 0)


def test_only_first_sights_within_a_run_count_for_the_order() -> None:
    case = Case()
    case.event(seen=(2.5,))
    case.event()
    case.event(run="other")
    case.listener.sights.sort(key=lambda sight: sight.at)
    assert case.verdict().disordered == 1


def test_recovery_is_from_the_end_of_a_fault_to_the_last_late_event() -> None:
    case = Case()
    case.event(seen=(0.1,))
    case.event(seen=(5.0,))  # handled at 6.0
    case.event(seen=(0.1,))
    verdict = case.verdict(Window("fault", 0.5, 4.0))
    assert verdict.recover_s == pytest.approx(2.0)
    assert verdict.to_handler_s["max"] == pytest.approx(5.0)
    assert case.verdict().recover_s == 0.0
