"""Outages: what a process cannot do now, since when and why, for operators.

Owns: their kinds, and the record of those that last. Never does: look for one; the part that meets
it reports it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, replace


class OutageKind(enum.StrEnum):
    """What is out of order. The values are labels of a metric."""

    LEDGER_AWAY = "ledger_away"
    LEDGER_READ_ONLY = "ledger_read_only"
    SPOOLING = "spooling"
    BACKLOG = "backlog"
    BUS_DEAF = "bus_deaf"
    BROKER_AWAY = "broker_away"
    BROKER_REFUSES = "broker_refuses"
    REDIS_AWAY = "redis_away"
    REDIS_REPLICA = "redis_replica"
    REDIS_OOM = "redis_oom"
    REDIS_REFUSES = "redis_refuses"
    RELOAD_REFUSED = "reload_refused"


@dataclass(frozen=True, slots=True)
class Outage:
    """One outage that lasts.

    Attributes:
        service: the service that it concerns: ``ledger``, ``bus``, ``broker`` or ``settings``.
        text: what an operator reads: what it is, and what happens meanwhile.
        since: when it was met first, in seconds of the reporter's clock.
    """

    kind: OutageKind
    service: str
    text: str
    since: float


class Outages:
    """The outages of one service, as one part of this process meets them. Any thread may report.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, service: str, clock: Callable[[], float]) -> None:
        self._service = service
        self._clock = clock
        self._lasting: dict[OutageKind, Outage] = {}

    def report(self, kind: OutageKind, text: str | None) -> None:
        """Report that an outage began or goes on, or with ``None`` that there is none."""
        if text is None:
            self._lasting.pop(kind, None)
            return
        known = self._lasting.get(kind)
        self._lasting[kind] = (
            replace(known, text=text)
            if known is not None
            else Outage(kind, self._service, text, self._clock())
        )

    def clear(self) -> None:
        """Report that the service works."""
        self._lasting.clear()

    def lasting(self) -> list[Outage]:
        """The outages that last, the oldest first."""
        return sorted(self._lasting.copy().values(), key=lambda outage: outage.since)
