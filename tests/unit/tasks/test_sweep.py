"""The sweep and the upkeep of alerts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest

from delivery.domain.event import EventClass
from delivery.domain.operators.figures import AlertGroup
from delivery.domain.options import Options
from delivery.domain.policy import Priority, parse_policies
from delivery.errors import ChannelUnavailable, LedgerUnavailable
from delivery.tasks.sweep import Alerter, Sweeper
from delivery.testing import make_entry
from tests.unit.tasks.fakes import (
    ChainLedger,
    FakeAlerts,
    FakeQueue,
    make_event,
    policies_of,
    step_on,
)

POLICIES = policies_of(step_on("queue"), step_on("email"))


class TestSweeper:
    def setup_method(self) -> None:
        self.ledger, self.queue = ChainLedger(), FakeQueue()
        self.sweeper = Sweeper(self.ledger, POLICIES, self.queue)

    def add_on(self, step: str) -> str:
        """An event that stands on a step of its chain and is due."""
        event_id = self.ledger.add()
        claim = self.ledger.claim(event_id)
        assert self.ledger.chain.move_all([(claim, step, self.ledger.now())]) == [True]
        return event_id

    def test_an_event_that_enters_the_chain_is_published_for_its_first_step(self) -> None:
        event_id = self.ledger.add()
        self.sweeper.sweep()
        assert self.queue.published == [("queue", [event_id])]

    def test_an_event_on_the_chain_is_published_for_its_step(self) -> None:
        first, second = self.add_on("email"), self.add_on("queue")
        self.sweeper.sweep()
        assert sorted(self.queue.published) == [("email", [first]), ("queue", [second])]

    def test_an_event_of_a_class_without_a_chain_is_published_to_be_parked(self) -> None:
        event_id = self.ledger.add(make_event(event_class=EventClass.STANDARD))
        self.sweeper.sweep()
        assert self.queue.published == [("database", [event_id])]

    def test_tasks_carry_the_priority_of_their_class_where_any_class_has_one(self) -> None:
        event_id = self.ledger.add()
        self.sweeper.sweep()
        assert self.queue.priorities == {event_id: None}
        chain = [{"channel": "queue"}, {"channel": "email"}]
        policies = parse_policies(
            {
                "class": {
                    "critical": {"chain": chain, "priority": "high"},
                    "standard": {"chain": chain},
                }
            }
        )
        self.sweeper = Sweeper(self.ledger, policies, self.queue)
        urgent = self.ledger.add()
        other = self.ledger.add(make_event(event_class=EventClass.STANDARD))
        self.sweeper.sweep()
        assert self.queue.priorities[urgent] is Priority.HIGH
        assert self.queue.priorities[other] is Priority.NORMAL

    @pytest.mark.parametrize("is_bus_away", [False, True])
    def test_users_of_events_that_were_held_back_are_woken(self, is_bus_away: bool) -> None:
        woken: list[list[str]] = []

        def wake(users: Sequence[str]) -> None:
            woken.append(list(users))
            if is_bus_away:
                raise ChannelUnavailable("no bus")

        entry = make_entry(make_event(at=self.ledger.now()), ttl=60.0)
        entry.choose(Options(not_before=self.ledger.now() + timedelta(seconds=30)))
        self.ledger.recording.commit([entry])
        self.ledger.advance(31.0)
        Sweeper(self.ledger, POLICIES, self.queue, wake=wake).sweep()
        assert woken == [[entry.event.user_id]]
        assert self.queue.published == []

    def test_webhooks_are_sent_while_an_endpoint_is_on(self) -> None:
        self.ledger.webhooks.register(["app"])
        self.sweeper.sweep()
        self.ledger.webhooks.disable("app", "no more")
        self.sweeper.sweep()
        assert self.queue.published == [("webhooks", [])]

    def test_ids_are_published_in_batches(self) -> None:
        ids = [self.ledger.add() for _ in range(250)]
        self.sweeper.sweep()
        assert [len(batch) for _, batch in self.queue.published] == [100, 100, 50]
        assert sorted(i for _, batch in self.queue.published for i in batch) == ids

    def test_it_pages_until_nothing_is_due(self) -> None:
        for _ in range(9):
            self.ledger.add(ttl=60.0)
        self.ledger.advance(61.0)
        for _ in range(2):
            self.ledger.add()
        sweeper = Sweeper(self.ledger, POLICIES, self.queue, page=3)
        report = sweeper.sweep()
        assert (report.due, report.expired, report.pages) == (2, 9, 4)

    def test_it_stops_when_its_time_is_up(self) -> None:
        for _ in range(5):
            self.ledger.add()
        sweeper = Sweeper(self.ledger, POLICIES, self.queue, page=1, max_seconds=0.0)
        assert sweeper.sweep().pages == 1

    def test_it_says_how_late_the_oldest_is(self, caplog: pytest.LogCaptureFixture) -> None:
        self.ledger.add()
        self.ledger.advance(90.0)
        assert self.sweeper.sweep().oldest_overdue == 90.0
        assert "90 s" in caplog.text

    def test_a_ledger_that_is_away_is_told_to_the_caller(self) -> None:
        self.ledger.go_away()
        with pytest.raises(LedgerUnavailable):
            self.sweeper.sweep()


class TestAlerter:
    def setup_method(self) -> None:
        self.ledger, self.alerts = ChainLedger(), FakeAlerts()
        self.alerter = Alerter(self.ledger, self.alerts)

    def firing(
        self, event_class: EventClass = EventClass.CRITICAL, count: int = 3, *, told: bool = True
    ) -> AlertGroup:
        """A group of dead events; with ``count`` 0 its event was confirmed meanwhile."""
        ids = [self.ledger.add(make_event(event_class=event_class)) for _ in range(count or 1)]
        claims = [self.ledger.claim(event_id) for event_id in ids]
        group = self.ledger.alerts.fire(event_class, claims)
        self.ledger.chain.finish_all([(claim, True) for claim in claims])
        if told:
            self.ledger.alerts.notified(group.id)
        if not count:
            self.ledger.acknowledge(ids[0])
        return group

    def test_a_firing_group_is_posted_again_but_is_no_news(self) -> None:
        self.firing()
        told_at = self.ledger.now()
        self.ledger.advance(10.0)
        assert self.alerter.run() == 1
        assert [(g.count, first) for g, first in self.alerts.fired] == [(3, False)]
        assert [group.notified_at for group in self.ledger.alerts.firing()] == [told_at]

    def test_a_group_that_is_over_is_resolved_at_the_receiver_first(self) -> None:
        group = self.firing(count=0)
        self.alerter.run()
        assert [resolved.id for resolved in self.alerts.resolved] == [group.id]
        assert self.ledger.alerts.firing() == []

    def test_a_receiver_that_is_away_leaves_the_group_firing(self) -> None:
        group = self.firing(count=0)
        self.alerts.faults = [ChannelUnavailable("refused")]
        assert self.alerter.run() == 0
        assert [firing.id for firing in self.ledger.alerts.firing()] == [group.id]

    def test_one_group_that_fails_does_not_hold_up_the_next(self) -> None:
        self.firing()
        self.ledger.advance(1.0)
        self.firing(EventClass.AUTH)
        self.alerts.faults = [ChannelUnavailable("refused")]
        assert self.alerter.run() == 1
        assert [group.event_class for group, _ in self.alerts.fired] == [EventClass.AUTH]

    def test_operators_who_were_never_told_are_told_now(self) -> None:
        self.firing(told=False)
        self.ledger.advance(61.0)
        self.alerter.run()
        assert [first for _, first in self.alerts.fired] == [True]
        [group] = self.ledger.alerts.firing()
        assert group.notified_at == self.ledger.now()
