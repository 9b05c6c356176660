"""Figures of each minute, measured beside the chain and kept in the ledger.

Owns: when they are measured: once in a minute, by whichever worker is asked first. Never does:
delay an event, or fail a task: a minute that could not be recorded is a gap.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from delivery.domain.lifecycle import State
from delivery.domain.operators.history import MINUTE, Point, start_of
from delivery.domain.operators.thresholds import broken
from delivery.domain.stores.ledger import Ledger
from delivery.errors import LedgerError

logger = logging.getLogger(__name__)

LATE = 30.0
"""Seconds after a minute's end within which it may be recorded. What is measured is always the last
minute's length: later, and after a start in the midst of a minute, it is mostly another one's."""


class HistoryRecorder:
    """Records the figures of the minute before this one. Safe to run in several processes."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._recorded: datetime | None = None

    def look(self) -> None:
        """Record the last minute, unless it is recorded already or has ended too long ago.

        Effect: a row for the minute, one for its hour; rows over 30 days old are deleted.
        """
        try:
            now = self._ledger.now()
            ended = start_of(now, MINUTE)
            minute = ended - timedelta(seconds=MINUTE)
            if minute == self._recorded or now - ended > timedelta(seconds=LATE):
                return
            if not self._ledger.history.read(MINUTE, minute, ended):
                self._ledger.history.record(self._measured(minute))
            self._recorded = minute
        except LedgerError as error:
            logger.warning("figures of a minute are not recorded: %s", error)

    def _measured(self, minute: datetime) -> Point:
        stats = self._ledger.statistics.stats(window_s=MINUTE)
        events = round(stats.events_per_s * MINUTE)
        return Point(
            at=minute,
            events=events,
            delivery_rate=stats.delivery_rate if events else None,
            fallback_share=stats.fallback_share if events else None,
            ack_p50_ms=stats.ack_p50_ms,
            ack_p99_ms=stats.ack_p99_ms,
            connections=sum(node.connections for node in self._ledger.nodes.all()),
            dead=stats.states.get(State.DEAD.value, 0),
            open_breakers=len(broken(stats)),
        )
