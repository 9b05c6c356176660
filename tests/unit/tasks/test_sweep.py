"""The sweep and the upkeep of alerts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from delivery.domain.event import EventClass
from delivery.domain.records import AlertGroup, Due, Swept
from delivery.errors import ChannelUnavailable, LedgerUnavailable
from delivery.tasks.sweep import Alerter, Sweeper
from tests.unit.tasks.fakes import (
    START,
    FakeAlerts,
    FakeLedger,
    FakeQueue,
    due,
    policies_of,
    step_on,
)

POLICIES = policies_of(step_on("queue"), step_on("email"))


class TestSweeper:
    def setup_method(self) -> None:
        self.ledger, self.queue = FakeLedger(), FakeQueue()
        self.sweeper = Sweeper(self.ledger, POLICIES, self.queue)  # type: ignore[arg-type]

    def test_an_event_that_enters_the_chain_is_published_for_its_first_step(self) -> None:
        self.ledger.pages = [Swept((due("a"),), 0)]
        self.sweeper.sweep()
        assert self.queue.published == [("queue", ["a"])]

    def test_an_event_on_the_chain_is_published_for_its_step(self) -> None:
        self.ledger.pages = [Swept((due("a", "email"), due("b", "queue")), 0)]
        self.sweeper.sweep()
        assert self.queue.published == [("email", ["a"]), ("queue", ["b"])]

    def test_an_event_of_a_class_without_a_chain_is_published_to_be_parked(self) -> None:
        self.ledger.pages = [Swept((Due("a", EventClass.STANDARD, None),), 0)]
        self.sweeper.sweep()
        assert self.queue.published == [("database", ["a"])]

    def test_ids_are_published_in_batches(self) -> None:
        ids = [f"id{n}" for n in range(250)]
        self.ledger.pages = [Swept(tuple(due(i) for i in ids), 0)]
        self.sweeper.sweep()
        assert [len(batch) for _, batch in self.queue.published] == [100, 100, 50]
        assert [i for _, batch in self.queue.published for i in batch] == ids

    def test_it_pages_until_nothing_is_due(self) -> None:
        self.ledger.pages = [Swept((due("a"),), 0), Swept((), 7), Swept((due("b"),), 2)]
        report = self.sweeper.sweep()
        assert (report.due, report.expired, report.pages) == (2, 9, 4)

    def test_it_stops_when_its_time_is_up(self) -> None:
        self.ledger.pages = [Swept((due("a"),), 0)] * 5
        sweeper = Sweeper(self.ledger, POLICIES, self.queue, max_seconds=0.0)  # type: ignore[arg-type]
        assert sweeper.sweep().pages == 1

    def test_it_says_how_late_the_oldest_is(self, caplog: pytest.LogCaptureFixture) -> None:
        self.ledger.oldest_overdue = lambda: 90.0  # type: ignore[method-assign]
        assert self.sweeper.sweep().oldest_overdue == 90.0
        assert "90 s" in caplog.text

    def test_a_ledger_that_is_away_is_told_to_the_caller(self) -> None:
        self.ledger.is_down = True
        with pytest.raises(LedgerUnavailable):
            self.sweeper.sweep()


class TestAlerter:
    def setup_method(self) -> None:
        self.ledger, self.alerts = FakeLedger(), FakeAlerts()
        self.alerter = Alerter(self.ledger, self.alerts)  # type: ignore[arg-type]

    def firing(self, event_class: EventClass = EventClass.CRITICAL, count: int = 3) -> AlertGroup:
        group = AlertGroup(
            id=f"alert-{event_class}",
            event_class=event_class,
            since=START,
            count=count,
            users=1,
            sample=("a",),
            notified_at=START,
            is_new=False,
        )
        self.ledger.alert_groups[event_class] = group
        return group

    def test_a_firing_group_is_posted_again_but_is_no_news(self) -> None:
        self.firing()
        assert self.alerter.run() == 1
        assert [(g.count, first) for g, first in self.alerts.fired] == [(3, False)]
        assert self.ledger.notices == []

    def test_a_group_that_is_over_is_resolved_at_the_receiver_first(self) -> None:
        self.firing(count=0)
        self.alerter.run()
        assert [group.id for group in self.alerts.resolved] == ["alert-critical"]
        assert self.ledger.resolved == ["alert-critical"]

    def test_a_receiver_that_is_away_leaves_the_group_firing(self) -> None:
        self.firing(count=0)
        self.alerts.faults = [ChannelUnavailable("refused")]
        assert self.alerter.run() == 0
        assert self.ledger.resolved == []

    def test_one_group_that_fails_does_not_hold_up_the_next(self) -> None:
        self.firing()
        self.firing(EventClass.AUTH)
        self.alerts.faults = [ChannelUnavailable("refused")]
        assert self.alerter.run() == 1
        assert [group.event_class for group, _ in self.alerts.fired] == [EventClass.AUTH]

    def test_operators_who_were_never_told_are_told_now(self) -> None:
        group = self.firing()
        self.ledger.alert_groups[EventClass.CRITICAL] = replace(group, notified_at=None)
        self.ledger.advance(61.0)
        self.alerter.run()
        assert [first for _, first in self.alerts.fired] == [True]
        assert self.ledger.notices == ["alert-critical"]
