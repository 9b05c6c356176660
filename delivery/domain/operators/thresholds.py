"""Thresholds: limits on the ledger's figures, and which figures are out of their limit.

Owns: the shape of the alerts file with every check on it, and the rule of each condition. Never
does: read a clock, a file or the ledger; figures are passed in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from delivery.domain.health import BreakerState
from delivery.domain.lifecycle import State
from delivery.domain.operators.figures import AlertGroup, Condition, NodeInfo, Stats
from delivery.errors import ConfigError

MAX_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class Limit:
    """One condition's limit.

    Attributes:
        value: the lower limit (``delivery_rate``) or the upper limit (all others).
        min_events: events in the window below which a share is not judged.
    """

    value: float
    enabled: bool = True
    min_events: int = 0


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The limits in force; the defaults are those of the shipped file. Shares from 0 to 1,
    durations in seconds."""

    delivery_rate: Limit = field(default_factory=lambda: Limit(0.95, min_events=20))
    fallback_share: Limit = field(default_factory=lambda: Limit(0.05, min_events=20))
    performance_mode: Limit = field(default_factory=lambda: Limit(60.0))
    breaker_open: Limit = field(default_factory=lambda: Limit(60.0))
    overdue: Limit = field(default_factory=lambda: Limit(60.0))
    dead_events: Limit = field(default_factory=lambda: Limit(100))
    set_aside: Limit = field(default_factory=lambda: Limit(0))
    webhooks_off: Limit = field(default_factory=lambda: Limit(0))


def breaches(
    thresholds: Thresholds,
    stats: Stats,
    nodes: Sequence[NodeInfo],
    open_for: Mapping[str, float],
    webhooks_off: Sequence[str] = (),
) -> tuple[Condition, ...]:
    """Conditions that are out of their limit now, in the order of the file.

    Args:
        open_for: per channel whose breaker is not closed: seconds since it was.
        webhooks_off: endpoints of the application that are switched off.
    """
    t = thresholds
    total = round(stats.events_per_s * stats.window_s)
    low = stats.delivery_rate < t.delivery_rate.value
    high = stats.fallback_share > t.fallback_share.value
    fast = fast_nodes(nodes, t.performance_mode.value)
    stuck = {n: s for n, s in sorted(open_for.items()) if s >= t.breaker_open.value}
    dead = stats.states.get(State.DEAD.value, 0)
    aside = set_aside(nodes)
    found = (
        _breach(
            "delivery_rate",
            t.delivery_rate,
            stats.delivery_rate,
            low and total >= t.delivery_rate.min_events,
        ),
        _breach(
            "fallback_share",
            t.fallback_share,
            stats.fallback_share,
            high and total >= t.fallback_share.min_events,
        ),
        _breach(
            "performance_mode",
            t.performance_mode,
            min(fast.values(), default=0.0),
            bool(fast),
            tuple(fast),
        ),
        _breach(
            "breaker_open",
            t.breaker_open,
            max(stuck.values(), default=0.0),
            bool(stuck),
            tuple(stuck),
        ),
        _breach(
            "overdue", t.overdue, stats.oldest_overdue_s, stats.oldest_overdue_s > t.overdue.value
        ),
        _breach("dead_events", t.dead_events, dead, dead > t.dead_events.value),
        _breach(
            "set_aside",
            t.set_aside,
            sum(aside.values()),
            sum(aside.values()) > t.set_aside.value,
            tuple(aside),
        ),
        _breach(
            "webhooks_off",
            t.webhooks_off,
            len(webhooks_off),
            len(webhooks_off) > t.webhooks_off.value,
            tuple(webhooks_off),
        ),
    )
    return tuple(condition for condition in found if condition is not None)


