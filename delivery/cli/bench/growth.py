"""``delivery bench growth``: the cost of an event as runs and history grow.

Owns: its options and table. Never does: measure; that is ``delivery.bench``.
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
    click.option(
        "--window",
        type=click.IntRange(1, 100_000),
        default=1_000,
        show_default=True,
        help="Events unacknowledged at most.",
    ),
    click.option(
        "--payload",
        type=click.IntRange(1, 60_000),
        default=100,
        show_default=True,
        help="Bytes of text in each event.",
    ),
    click.option(
        "--rounds",
        type=click.IntRange(1, 99),
        default=3,
        show_default=True,
        help="How often each load runs, in turn with the others.",
    ),
)


def load_options(function: Any) -> Any:
    for option in reversed(LOAD_OPTIONS):
        function = option(function)
    return function


@click.command()
@load_options
@click.option(
    "--events",
    type=click.IntRange(100, 10_000_000),
    default=50_000,
    show_default=True,
    help="Per round.",
)
@click.option(
    "--runs",
    type=click.IntRange(2, MAX_RUNS),
    default=1_000,
    show_default=True,
    help="Runs per user, against one.",
)
@click.option(
    "--finished",
    type=click.IntRange(1, 100_000_000),
    default=200_000,
    show_default=True,
    help="Confirmed events beforehand, against none.",
)
@click.option(
    "--samples",
    type=click.IntRange(1, 10_000),
    default=15,
    show_default=True,
    help="Sweeps and feed pages that are timed.",
)
@click.option(
    "--settle",
    type=click.FloatRange(0, 3_600),
    default=46.0,
    show_default=True,
    help="Seconds until the finished events are the past.",
)
@click.option(
    "--database-url",
    envvar="DELIVERY_DATABASE_URL",
    default=None,
    show_envvar=True,
    help="A new, empty PostgreSQL database; SQLite files if left out.",
)
@click.option(
    "--at-most",
    type=click.FloatRange(0),
    default=None,
    metavar="RATIO",
    help="Exit with 1 when something costs more times than that.",
)
@json_option
def growth(
    users: int,
    window: int,
    payload: int,
    events: int,
    at_most: float | None,
    as_json: bool,
    **sizes: Any,
) -> None:
    """Does an event cost more as runs and history grow?

    Measures the gateway's CPU per acked event with one and with many runs per
    user, each with an empty ledger and with one full of finished events; and
    the time of one sweep of 100 due events and of one page of a feed in both.
    On SQLite every round starts from a new file or the full one, in turn; a
    PostgreSQL database is measured empty first, then filled.
    """
    from delivery.bench.growth import Plan, run_growth
    from delivery.bench.load import Load
    from delivery.bench.processes import ended_by_sigterm

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
        (
            name,
            *(f"{report['measures'][key][ledger]:.1f}" for ledger in ("empty", "full")),
            f"{ratio[key]:.2f}",
        )
        for key, name in names.items()
    ]
    rows.append(
        (f"{runs} against 1", f"{ratio['runs_empty']:.2f}", f"{ratio['runs_full']:.2f}", "")
    )
    say_table(("", "empty", "full", "ratio"), rows)
    fill = report["fill"]
    click.echo(
        f"\nfull: {report['finished']:,} finished events, recorded at {fill['filled_per_s']:,.0f}/s"
    )
