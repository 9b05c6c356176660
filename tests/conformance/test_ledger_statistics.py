"""The figures of the last minutes, on each database."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from delivery.domain.event import EventClass
from delivery.domain.lifecycle import Confirmation
from delivery.domain.records import Entry
from delivery.ledger import SqlLedger
from delivery.ledger.stores import statistics
from delivery.testing import make_entry
from tests.unit.tasks.fakes import make_event


def entry(*, hand_over: bool = False, **changes: Any) -> Entry:
    return make_entry(make_event(at=datetime.now(UTC), **changes), hand_over=hand_over)


def confirmation(one: Entry) -> Confirmation:
    return Confirmation(one.event.id, one.event.user_id, "websocket", "phone", "connection-1")


def test_statistics_count_confirmed_and_handed_over_events(ledger: SqlLedger) -> None:
    entries = [entry(), entry(hand_over=True), entry()]
    ledger.recording.commit(entries)
    ledger.confirmations.confirm([confirmation(entries[0])])
    stats = ledger.statistics.stats()
    assert stats.delivery_rate == pytest.approx(0.5)
    assert stats.fallback_share == pytest.approx(1 / 3)
    assert stats.states["confirmed"] == 1
    assert stats.states["falling_back"] == 1
    assert stats.states["dead"] == 0
    assert stats.ack_p50_ms is not None


def test_a_successful_push_counts_for_its_channel_though_it_has_no_attempt(
    ledger: SqlLedger,
) -> None:
    entries = [entry(), entry(), entry(event_class=EventClass.AUTH, type="auth_completed"), entry()]
    ledger.recording.commit(entries)
    ledger.operations.hand_over([entries[3].event.id], "nobody connected")
    ledger.confirmations.confirm([confirmation(one) for one in entries[:3]])
    found = ledger.statistics.stats().channels["websocket"]
    assert (found.attempts, found.ok) == (4, 3)
    assert found.latency_ms is not None


def test_figures_of_a_large_window_come_from_an_even_sample(
    ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "SAMPLE", 200)
    entries = [entry(hand_over=number % 4 == 0) for number in range(2_000)]
    ledger.recording.commit(entries)
    ledger.confirmations.confirm([confirmation(one) for one in entries if not one.hand_over])
    stats = ledger.statistics.stats(window_s=100)
    assert stats.events_per_s == pytest.approx(20.0, rel=0.1)
    assert stats.fallback_share == pytest.approx(0.25, abs=0.05)
    assert stats.states["confirmed"] == pytest.approx(1_500, rel=0.1)
    assert stats.states["falling_back"] == 500, "unconfirmed events are counted, not estimated"
    assert stats.channels["websocket"].ok == pytest.approx(1_500, rel=0.1)


def test_events_recorded_before_the_window_are_not_in_its_figures(
    ledger: SqlLedger, advance: Callable[[float], None]
) -> None:
    _confirmed(ledger, [entry() for _ in range(40)])
    advance(301.0)
    assert ledger.statistics.stats().events_per_s == 0.0
    _confirmed(ledger, [entry() for _ in range(30)])
    stats = ledger.statistics.stats()
    assert stats.states["confirmed"] == 30
    assert stats.channels["websocket"].ok == 30
    advance(301.0)
    assert ledger.statistics.stats().states["confirmed"] == 0


def test_an_empty_ledger_has_figures(ledger: SqlLedger) -> None:
    stats = ledger.statistics.stats()
    assert stats.delivery_rate == 1.0
    assert stats.events_per_s == 0.0
    assert stats.ack_p50_ms is None
    assert stats.channels == {}


def _confirmed(ledger: SqlLedger, entries: list[Entry]) -> None:
    ledger.recording.commit(entries)
    ledger.confirmations.confirm([confirmation(one) for one in entries])