class BreakerAges:
    """How long each breaker has not been closed, as this process saw it."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def look(
        self, stats: Stats, alerts: Sequence[AlertGroup], limit: float, now: float
    ) -> dict[str, float]:
        """Seconds by channel.

        Args:
            alerts: firing groups: several processes look, and one that has just started must not
                take back what another one has seen for long enough.
            limit: seconds after which an open breaker is out of its limit.
            now: monotonic seconds.
        """
        self._since = {name: self._since.get(name, now) for name in broken(stats)}
        ages = {name: now - since for name, since in self._since.items()}
        for group in alerts:
            for condition in group.conditions:
                if condition.name == "breaker_open":
                    ages |= {n: max(ages[n], limit) for n in condition.where if n in ages}
        return ages


def fast_nodes(nodes: Sequence[NodeInfo], within: float) -> dict[str, float]:
    """Seconds since a node emitted in performance mode, for nodes that did ``within`` seconds."""
    ages = {node.node: node.info.get("performance_s") for node in nodes}
    return {
        name: float(age)
        for name, age in sorted(ages.items())
        if isinstance(age, int | float) and age <= within
    }


def set_aside(nodes: Sequence[NodeInfo]) -> dict[str, int]:
    """Spooled records that no process will commit by itself, for nodes that have some."""
    counts = {node.node: node.info.get("set_aside") for node in nodes}
    return {name: n for name, n in sorted(counts.items()) if isinstance(n, int) and n > 0}


def broken(stats: Stats) -> list[str]:
    """Channels whose breaker is not closed; a half-open one counts too, until it closes."""
    return sorted(n for n, c in stats.channels.items() if c.breaker != BreakerState.CLOSED)


def _breach(
    name: str, limit: Limit, value: float, is_out: bool, where: tuple[str, ...] = ()
) -> Condition | None:
    if not (is_out and limit.enabled):
        return None
    return Condition(name, round(float(value), 4), limit.value, where)


CONDITIONS = (
    "delivery_rate",
    "fallback_share",
    "performance_mode",
    "breaker_open",
    "overdue",
    "dead_events",
    "set_aside",
    "webhooks_off",
)
"""Names of the conditions, in the order of the file."""
_KEYS: dict[str, tuple[str, float]] = {
    "delivery_rate": ("under", 1.0),
    "fallback_share": ("over", 1.0),
    "performance_mode": ("within", MAX_SECONDS),
    "breaker_open": ("over", MAX_SECONDS),
    "overdue": ("over", MAX_SECONDS),
    "dead_events": ("over", 1e9),
    "set_aside": ("over", 1e9),
    "webhooks_off": ("over", 1e9),
}
"""Per condition: the key of its limit, and the largest value allowed."""


def parse_thresholds(document: Mapping[str, Any], *, source: str = "alerts") -> Thresholds:
    """Check a parsed alerts file and make its thresholds.

    Args:
        document: the file as ``tomllib`` parsed it; missing tables have the defaults.
        source: the file's name, for errors.

    Raises:
        ConfigError: names the key, the fault and what to write.
    """
    _known(document, "", set(_KEYS), source)
    defaults = Thresholds()
    return Thresholds(
        **{
            name: _limit(document.get(name, {}), name, getattr(defaults, name), source)
            for name in _KEYS
        }
    )


def _limit(table: Any, name: str, default: Limit, source: str) -> Limit:
    key, most = _KEYS[name]
    if not isinstance(table, Mapping):
        raise ConfigError(f"{source}: {name}: must be a table, write [{name}]")
    allowed = {key, "enabled"} | ({"min_events"} if default.min_events else set())
    _known(table, name, allowed, source)
    value = table.get(key, default.value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise ConfigError(
            f"{source}: {name}.{key}: must be a number from 0 to {most:g}, not {value!r}"
        )
    enabled = table.get("enabled", True)
    if not isinstance(enabled, bool):
        raise ConfigError(f"{source}: {name}.enabled: must be true or false, not {enabled!r}")
    least = table.get("min_events", default.min_events)
    if isinstance(least, bool) or not isinstance(least, int) or least < 0:
        raise ConfigError(
            f"{source}: {name}.min_events: must be a whole number of 0 or more, not {least!r}"
        )
    return Limit(float(value), enabled, least)


def _known(table: Mapping[str, Any], name: str, allowed: set[str], source: str) -> None:
    unknown = sorted(set(table) - allowed)
    if unknown:
        key = f"{name}.{unknown[0]}".lstrip(".")
        raise ConfigError(f"{source}: {key}: unknown key; known here: {', '.join(sorted(allowed))}")
