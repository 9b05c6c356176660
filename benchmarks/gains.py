"""What each mechanism gains: the same load with the mechanism on and off, in turn.

    $ python -m benchmarks.gains --help

Owns: the mechanisms, the measures of each, and the definition of a gain. A mechanism that gains
nothing in a measure, or costs something, is reported like any other.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import click

from benchmarks.slow_reader import read_slowly
from delivery.bench.installation import Installation, new_installation
from delivery.bench.load import Load
from delivery.bench.processes import ended_by_sigterm
from delivery.cli.bench.growth import load_options
from delivery.cli.options import json_option
from delivery.cli.output import say_json, say_table

HIGHER, LOWER = "higher", "lower"
Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes of the comparison.

    Attributes:
        load: of batching and performance mode; its rate is that of the paced rounds.
        linger: seconds, when batching is on.
        pieces: ephemeral events for the slow reader.
        behind: how many of them come between two of its reads; each is a comparison of its own.
        pushes: events for the dead peer.
        rounds: rounds of on and off, in turn.
    """

    load: Load
    linger: float = 0.02
    pieces: int = 20_000
    behind: tuple[int, ...] = (200, 2_000)
    pushes: int = 5_000
    rounds: int = 3


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure of a mechanism; ``better`` is the direction of a gain."""

    key: str
    what: str
    better: str


LOADED = (
    Measure("events_per_cpu_s", "acked events per CPU second", HIGHER),
    Measure("client_us", "client CPU per event, us", LOWER),
    Measure("ack_p50_ms", "emission to ack p50, ms", LOWER),
)
READ = (
    Measure("events", "events to handle", LOWER),
    Measure("frames", "frames", LOWER),
    Measure("bytes", "bytes", LOWER),
    Measure("text", "share of the text that arrives", HIGHER),
    Measure("us_per_event", "gateway CPU per event, us", LOWER),
)
PUSHED = (
    Measure("loop_us_per_event", "loop CPU per event, us", LOWER),
    Measure("us_per_event", "gateway CPU per event, us", LOWER),
    Measure("handed_over", "share at the chain at once", HIGHER),
)


def run_all(plan: Plan) -> dict[str, Any]:
    """Every mechanism of the plan: medians, and what it gains.

    Raises:
        BenchFailed: an event was lost, came twice or stayed unconfirmed, or a process died.
    """
    rows = [
        *_lingering(plan),
        *(row for behind in plan.behind for row in _merging(plan, behind)),
        *_breaker(plan),
    ]
    return {
        "load": asdict(plan.load),
        "linger_s": plan.linger,
        "pieces": plan.pieces,
        "pushes": plan.pushes,
        "rounds": plan.rounds,
        "mechanisms": rows,
    }


def _lingering(plan: Plan) -> list[dict[str, Any]]:
    """Batching, and performance mode under a policy that lingers."""
    fast = replace(plan.load, rate=0.0)
    found = _in_turn(
        plan.rounds,
        {
            "linger": lambda: _loaded(plan, plan.load, plan.linger),
            "plain": lambda: _loaded(plan, plan.load, 0.0),
            "performance": lambda: _loaded(plan, plan.load, plan.linger, "performance"),
            "fast linger": lambda: _loaded(plan, fast, plan.linger),
            "fast plain": lambda: _loaded(plan, fast, 0.0),
        },
    )
    pace = f"{plan.load.rate:,.0f}/s"
    return [
        *_compared(f"batching, {pace}", LOADED, found["linger"], found["plain"]),
        *_compared("batching, full speed", LOADED, found["fast linger"], found["fast plain"]),
        *_compared(f"performance, {pace}", LOADED, found["performance"], found["linger"]),
    ]


def _loaded(plan: Plan, load: Load, linger: float, mode: str = "durable") -> Figures:
    with new_installation() as installation:
        result = installation.with_linger(linger).round(load, mode=mode)
    return {
        "events_per_cpu_s": result["events_per_cpu_s"],
        "client_us": result["client_cpu_s_per_million"],
        "ack_p50_ms": result["ack_ms"]["p50"],
    }


def _merging(plan: Plan, behind: int) -> list[dict[str, Any]]:
    def read(is_merged: bool) -> Figures:
        return read_slowly(events=plan.pieces, behind=behind, is_merged=is_merged)

    found = _in_turn(plan.rounds, {"on": lambda: read(True), "off": lambda: read(False)})
    return _compared(f"merging, {behind:,} behind", READ, found["on"], found["off"])


def _breaker(plan: Plan) -> list[dict[str, Any]]:
    def push(is_open: bool) -> Figures:
        with new_installation() as installation:
            return _asked(installation, plan.pushes, is_open)

    found = _in_turn(plan.rounds, {"on": lambda: push(True), "off": lambda: push(False)})
    return _compared("breaker, dead peer", PUSHED, found["on"], found["off"])


def _asked(installation: Installation, events: int, is_open: bool) -> Figures:
    return installation.ask(
        module="benchmarks.dead_peer", role="dead_peer", events=events, is_open=is_open
    )


def _in_turn(rounds: int, variants: dict[str, Callable[[], Figures]]) -> dict[str, list[Figures]]:
    """Each variant once per round, so that a drift of the machine is the same for all."""
    found: dict[str, list[Figures]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, measure in variants.items():
            found[name].append(measure())
    return found


def _compared(
    mechanism: str, measures: Sequence[Measure], on: Sequence[Figures], off: Sequence[Figures]
) -> list[dict[str, Any]]:
    rows = []
    for measure in measures:
        with_it = statistics.median(one[measure.key] for one in on)
        without = statistics.median(one[measure.key] for one in off)
        rows.append(
            {
                "mechanism": mechanism,
                "measure": measure.what,
                "better": measure.better,
                "on": with_it,
                "off": without,
                "gain": _gain(measure, with_it, without),
            }
        )
    return rows


def _gain(measure: Measure, on: float, off: float) -> float | None:
    """Over 1 where the mechanism gains something; ``None`` where there is nothing to divide by."""
    above, below = (on, off) if measure.better == HIGHER else (off, on)
    return above / below if below else None


@click.command()
@load_options
@click.option(
    "--events",
    type=click.IntRange(100, 10_000_000),
    default=20_000,
    show_default=True,
    help="Per round of batching and performance mode.",
)
@click.option(
    "--rate",
    type=click.FloatRange(1),
    default=3_000.0,
    show_default=True,
    help="Events per second in paced rounds.",
)
@click.option(
    "--linger",
    type=click.FloatRange(0.001, 0.1),
    default=0.02,
    show_default=True,
    help="Seconds that batching may hold an event.",
)
@click.option(
    "--pieces",
    type=click.IntRange(10, 10_000_000),
    default=20_000,
    show_default=True,
    help="Ephemeral events for a slow reader.",
)
@click.option(
    "--pushes",
    type=click.IntRange(10, 10_000_000),
    default=5_000,
    show_default=True,
    help="Events for a dead peer.",
)
@json_option
def main(
    users: int, window: int, payload: int, events: int, rate: float, as_json: bool, **sizes: Any
) -> None:
    """What does each mechanism gain, on against off?

    Batching (events of one user held to be sent together), performance mode
    (which holds nothing) under the same policy, merging of text that waits for
    a slow reader, and the breaker of a user whose client is dead. A gain over 1
    is earned, under 1 is paid.
    """

    with ended_by_sigterm():
        report = run_all(Plan(Load(users, events, window, rate, payload), **sizes))
    if as_json:
        say_json(report)
    else:
        _show(report)


def _show(report: dict[str, Any]) -> None:
    rows = []
    last = ""
    for one in report["mechanisms"]:
        gain = "-" if one["gain"] is None else f"{one['gain']:.2f}"
        mechanism = one["mechanism"] if one["mechanism"] != last else ""
        rows.append((mechanism, one["measure"], _figure(one["on"]), _figure(one["off"]), gain))
        last = one["mechanism"]
    say_table(("mechanism", "measure", "on", "off", "gain"), rows)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.2f}"


if __name__ == "__main__":
    main()
