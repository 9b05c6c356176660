"""Limits on the figures: what is out of them, and what a wrong alerts file is told."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from delivery.domain.operators.figures import ChannelStats, Condition, NodeInfo, Stats
from delivery.domain.operators.thresholds import Thresholds, breaches, broken, parse_thresholds
from delivery.errors import ConfigError

AT = datetime(2026, 11, 1, tzinfo=UTC)
SHIPPED = Path(__file__).parents[3] / "config" / "alerts.toml"


def figures(**changes: Any) -> Stats:
    values: dict[str, Any] = {
        "window_s": 300,
        "delivery_rate": 1.0,
        "fallback_share": 0.0,
        "events_per_s": 10.0,
        "ack_p50_ms": None,
        "ack_p99_ms": None,
        "states": {},
        "channels": {},
        "oldest_overdue_s": 0.0,
    }
    return Stats(**values | changes)


def found(stats: Stats, thresholds: Thresholds | None = None, **more: Any) -> list[Condition]:
    nodes, open_for = more.get("nodes", ()), more.get("open_for", {})
    return list(breaches(thresholds or Thresholds(), stats, nodes, open_for))


def node(name: str, performance_s: object) -> NodeInfo:
    return NodeInfo(name, "gateway", AT, AT, 0, {"performance_s": performance_s})


def test_the_shipped_file_says_the_defaults() -> None:
    assert parse_thresholds(tomllib.loads(SHIPPED.read_text())) == Thresholds()
    assert parse_thresholds({}) == Thresholds()


def test_figures_within_their_limits_are_no_breach() -> None:
    assert found(figures(delivery_rate=0.95, fallback_share=0.05, oldest_overdue_s=60.0)) == []


@pytest.mark.parametrize(
    ("stats", "expected"),
    [
        (figures(delivery_rate=0.94), Condition("delivery_rate", 0.94, 0.95)),
        (figures(fallback_share=0.06), Condition("fallback_share", 0.06, 0.05)),
        (figures(oldest_overdue_s=61.0), Condition("overdue", 61.0, 60.0)),
        (figures(states={"dead": 101}), Condition("dead_events", 101.0, 100.0)),
    ],
)
def test_a_figure_out_of_its_limit_is_named_with_both_numbers(
    stats: Stats, expected: Condition
) -> None:
    assert found(stats) == [expected]


def test_a_share_of_few_events_says_nothing() -> None:
    assert found(figures(delivery_rate=0.0, fallback_share=1.0, events_per_s=19 / 300)) == []
    assert len(found(figures(delivery_rate=0.0, fallback_share=1.0, events_per_s=20 / 300))) == 2


def test_nodes_in_performance_mode_are_named_while_it_is_recent() -> None:
    nodes = [node("a", 10.0), node("b", None), node("c", 61.0), node("d", 5)]
    assert found(figures(), nodes=nodes) == [Condition("performance_mode", 5.0, 60.0, ("a", "d"))]


def test_one_accepted_event_that_is_set_aside_is_enough() -> None:
    nodes = [
        NodeInfo(name, "gateway", AT, AT, 0, {"set_aside": count})
        for name, count in (("a", 0), ("b", 2), ("c", "x"), ("d", None))
    ]
    assert found(figures(), nodes=nodes) == [Condition("set_aside", 2.0, 0.0, ("b",))]


def test_a_breaker_counts_once_it_has_not_closed_for_long_enough() -> None:
    assert found(figures(), open_for={"sms": 59.9}) == []
    stuck = found(figures(), open_for={"sms": 60.0, "email": 90.0, "alert": 1.0})
    assert stuck == [Condition("breaker_open", 90.0, 60.0, ("email", "sms"))]


def test_a_breaker_that_probes_is_not_closed() -> None:
    channels = {n: ChannelStats(0, 0, n) for n in ("closed", "open", "half_open")}
    assert broken(figures(channels=channels)) == ["half_open", "open"]


def test_a_condition_can_be_switched_off() -> None:
    off = parse_thresholds({"overdue": {"enabled": False}})
    assert found(figures(oldest_overdue_s=9_999.0), off) == []


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"deliveryrate": {}}, "deliveryrate: unknown key"),
        ({"delivery_rate": 0.9}, "delivery_rate: must be a table"),
        ({"delivery_rate": {"over": 0.9}}, "delivery_rate.over: unknown key"),
        ({"delivery_rate": {"under": 95}}, "delivery_rate.under: must be a number from 0 to 1"),
        ({"fallback_share": {"over": "5%"}}, "fallback_share.over: must be a number"),
        ({"fallback_share": {"min_events": 2.5}}, "fallback_share.min_events: must be a whole"),
        ({"overdue": {"over": float("nan")}}, "overdue.over: must be a number"),
        ({"overdue": {"over": True}}, "overdue.over: must be a number"),
        ({"overdue": {"min_events": 3}}, "overdue.min_events: unknown key"),
        ({"dead_events": {"enabled": 1}}, "dead_events.enabled: must be true or false"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_its_key(document: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=r"^own\.toml: ") as error:
        parse_thresholds(document, source="own.toml")
    assert said in str(error.value)
