"""``bench growth``, ``devices``, ``scaling``: what piles up costs, what devices and processes earn.

Owns: their options and tables. Never does: measure; that is ``delivery.bench``.
"""

from __future__ import annotations

from typing import Any

import click

from delivery.cli.options import json_option
from delivery.cli.output import say_json, say_table

MAX_RUNS = 4_000
"""A connection remembers a few more than that; used in turn, it would forget each before its next
event, and read the ledger for every one."""
LOAD_OPTIONS = (
    click.option("--users", type=click.IntRange(1, 10_000), default=10, show_default=True),
    click.option("--window", type=click.IntRange(1, 100_000), default=1_000, show_default=True,
                 help="Events unacknowledged at most."),
    click.option("--payload", type=click.IntRange(1, 60_000), default=100, show_default=True,
                 help="Bytes of text in each event."),
    click.option("--rounds", type=click.IntRange(1, 99), default=3, show_default=True,
                 help="How often each load runs, in turn with the others."),
)  # fmt: skip


def _load_options(function: Any) -> Any:
    for option in reversed(LOAD_OPTIONS):
        function = option(function)
    return function


@click.command()
@_load_options
@click.option("--events", type=click.IntRange(100, 10_000_000), default=50_000,
              show_default=True, help="Per round.")  # fmt: skip
@click.option("--runs", type=click.IntRange(2, MAX_RUNS), default=1_000, show_default=True,
              help="Runs per user, against one.")  # fmt: skip
@click.option("--finished", type=click.IntRange(1, 100_000_000), default=200_000,
              show_default=True, help="Confirmed events beforehand, against none.")  # fmt: skip
@click.option("--samples", type=click.IntRange(1, 10_000), default=15, show_default=True,
              help="Sweeps and feed pages that are timed.")  # fmt: skip
@click.option("--settle", type=click.FloatRange(0, 3_600), default=46.0, show_default=True,
              help="Seconds until the finished events are the past.")  # fmt: skip
@click.option("--database-url", envvar="DELIVERY_DATABASE_URL", default=None, show_envvar=True,
              help="A new, empty PostgreSQL database; SQLite files if left out.")  # fmt: skip
@click.option("--at-most", type=click.FloatRange(0), default=None, metavar="RATIO",
              help="Exit with 1 when something costs more times than that.")  # fmt: skip
@json_option
def growth(
    users: int, window: int, payload: int, events: int, at_most: float | None, as_json: bool,
    **sizes: Any,
) -> None:  # fmt: skip
    """Does an event cost more as runs and history pile up?

    Measures the gateway's CPU per acked event with one and with many runs per
    user, each with an empty ledger and with one full of finished events; and
    the time of one sweep of 100 due events and of one page of a feed in both.
    On SQLite every round starts from a new file or the full one, in turn; a
    PostgreSQL database is measured empty first, then filled.
    """
    from delivery.bench.faults.commands import ended_by_sigterm
    from delivery.bench.growth import Plan, run_growth
    from delivery.bench.window import Load

    with ended_by_sigterm():
        report = run_growth(Plan(Load(users, events, window, payload=payload), **sizes))
    if as_json:
        say_json(report)
    else:
        _show_growth(report)
    name, worst = max(report["ratio"].items(), key=lambda item: float(item[1]))
    if at_most is not None and worst > at_most:
        raise click.ClickException(f"{name} grew {worst:.2f} times, over {at_most:.2f}")


def _show_growth(report: dict[str, Any]) -> None:
    runs = f"{report['runs']:,} runs"
    names = {
        "cpu_s_per_million": "CPU s per million events, 1 run per user",
        "cpu_s_per_million_many_runs": f"CPU s per million events, {runs}",
        "sweep_ms": "one sweep of 100 due events, ms",
        "feed_ms": "one feed page of 100 events, ms",
    }
    ratio = report["ratio"]
    rows = [
        (name, *(f"{report['measures'][key][ledger]:.1f}" for ledger in ("empty", "full")),
         f"{ratio[key]:.2f}")
        for key, name in names.items()
    ]  # fmt: skip
    rows.append(
        (f"{runs} against 1", f"{ratio['runs_empty']:.2f}", f"{ratio['runs_full']:.2f}", "")
    )
    say_table(("", "empty", "full", "ratio"), rows)
    fill = report["fill"]
    click.echo(
        f"\nfull: {report['finished']:,} finished events, recorded at {fill['filled_per_s']:,.0f}/s"
    )


