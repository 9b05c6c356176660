"""Figures for operators as the ledger returns them: alerts, channels, nodes. Frozen; no SQL."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from delivery.domain.event import EventClass


@dataclass(frozen=True, slots=True)
class Condition:
    """A figure that is out of its limit; ``where`` names the nodes or channels, if it has any."""

    name: str
    value: float
    limit: float
    where: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a channel did not reach users, and how many of a group's sample it stopped."""

    channel: str
    error: str
    count: int


@dataclass(frozen=True, slots=True)
class AlertGroup:
    """One alert to operators about many events or conditions.

    With a class: its dead events; the group fires until none of them is dead. Without a class: the
    conditions that are out of their limits; ``count`` is their number, ``users`` 0.

    Attributes:
        sample: ids of some of the events.
        faults: errors of ours for which events left their chain.
        failures: what stopped the events of ``sample``, the top one first.
    """

    id: str
    event_class: EventClass | None
    since: datetime
    count: int
    users: int
    sample: tuple[str, ...]
    notified_at: datetime | None
    is_new: bool
    conditions: tuple[Condition, ...] = ()
    faults: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()

    @property
    def subject(self) -> str:
        """The class's name, or ``thresholds``."""
        return "thresholds" if self.event_class is None else self.event_class.value


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A process as its last heartbeat described it; for display only."""

    node: str
    kind: str
    started_at: datetime
    seen_at: datetime
    connections: int
    info: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ChannelStats:
    """One channel over the statistics window; ``latency_ms`` is the median of good attempts."""

    attempts: int
    ok: int
    breaker: str
    latency_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Stats:
    """Figures of the last ``window_s`` seconds, from the ledger."""

    window_s: int
    delivery_rate: float
    fallback_share: float
    events_per_s: float
    ack_p50_ms: float | None
    ack_p99_ms: float | None
    states: dict[str, int]
    channels: dict[str, ChannelStats]
    oldest_overdue_s: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Figures, alerts and nodes for operators, read together.

    Attributes:
        alerts: firing groups.
        nodes: processes with a recent heartbeat.
    """

    stats: Stats
    alerts: list[AlertGroup]
    nodes: list[NodeInfo]
