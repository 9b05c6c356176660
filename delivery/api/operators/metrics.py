"""Metrics that a gateway makes for each scrape: the ledger's figures, and outages.

Owns: their names and help texts, and the names of the last release that are shown once more. Never
does: read the ledger, count events (``telemetry.metrics`` names what is counted).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from delivery.domain.health import BreakerState
from delivery.domain.lifecycle import State
from delivery.domain.operators.figures import AlertGroup, Stats

if TYPE_CHECKING:
    from prometheus_client import Metric

Sample = tuple[tuple[str, ...], float]


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of one scrape; ``stats`` is ``None`` while the ledger is away.

    Attributes:
        outages: service and kind -> seconds that it lasts, 0 for none.
        open_for: channel -> seconds for which its breaker has not been closed.
    """

    node: str
    stats: Stats | None
    alerts: Sequence[AlertGroup]
    malformed_requests: int = 0
    log_records_lost: int = 0
    outages: Mapping[tuple[str, str], float] = field(default_factory=dict)
    open_for: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Shown:
    """A metric that is made for a scrape.

    Attributes:
        replaced_by: what to use instead of a name of the last release.
    """

    name: str
    text: str
    labels: tuple[str, ...] = ()
    kind: str = "gauge"
    replaced_by: str = ""


OUTAGE = Shown(
    "delivery_outage_seconds",
    "How long an outage lasts, as this node meets it; 0 for none.",
    ("node", "service", "kind"),
)
LEDGER_UP = Shown("delivery_ledger_up", "Whether the ledger answered this scrape.", ("node",))
MALFORMED = Shown(
    "delivery_malformed_requests_total",
    "Requests to this node that were malformed.",
    ("node",),
    "counter",
)
LOG_LOST = Shown(
    "delivery_log_records_lost_total",
    "Log records of this node never written.",
    ("node",),
    "counter",
)
ALERT_EVENTS = Shown(
    "delivery_alert_events",
    "Dead events behind each firing alert; for thresholds, conditions out of limits.",
    ("class",),
)
EVENTS = Shown(
    "delivery_events",
    "Events in the ledger by state: all that wait, and those of the last five minutes that were "
    "confirmed or expired.",
    ("state",),
)
OVERDUE = Shown(
    "delivery_oldest_overdue_seconds", "Age of the oldest due time that no sweep has taken."
)
BREAKER_STATE = Shown(
    "delivery_breaker_state",
    "1 for the state of the channel's breaker, else 0.",
    ("channel", "state"),
)
BREAKER_OPEN = Shown(
    "delivery_breaker_open_seconds",
    "How long a channel's breaker has not been closed, as this node saw it; 0 when it is.",
    ("channel",),
)
_OLD_BREAKER = Shown(
    "delivery_channel_breaker",
    "1 for the state of the channel's breaker, else 0.",
    ("channel", "state"),
    replaced_by="delivery_breaker_state",
)
_OLD_RATE = Shown(
    "delivery_delivery_rate",
    "Share of events confirmed, over the last minutes.",
    replaced_by="delivery:delivery_rate:ratio5m",
)
_OLD_SHARE = Shown(
    "delivery_fallback_share",
    "Share of events handed to the chain, over the last minutes.",
    replaced_by="delivery:fallback_share:ratio5m",
)
_OLD_PER_SECOND = Shown(
    "delivery_events_per_second",
    "Accepted events per second, over the last minutes.",
    replaced_by="delivery_events_accepted_total",
)
_OLD_ACK = Shown(
    "delivery_ack_seconds",
    "Time from acceptance to confirmation, over the last minutes.",
    ("quantile",),
    replaced_by="delivery_time_to_ack_seconds",
)
_OLD_ATTEMPTS = Shown(
    "delivery_channel_attempts",
    "Attempts by channel, over the last minutes.",
    ("channel",),
    replaced_by="delivery_attempts_total",
)
_OLD_OK = Shown(
    "delivery_channel_ok",
    "Attempts that succeeded, by channel, over the last minutes.",
    ("channel",),
    replaced_by="delivery_attempts_total",
)

SHOWN = (
    EVENTS,
    OVERDUE,
    LEDGER_UP,
    OUTAGE,
    BREAKER_STATE,
    BREAKER_OPEN,
    ALERT_EVENTS,
    MALFORMED,
    LOG_LOST,
)
"""The metrics that are made for a scrape."""
OLD = (
    _OLD_RATE,
    _OLD_SHARE,
    _OLD_PER_SECOND,
    _OLD_ACK,
    _OLD_ATTEMPTS,
    _OLD_OK,
    _OLD_BREAKER,
)
"""Names of the last release, shown for one release more."""


def collect(figures: Figures) -> Iterator[Metric]:
    """Make the metrics of one scrape."""
    node = figures.node
    yield _metric(LEDGER_UP, [((node,), int(figures.stats is not None))])
    yield _metric(
        OUTAGE,
        [
            ((node, service, kind), round(seconds, 3))
            for (service, kind), seconds in figures.outages.items()
        ],
    )
    yield _metric(MALFORMED, [((node,), figures.malformed_requests)])
    yield _metric(LOG_LOST, [((node,), figures.log_records_lost)])
    if figures.stats is None:
        return
    yield _metric(ALERT_EVENTS, [((group.subject,), group.count) for group in figures.alerts])
    yield from _ledger(figures.stats, figures.open_for)
    yield from _old(figures.stats)


def _ledger(stats: Stats, open_for: Mapping[str, float]) -> Iterator[Metric]:
    yield _metric(EVENTS, [((state.value,), stats.states.get(state.value, 0)) for state in State])
    yield _metric(OVERDUE, [((), stats.oldest_overdue_s)])
    yield _metric(BREAKER_STATE, _breakers(stats))
    yield _metric(
        BREAKER_OPEN, [((name,), open_for.get(name, 0.0)) for name in sorted(stats.channels)]
    )


def _old(stats: Stats) -> Iterator[Metric]:
    channels = sorted(stats.channels.items())
    percentiles = (("0.5", stats.ack_p50_ms), ("0.99", stats.ack_p99_ms))
    yield _metric(_OLD_RATE, [((), stats.delivery_rate)])
    yield _metric(_OLD_SHARE, [((), stats.fallback_share)])
    yield _metric(_OLD_PER_SECOND, [((), stats.events_per_s)])
    yield _metric(_OLD_ACK, [((name,), ms / 1_000) for name, ms in percentiles if ms is not None])
    yield _metric(_OLD_ATTEMPTS, [((name,), channel.attempts) for name, channel in channels])
    yield _metric(_OLD_OK, [((name,), channel.ok) for name, channel in channels])
    yield _metric(_OLD_BREAKER, _breakers(stats))


def _breakers(stats: Stats) -> list[Sample]:
    return [
        ((name, state.value), int(channel.breaker == state))
        for name, channel in sorted(stats.channels.items())
        for state in BreakerState
    ]


def _metric(shown: Shown, samples: Iterable[Sample]) -> Metric:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    made = CounterMetricFamily if shown.kind == "counter" else GaugeMetricFamily
    metric = made(shown.name, shown.text, labels=shown.labels)
    for labels, value in samples:
        metric.add_metric(labels, value)
    return metric