@click.command()
@_load_options
@click.option("--events", type=click.IntRange(100, 10_000_000), default=20_000,
              show_default=True, help="Per round of batching and performance mode.")  # fmt: skip
@click.option("--rate", type=click.FloatRange(1), default=3_000.0, show_default=True,
              help="Events per second in paced rounds.")  # fmt: skip
@click.option("--linger", type=click.FloatRange(0.001, 0.1), default=0.02, show_default=True,
              help="Seconds that batching may hold an event.")  # fmt: skip
@click.option("--pieces", type=click.IntRange(10, 10_000_000), default=20_000, show_default=True,
              help="Ephemeral events for a slow reader.")  # fmt: skip
@click.option("--pushes", type=click.IntRange(10, 10_000_000), default=5_000, show_default=True,
              help="Events for a dead peer.")  # fmt: skip
@json_option
def devices(
    users: int, window: int, payload: int, events: int, rate: float, as_json: bool, **sizes: Any
) -> None:
    """What does each device earn, on against off?

    Batching (events of one user held to be sent together), performance mode
    (which holds nothing) under the same policy, merging of text that waits for
    a slow reader, and the breaker of a user whose client is dead. A gain over 1
    is earned, under 1 is paid.
    """
    from delivery.bench.devices import Plan, run_devices
    from delivery.bench.faults.commands import ended_by_sigterm
    from delivery.bench.window import Load

    with ended_by_sigterm():
        report = run_devices(Plan(Load(users, events, window, rate, payload), **sizes))
    if as_json:
        say_json(report)
    else:
        _show_devices(report)


def _show_devices(report: dict[str, Any]) -> None:
    rows = []
    last = ""
    for one in report["devices"]:
        gain = "-" if one["gain"] is None else f"{one['gain']:.2f}"
        device = one["device"] if one["device"] != last else ""
        rows.append((device, one["measure"], _figure(one["on"]), _figure(one["off"]), gain))
        last = one["device"]
    say_table(("device", "measure", "on", "off", "gain"), rows)


@click.command()
@click.option("--workers", type=click.IntRange(2, 64), default=2, show_default=True,
              help="Gateway processes, against one.")  # fmt: skip
@click.option("--users", type=click.IntRange(1, 10_000), default=100, show_default=True)
@click.option("--events", type=click.IntRange(100, 10_000_000), default=150_000,
              show_default=True, help="Per round.")  # fmt: skip
@click.option("--rounds", type=click.IntRange(1, 99), default=3, show_default=True)
@click.option("--at-least", type=click.FloatRange(0), default=None, metavar="RATIO",
              help="Exit with 1 when they carry fewer times what one does.")  # fmt: skip
@json_option
def scaling(at_least: float | None, as_json: bool, **sizes: int) -> None:
    """How much more do several gateway processes carry than one?

    Posts events over HTTP to gateways behind one port, on PostgreSQL and Redis
    of its own, and compares what an event costs: with several processes many of
    them have to cross.
    """
    from delivery.bench.faults.commands import ended_by_sigterm
    from delivery.bench.scaling import Scaling, run_scaling

    with ended_by_sigterm():
        report = run_scaling(Scaling(**sizes))
    ratio = report["capacity_ratio"]
    if as_json:
        say_json(report)
    else:
        costs = report["cpu_s_per_million"]
        rows = [(count, f"{cost:.1f}") for count, cost in costs.items()]
        say_table(("gateway processes", "CPU s per million events"), rows)
        click.echo(f"\n{report['workers']} processes carry {ratio:.2f} times what one carries")
    if at_least is not None and ratio < at_least:
        raise click.ClickException(f"capacity ratio {ratio:.2f}, under {at_least:.2f}")


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.2f}"
