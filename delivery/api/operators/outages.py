"""Outages of this gateway, as operators read them: in ``/readyz``, a metric and the dashboard.

Owns: the question whether the ledger takes writes, and the views. Never does: decide whether this
gateway is ready.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from delivery.domain.event import format_instant
from delivery.domain.operators.outages import Outage, OutageKind, Outages
from delivery.domain.ports import Journal, Reads
from delivery.errors import LedgerError, LedgerReadOnly, LedgerUnavailable

logger = logging.getLogger(__name__)

PING_TIMEOUT = 1.0
FRESH = 1.0
HIGH_BACKLOG = 10_000
_AWAY = "the ledger does not answer"
_READ_ONLY = "the ledger takes no writes: its server is a standby, or read-only"
_BACKLOG = f"over {HIGH_BACKLOG:,} events wait for their commit"

Source = Callable[[], Sequence[Outage]]


class OutageBoard:
    """What is out of order here, from all parts of this process.

    Args:
        sources: give the outages of journal, bus and broker.
        clock: monotonic seconds, the one by which the sources tell ``since``.
    """

    def __init__(
        self,
        reads: Reads,
        journal: Journal,
        sources: Sequence[Source] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reads = reads
        self._journal = journal
        self._sources = sources
        self._clock = clock
        self._ledger = Outages("ledger", clock)
        self._asked_at = float("-inf")
        self._asking = asyncio.Lock()

    async def look(self, max_age: float = FRESH) -> list[Outage]:
        """All outages that last, the oldest first.

        Args:
            max_age: seconds for which the ledger's last answer holds.
        """
        async with self._asking:
            if self._clock() - self._asked_at >= max_age:
                await self._ask_ledger()
                self._asked_at = self._clock()
        backlog = self._journal.backlog
        self._ledger.report(
            OutageKind.BACKLOG,
            _BACKLOG if backlog > HIGH_BACKLOG else None,
        )
        found = self._ledger.lasting()
        for source in self._sources:
            found += source()
        return sorted(found, key=lambda outage: outage.since)

    async def _ask_ledger(self) -> None:
        away = read_only = None
        try:
            async with asyncio.timeout(PING_TIMEOUT):
                await self._reads.ping()
        except LedgerReadOnly as error:
            logger.warning("ledger: %s", error)
            read_only = _READ_ONLY
        except (LedgerError, TimeoutError) as error:
            logger.warning("ledger: %s", str(error) or "no answer in time")
            cause = error.cause if isinstance(error, LedgerUnavailable) else None
            away = f"{_AWAY}: {cause}" if cause else _AWAY
        self._ledger.report(OutageKind.LEDGER_AWAY, away)
        self._ledger.report(OutageKind.LEDGER_READ_ONLY, read_only)

    def lengths(self, found: Sequence[Outage]) -> dict[tuple[str, str], float]:
        """Seconds that each kind lasts, by service and kind: 0 for those that do not."""
        now = self._clock()
        lengths = dict.fromkeys(_MEASURED, 0.0)
        for one in found:
            lengths[one.service, one.kind.value] = max(now - one.since, 0.001)
        return lengths

    def views(self, found: Sequence[Outage]) -> list[dict[str, Any]]:
        """For JSON."""
        return [
            {
                "kind": one.kind.value,
                "service": one.service,
                "text": one.text,
                "since": self._since(one),
            }
            for one in found
        ]

    def sentence(self, outage: Outage) -> str:
        """What it is, and since when."""
        return f"{outage.text} (since {self._since(outage)})"

    def _since(self, outage: Outage) -> str:
        # Whole seconds: two looks at one outage must give the same text.
        began = datetime.now(UTC) - timedelta(seconds=self._clock() - outage.since)
        return format_instant((began + timedelta(seconds=0.5)).replace(microsecond=0))


_MEASURED = tuple(
    (service, kind.value)
    for service, kinds in {
        "ledger": (
            OutageKind.LEDGER_AWAY,
            OutageKind.LEDGER_READ_ONLY,
            OutageKind.SPOOLING,
            OutageKind.BACKLOG,
        ),
        "bus": (
            OutageKind.BUS_DEAF,
            OutageKind.REDIS_AWAY,
            OutageKind.REDIS_REPLICA,
            OutageKind.REDIS_OOM,
            OutageKind.REDIS_REFUSES,
        ),
        "broker": (
            OutageKind.BROKER_AWAY,
            OutageKind.BROKER_REFUSES,
            OutageKind.REDIS_REPLICA,
            OutageKind.REDIS_OOM,
            OutageKind.REDIS_REFUSES,
        ),
        "settings": (OutageKind.RELOAD_REFUSED,),
    }.items()
    for kind in kinds
)
