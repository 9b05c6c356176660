"""The ``alert`` step: one grouped alert to operators per event class.

Owns: when operators are notified again. Never does: call a receiver.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial

from delivery.domain.event import EventClass
from delivery.domain.fallback import faults_of
from delivery.domain.lifecycle import Outcome
from delivery.domain.operators.figures import AlertGroup
from delivery.domain.records import Result
from delivery.domain.transports import Alerts, Taken
from delivery.tasks.attempts import Work, result_of
from delivery.tasks.run import Run

RENOTIFY = timedelta(hours=4)
"""Time until receivers that do not group by themselves are notified again of a firing group."""

NO_RECEIVER = "no receiver"
"""Why the step is skipped where no receiver of alerts is configured."""

FIRST_GRACE = timedelta(seconds=60)
"""Time without a successful first notice after which the next attempt sends it."""


def is_first(group: AlertGroup, now: datetime) -> bool:
    """Whether receivers that do not group by themselves are to be notified."""
    if group.notified_at is not None:
        return now - group.notified_at >= RENOTIFY
    if group.event_class is None:
        return True  # no event's attempt notifies of it, only the alerter
    return group.is_new or now - group.since >= FIRST_GRACE


class AlertStep:
    """Puts events into the firing group of their class and notifies operators once."""

    def __init__(self, alerts: Alerts) -> None:
        self._alerts = alerts

    def run(self, run: Run, works: Sequence[Work]) -> list[Work]:
        """Alert; see ``StepRunner``."""
        by_class: dict[EventClass, list[Work]] = {}
        for work in works:
            by_class.setdefault(work.event.event_class, []).append(work)
        kept: list[Work] = []
        for event_class, group in by_class.items():
            kept.extend(run.guarded(group, partial(self._serve, run, event_class)))
        return kept

    def _serve(self, run: Run, event_class: EventClass, works: Sequence[Work]) -> list[Work]:
        if not run.has_time():
            run.publish_again(works)
            return []
        if not run.may_call(works, self._alerts):
            return run.wait_for_breaker(works)
        return self._fire(run, event_class, works)

    def _fire(self, run: Run, event_class: EventClass, works: Sequence[Work]) -> list[Work]:
        started_at = run.now()
        begun = run.begin(works)
        if not begun:
            return []
        faults = [fault for work in begun for fault in faults_of(work.attempts)]
        claims = [work.claim for work in begun]
        group = run.ledger.alerts.fire(event_class, claims, list(dict.fromkeys(faults)))
        first = is_first(group, started_at)

        def fire() -> Taken:
            return self._alerts.fire(group, first=first, timeout=run.limits.attempt)

        result = result_of(run.channel, fire)
        if result.outcome is Outcome.DELIVERED and not self._alerts.has_receiver:
            # Logged, and shown on the dashboard as not told.
            result = Result(Outcome.SKIPPED, error=NO_RECEIVER)
        kept = run.end(begun, result, started_at)
        run.report_health(result)
        if first and result.outcome is Outcome.DELIVERED:
            run.ledger.alerts.notified(group.id)
        return kept
