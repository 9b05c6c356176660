"""The operators' alert about figures out of their limits, from the ledger to the receiver."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import sqlalchemy as sa
import uuid_utils

from delivery.domain.operators.figures import AlertGroup, Condition
from delivery.domain.operators.thresholds import parse_thresholds
from delivery.domain.policy import parse_policies
from delivery.ledger import SqlLedger
from delivery.tasks.sweep import Alerter, ThresholdWatch
from delivery.testing import make_entry, make_event, make_id
from tests.conformance.chain_calls import finish
from tests.unit.tasks.fakes import FakeAlerts

LOW = Condition("delivery_rate", 0.5, 0.95)
SHARE = Condition("fallback_share", 0.5, 0.05)
ONE_DEAD = parse_thresholds({"dead_events": {"over": 0}})


def only(ledger: SqlLedger) -> AlertGroup:
    (group,) = ledger.alerts.firing()
    return group


def test_conditions_are_one_group_without_a_class(ledger: SqlLedger) -> None:
    ledger.alerts.watch([LOW, SHARE])
    group = only(ledger)
    assert group.event_class is None
    assert (group.count, group.users, group.sample) == (2, 0, ())
    assert group.conditions == (LOW, SHARE)
    assert group.notified_at is None


def test_nothing_out_of_its_limit_opens_nothing(ledger: SqlLedger) -> None:
    ledger.alerts.watch([])
    assert ledger.alerts.firing() == []


def test_a_second_look_keeps_the_group_and_its_notification(ledger: SqlLedger) -> None:
    ledger.alerts.watch([LOW, SHARE])
    first = only(ledger)
    ledger.alerts.notified(first.id)
    ledger.alerts.watch([LOW])
    again = only(ledger)
    assert (again.id, again.since, again.conditions) == (first.id, first.since, (LOW,))
    assert again.notified_at is not None, "one condition less notifies no operator"
    ledger.alerts.watch([LOW, SHARE])
    assert only(ledger).notified_at is None, "one condition more does"


def test_the_group_resolves_only_when_everything_is_back(ledger: SqlLedger) -> None:
    ledger.alerts.watch([LOW])
    group = only(ledger)
    ledger.alerts.resolve(group.id)
    assert only(ledger).id == group.id
    ledger.alerts.watch([])
    assert only(ledger).count == 0
    ledger.alerts.resolve(group.id)
    assert ledger.alerts.firing() == []
    ledger.alerts.watch([LOW])
    assert only(ledger).id != group.id, "a condition that returns is another alert"


def die(ledger: SqlLedger) -> str:
    event = make_event(id=make_id())
    ledger.recording.commit([make_entry(event, hand_over=True)])
    (claim,) = ledger.chain.claim([event.id], 60.0)
    assert finish(ledger, claim, alerted=True)
    return event.id


def test_operators_are_notified_once_and_again_when_it_is_over(ledger: SqlLedger) -> None:
    alerts = FakeAlerts()
    alerter = Alerter(ledger, alerts, ThresholdWatch(ledger, ONE_DEAD).look)
    event_id = die(ledger)
    alerter.run()
    alerter.run()
    assert [(group.conditions, first) for group, first in alerts.fired] == [
        ((Condition("dead_events", 1.0, 0.0),), True),
        ((Condition("dead_events", 1.0, 0.0),), False),
    ]
    assert [group.event_class for group in ledger.alerts.firing()] == [None]
    ledger.operations.replay([event_id], policies=parse_policies({}))
    alerter.run()
    assert [group.count for group in alerts.resolved] == [0]
    assert ledger.alerts.firing() == []


def test_an_overdue_event_is_noticed(ledger: SqlLedger, advance: Callable[[float], None]) -> None:
    ledger.recording.commit([make_entry(make_event(id=make_id()), hand_over=True)])
    watch = ThresholdWatch(ledger, parse_thresholds({}))
    watch.look()
    assert ledger.alerts.firing() == []
    advance(90.0)
    watch.look()
    assert [condition.name for condition in only(ledger).conditions] == ["overdue"]


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_open_breaker_is_a_condition_after_a_minute_in_every_process(ledger: SqlLedger) -> None:
    clock, later = _Clock(), _Clock()
    first = ThresholdWatch(ledger, parse_thresholds({}), clock)
    for _ in range(10):
        ledger.breakers.report("sms", ok=False)
    first.look()
    clock.now = 59.0
    first.look()
    assert ledger.alerts.firing() == []
    clock.now = 61.0
    first.look()
    assert only(ledger).conditions[0].where == ("sms",)
    ThresholdWatch(ledger, parse_thresholds({}), later).look()
    assert only(ledger).count == 1, "a process that has just started does not end it"
    ledger.breakers.report("sms", ok=True)
    ThresholdWatch(ledger, parse_thresholds({}), later).look()
    assert only(ledger).count == 0


def test_nodes_in_performance_mode_are_named(ledger: SqlLedger) -> None:
    ledger.nodes.beat("fast", "gateway", 0, {"performance_s": 3.0})
    ThresholdWatch(ledger, parse_thresholds({})).look()
    assert only(ledger).conditions == (Condition("performance_mode", 3.0, 60.0, ("fast",)),)


def _previous_release(ledger: SqlLedger, statement: str, **values: object) -> None:
    """Write as a process of the previous release, which knows only the column ``error``."""
    with ledger.alerts._database.write() as connection:
        connection.execute(sa.text(statement), values)


OLD_GROUP = """
insert into digests (id, user_id, channel, class, state, message_id, error, created_at)
values (:id, '*', 'alert', 'thresholds', 'firing', 'm', :error, '2026-01-01 00:00:00.000000')
"""
OLD_WATCH = "update digests set error = :error where class = 'thresholds' and state = 'firing'"
OLD_LOOK = "select error from digests where class = 'thresholds' and state = 'firing'"


def test_a_group_of_the_previous_release_continues(ledger: SqlLedger) -> None:
    listed = msgspec.json.encode([LOW]).decode()
    _previous_release(ledger, OLD_GROUP, id=str(uuid_utils.uuid7()), error=listed)
    group = only(ledger)
    assert group.conditions == (LOW,)
    ledger.alerts.notified(group.id)
    ledger.alerts.watch([LOW])
    again = only(ledger)
    assert (again.id, again.conditions) == (group.id, (LOW,))
    assert again.notified_at is not None


def test_processes_of_both_releases_see_the_last_conditions_of_either(ledger: SqlLedger) -> None:
    ledger.alerts.watch([LOW, SHARE])
    with ledger.alerts._database.read() as connection:
        old_view = connection.execute(sa.text(OLD_LOOK)).scalar_one()
    assert msgspec.json.decode(old_view, type=list[Condition]) == [LOW, SHARE]
    _previous_release(ledger, OLD_WATCH, error="[]")
    assert only(ledger).count == 0
    ledger.alerts.resolve(only(ledger).id)
    assert ledger.alerts.firing() == []


def test_conditions_stand_in_a_column_of_their_own(ledger: SqlLedger) -> None:
    ledger.alerts.watch([LOW])
    _previous_release(ledger, OLD_WATCH, error=None)  # as the next release leaves it
    assert only(ledger).conditions == (LOW,)
    ledger.alerts.watch([])
    _previous_release(ledger, OLD_WATCH, error=None)
    ledger.alerts.resolve(only(ledger).id)
    assert ledger.alerts.firing() == []
