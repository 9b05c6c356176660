"""Sweeps, and the upkeep of alerts.

A sweep takes what is due: overdue acknowledgements, waiting steps, lost messages. Owns: the sweep's
paging, the check of the thresholds and the upkeep of firing alerts. Never does: act for an event
(the channel's task claims it first), know Celery.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from delivery.domain.event import EventClass
from delivery.domain.operators.figures import AlertGroup
from delivery.domain.operators.thresholds import BreakerAges, Thresholds, breaches
from delivery.domain.policy import CHANNELS, Policies, Priority
from delivery.domain.ports import TaskQueue
from delivery.domain.records import Due, Lane
from delivery.domain.stores.ledger import Ledger
from delivery.domain.transports import Alerts
from delivery.errors import ChannelError, LedgerError
from delivery.tasks.alerting import is_first
from delivery.tasks.attempts import batches
from delivery.telemetry import metrics

logger = logging.getLogger(__name__)

PAGE = 500
MAX_SECONDS = 10.0
LATE = 60.0
"""Seconds of delay over which a sweep logs a warning: workers or beat do not keep up."""


@dataclass(frozen=True, slots=True)
class SweepReport:
    """Counts of one sweep.

    Attributes:
        due: events published.
        expired: events whose time to live was over.
        pages: pages read.
        oldest_overdue: age in seconds of the oldest due time before the sweep.
        waiting: events that began to wait for their turn.
    """

    due: int
    expired: int
    pages: int
    oldest_overdue: float
    waiting: int = 0


class Sweeper:
    """Publishes due events. Any number may run at once: they take different pages."""

    def __init__(
        self,
        ledger: Ledger,
        policies: Policies,
        publish: TaskQueue,
        *,
        page: int = PAGE,
        max_seconds: float = MAX_SECONDS,
        wake: Callable[[Sequence[str]], None] = lambda users: None,
    ) -> None:
        """
        Args:
            wake: lets the gateways read what these users are owed; a hint that may be lost.
        """
        self._wake = wake
        self._ledger = ledger
        self._policies = policies
        self._publish = publish
        self._page = page
        self._max_seconds = max_seconds
        self._after: Lane | None = None

    def sweep(self) -> SweepReport:
        """Publish pages of due events until none is left, or time is up (the next sweep continues),
        and the tasks for unverified addresses and for webhooks.

        Effect: due times move ahead, expired events end. Safe to repeat.

        Raises:
            LedgerUnavailable: the ledger is away; nothing is lost.
        """
        for channel in self._ledger.verifications.due():
            self._publish.verify(channel)
        if self._ledger.webhooks.has_any_on():
            self._publish.send_webhooks()
        oldest = self._ledger.chain.oldest_overdue()
        if oldest > LATE:
            logger.warning("sweep: oldest due event waits since %.0f s; add workers", oldest)
        metrics.sweep_lag.observe(oldest)
        begun = time.monotonic()
        ends = begun + self._max_seconds
        due = expired = pages = waiting = 0
        had_turn = False
        while True:
            swept = self._ledger.chain.sweep(self._page, ack_timeout=self._ack_timeout)
            pages += 1
            due += len(swept.due)
            expired += swept.expired
            self._announce(swept.due)
            self._release(swept.released)
            waiting += swept.waiting
            if not had_turn:
                due += self._give_turns()
                had_turn = self._after is None
            if (swept.is_last and had_turn) or time.monotonic() >= ends:
                break
        metrics.sweep_duration.observe(time.monotonic() - begun)
        metrics.sweep_events.inc(due, "due")
        metrics.sweep_events.inc(expired, "expired")
        if waiting:
            logger.info("sweep: %d events wait until earlier ones of their user go on", waiting)
        return SweepReport(due, expired, pages, oldest, waiting)

    def _give_turns(self) -> int:
        """Publish a page of events whose turn has come; returns how many. The next call goes on
        with the next users, so that in time each of any number of them has a turn."""
        turns = self._ledger.chain.next_turns(self._page, self._after)
        self._after = turns.after
        self._announce(turns.due)
        return len(turns.due)

    def _ack_timeout(self, event_class: EventClass) -> float:
        return self._policies.of(event_class).ack_timeout

    def _release(self, users: Sequence[str]) -> None:
        """Let events that were held back until now be pushed."""
        if not users:
            return
        try:
            self._wake(users)
        except ChannelError as error:
            # Their chain takes what no gateway pushes.
            logger.warning("gateways not woken for events that were held back: %s", error)

    def _announce(self, due: tuple[Due, ...]) -> None:
        found: dict[tuple[str, Priority | None], list[str]] = {}
        for item in due:
            priority = self._policies.priority_of(item.event_class)
            found.setdefault((self._channel_of(item), priority), []).append(item.id)
        for (channel, priority), ids in found.items():
            for batch in batches(channel, ids):
                self._publish.publish(channel, batch, priority)

    def _channel_of(self, item: Due) -> str:
        if item.step in CHANNELS:
            return item.step
        policy = self._policies.of(item.event_class)
        step = policy.step(item.step)
        if step is not None:
            return step.channel
        # With an empty chain any channel's task ends the chain.
        return policy.chain[0].channel if policy.chain else CHANNELS[0]


class ThresholdWatch:
    """Checks the ledger's figures against their limits.

    Args:
        clock: monotonic seconds.
    """

    def __init__(
        self, ledger: Ledger, thresholds: Thresholds, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ledger = ledger
        self._thresholds = thresholds
        self._clock = clock
        self._breakers = BreakerAges()

    def look(self) -> None:
        """Write the conditions that are out of their limit now.

        Effect: opens, changes or empties the alert group without a class. Safe to repeat.

        Raises:
            LedgerUnavailable: the ledger is away.
        """
        stats = self._ledger.statistics.stats()
        alerts = self._ledger.alerts.firing()
        limit = self._thresholds.breaker_open.value
        open_for = self._breakers.look(stats, alerts, limit, self._clock())
        found = breaches(
            self._thresholds,
            stats,
            self._ledger.nodes.all(),
            open_for,
            self._ledger.webhooks.off(),
        )
        self._ledger.alerts.watch(found)


class Alerter:
    """Keeps alert groups up to date: posts them again while they fire, resolves them when none of
    their events is dead any more, or every figure is within its limit again."""

    def __init__(
        self,
        ledger: Ledger,
        alerts: Alerts,
        watch: Callable[[], None] = lambda: None,
        *,
        timeout: float = 5.0,
    ) -> None:
        self._ledger = ledger
        self._alerts = alerts
        self._watch = watch
        self._timeout = timeout

    def run(self) -> int:
        """Post or resolve every firing group; returns the number of groups.

        Raises:
            LedgerUnavailable: the ledger is away; the next run takes the rest.
        """
        try:
            self._watch()
        except LedgerError:
            raise
        except Exception:
            logger.exception("alerts: check of the thresholds failed")
        served = 0
        for group in self._ledger.alerts.firing():
            try:
                self._serve(group)
                served += 1
            except ChannelError as error:
                logger.warning("alert %s: receiver unavailable: %s", group.id, error)
            except LedgerError:
                raise
            except Exception:
                # An error of ours with one group must not stop the alerts of the others.
                logger.exception("alert %s: unforeseen error", group.id)
        return served

    def _serve(self, group: AlertGroup) -> None:
        if group.count == 0:
            self._alerts.resolve(group, self._timeout, ended_at=self._ledger.now())
            self._ledger.alerts.resolve(group.id)
            return
        first = is_first(group, self._ledger.now())
        self._alerts.fire(group, first=first, timeout=self._timeout)
        if first and self._alerts.has_receiver:
            self._ledger.alerts.notified(group.id)
