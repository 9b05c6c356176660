"""``delivery bench scaling``: several gateway processes against one.

Owns: its options and table. Never does: measure; that is ``delivery.bench``.
"""

from __future__ import annotations

import click

from delivery.cli.options import json_option
from delivery.cli.output import say_json, say_table


@click.command()
@click.option(
    "--workers",
    type=click.IntRange(2, 64),
    default=2,
    show_default=True,
    help="Gateway processes, against one.",
)
@click.option("--users", type=click.IntRange(1, 10_000), default=100, show_default=True)
@click.option(
    "--events",
    type=click.IntRange(100, 10_000_000),
    default=150_000,
    show_default=True,
    help="Per round.",
)
@click.option("--rounds", type=click.IntRange(1, 99), default=3, show_default=True)
@click.option(
    "--at-least",
    type=click.FloatRange(0),
    default=None,
    metavar="RATIO",
    help="Exit with 1 when they carry fewer times what one does.",
)
@json_option
def scaling(at_least: float | None, as_json: bool, **sizes: int) -> None:
    """How much more do several gateway processes carry than one?

    Posts events over HTTP to gateways behind one port, on PostgreSQL and Redis
    of its own, and compares the cost of an event: with several processes many of
    them have to cross.
    """
    from delivery.bench.processes import ended_by_sigterm
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
