"""Metrics in the Prometheus text format. Pure.

Owns: the names and help texts of the metrics. Never does: read the ledger.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from delivery.domain.health import BreakerState
from delivery.domain.lifecycle import State
from delivery.domain.records import AlertGroup, Stats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of one scrape; ``stats`` is ``None`` while the ledger is away.

    Attributes:
        outages: service and kind -> seconds that it lasts, 0 for none.
    """

    node: str
    connections: int
    backlog: int
    stats: Stats | None
    alerts: Sequence[AlertGroup]
    malformed_requests: int = 0
    log_records_lost: int = 0
    set_aside: int = 0
    tasks: int = 0
    outages: Mapping[tuple[str, str], float] = field(default_factory=dict)


def render(figures: Figures) -> str:
    """Render all metrics.

    Source: https://prometheus.io/docs/instrumenting/exposition_formats/
    """
    node: Labels = (("node", figures.node),)
    lines = [
        *_gauge(
            "delivery_connections", "Live connections of this node.", [(node, figures.connections)]
        ),
        *_gauge(
            "delivery_journal_backlog",
            "Events of this node that wait for their commit.",
            [(node, figures.backlog)],
        ),
        *_gauge("delivery_tasks", "Tasks on the event loop of this node.", [(node, figures.tasks)]),
        *_gauge(
            "delivery_spool_set_aside_events",
            "Accepted events on this node's disk that no process will record by itself.",
            [(node, figures.set_aside)],
        ),
        *_gauge(
            "delivery_ledger_up",
            "Whether the ledger answered this scrape.",
            [(node, int(figures.stats is not None))],
        ),
        *_gauge(
            "delivery_outage_seconds",
            "How long an outage lasts, as this node meets it; 0 for none.",
            [
                ((*node, ("service", service), ("kind", kind)), round(seconds, 3))
                for (service, kind), seconds in figures.outages.items()
            ],
        ),
        *_counter(
            "delivery_malformed_requests_total",
            "Requests to this node that were malformed.",
            [(node, figures.malformed_requests)],
        ),
        *_counter(
            "delivery_log_records_lost_total",
            "Log records of this node never written.",
            [(node, figures.log_records_lost)],
        ),
    ]
    if figures.stats is not None:
        lines += _ledger(figures.stats)
        lines += _gauge(
            "delivery_alert_events",
            "Dead events behind each firing alert; for thresholds, conditions out of limits.",
            [((("class", group.subject),), group.count) for group in figures.alerts],
        )
    return "\n".join(lines) + "\n"


def _ledger(stats: Stats) -> list[str]:
    window = f"over the last {stats.window_s} s."
    channels = sorted(stats.channels.items())
    percentiles = (("0.5", stats.ack_p50_ms), ("0.99", stats.ack_p99_ms))
    acks: list[tuple[Labels, float]] = [
        ((("quantile", name),), ms / 1_000) for name, ms in percentiles if ms is not None
    ]
    return [
        *_gauge(
            "delivery_events",
            "Events in the ledger by state.",
            [((("state", state.value),), stats.states.get(state.value, 0)) for state in State],
        ),
        *_gauge(
            "delivery_oldest_overdue_seconds",
            "Age of the oldest due time that no sweep has taken.",
            [((), stats.oldest_overdue_s)],
        ),
        *_gauge(
            "delivery_delivery_rate",
            f"Share of events confirmed, {window}",
            [((), stats.delivery_rate)],
        ),
        *_gauge(
            "delivery_fallback_share",
            f"Share of events handed to the chain, {window}",
            [((), stats.fallback_share)],
        ),
        *_gauge(
            "delivery_events_per_second",
            f"Accepted events per second, {window}",
            [((), stats.events_per_s)],
        ),
        *_gauge("delivery_ack_seconds", f"Time from acceptance to confirmation, {window}", acks),
        *_gauge(
            "delivery_channel_attempts",
            f"Attempts by channel, {window}",
            [((("channel", name),), channel.attempts) for name, channel in channels],
        ),
        *_gauge(
            "delivery_channel_ok",
            f"Attempts that succeeded, by channel, {window}",
            [((("channel", name),), channel.ok) for name, channel in channels],
        ),
        *_gauge(
            "delivery_channel_breaker",
            "1 for the state of the channel's breaker, else 0.",
            [
                ((("channel", name), ("state", state.value)), int(channel.breaker == state))
                for name, channel in channels
                for state in BreakerState
            ],
        ),
    ]


def _gauge(name: str, text: str, samples: Iterable[tuple[Labels, float]]) -> list[str]:
    return _metric("gauge", name, text, samples)


def _counter(name: str, text: str, samples: Iterable[tuple[Labels, float]]) -> list[str]:
    return _metric("counter", name, text, samples)


def _metric(kind: str, name: str, text: str, samples: Iterable[tuple[Labels, float]]) -> list[str]:
    lines = [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
    for labels, value in samples:
        listed = ",".join(f'{label}="{_escape(word)}"' for label, word in labels)
        lines.append(f"{name}{{{listed}}} {value}" if listed else f"{name} {value}")
    return lines


def _escape(word: str) -> str:
    return word.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
