"""``delivery bench append``: what is accepted per second while no user is connected.

Owns: its options and table. Never does: measure; that is ``delivery.bench``.
"""

from __future__ import annotations

from typing import Any

import click

from delivery.cli.bench.growth import load_options
from delivery.cli.options import json_option
from delivery.cli.output import say_json, say_table


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
    "--database-url",
    envvar="DELIVERY_DATABASE_URL",
    default=None,
    show_envvar=True,
    help="A new, empty PostgreSQL database; SQLite files if left out.",
)
@click.option(
    "--at-least",
    type=click.FloatRange(0),
    default=None,
    metavar="RATIO",
    help="Exit with 1 when less than that of the database's own rate is accepted.",
)
@json_option
def append(
    users: int,
    window: int,
    payload: int,
    events: int,
    at_least: float | None,
    as_json: bool,
    **sizes: Any,
) -> None:
    """How many events are accepted per second while no user is connected?

    Emits in the gateway's process and posts over HTTP, in turn, and compares
    with the same rows written by the database alone: COPY on PostgreSQL,
    one statement for many rows on SQLite, with all indexes.
    """
    from delivery.bench.append import Append, run_append
    from delivery.bench.load import Load
    from delivery.bench.processes import ended_by_sigterm

    with ended_by_sigterm():
        report = run_append(Append(Load(users, events, window, payload=payload), **sizes))
    if as_json:
        say_json(report)
    else:
        _show(report)
    name, least = min(report["ratio"].items(), key=lambda item: float(item[1]))
    if at_least is not None and least < at_least:
        raise click.ClickException(f"{name}: {least:.2f} of the database's rate, under {at_least}")


def _show(report: dict[str, Any]) -> None:
    rows = [
        (
            name,
            f"{way['accepted_per_s']:,.0f}",
            f"{way['cpu_us_per_event']:.1f}",
            f"{report['ratio'][name]:.2f}",
        )
        for name, way in report["ways"].items()
    ]
    rows.append(("the database alone", f"{report['database_rows_per_s']:,.0f}", "", "1.00"))
    say_table((report["database"], "events/s", "gateway µs", "ratio"), rows)
