"""``delivery bench scale``: what connections and events cost as their numbers grow.

Owns: its options and tables. Never does: measure; that is ``delivery.bench``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from delivery.cli.options import json_option
from delivery.cli.output import say_json, say_table
from delivery.errors import ConfigError

NAMES = ("connections", "resets", "ledger", "runs", "redis")
COLUMNS = {
    "connections": (
        ("connections", "connections", ",.0f"),
        ("KiB each", "kib_per_connection", ".1f"),
        ("connect, CPU ms", "connect_cpu_ms", ".2f"),
        ("idle CPU %", "idle_cpu_percent", ".1f"),
        ("without, %", "empty_cpu_percent", ".1f"),
    ),
    "ledger": (
        ("finished events", "finished", ",.0f"),
        ("gateway, µs", "gateway_us", ".1f"),
        ("PostgreSQL, µs", "postgres_us", ".1f"),
        ("sweep, ms", "sweep_ms", ".1f"),
        ("feed page, ms", "feed_ms", ".1f"),
    ),
    "runs": (("runs per user", "runs", ",.0f"), ("gateway, µs", "gateway_us", ".1f")),
    "redis": (
        ("gateways", "gateways", ",.0f"),
        ("events/s (0: all it can)", "rate", ",.0f"),
        ("Redis commands per event", "commands_per_event", ".2f"),
        ("gateways, µs", "gateway_us", ".1f"),
    ),
}


def _numbers(_context: click.Context, _option: click.Parameter, value: str) -> tuple[int, ...]:
    """``1000,5000`` as numbers."""
    try:
        found = tuple(int(one) for one in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r}: write numbers, as 1000,5000") from None
    if min(found) < 0:
        raise click.BadParameter("numbers are 0 or more")
    return found


@click.command()
@click.option(
    "--part",
    "parts",
    type=click.Choice(NAMES),
    multiple=True,
    help="Only this one; may be given several times.",
)
@click.option(
    "--connections",
    default="1000,5000,10000",
    show_default=True,
    callback=_numbers,
    help="connections: these numbers in turn; a process has a limit of open files.",
)
@click.option(
    "--idle",
    type=click.FloatRange(0.5, 3_600),
    default=60.0,
    show_default=True,
    help="connections: seconds in which they are watched doing nothing.",
)
@click.option(
    "--users",
    type=click.IntRange(1, 100_000),
    default=10_000,
    show_default=True,
    help="resets: subscribers.",
)
@click.option(
    "--rate",
    type=click.FloatRange(1, 100_000),
    default=500.0,
    show_default=True,
    help="resets, redis: events per second, over all users.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(1, 3_600),
    default=120.0,
    show_default=True,
    help="resets: length of the load.",
)
@click.option(
    "--every",
    type=click.FloatRange(1, 3_600),
    default=15.0,
    show_default=True,
    help="resets: seconds between two TCP resets of one subscriber, on average.",
)
@click.option(
    "--away",
    type=click.FloatRange(0, 3_600),
    default=2.0,
    show_default=True,
    help="resets: seconds that it stays away.",
)
@click.option(
    "--ledger",
    default="0,100000,1000000",
    show_default=True,
    callback=_numbers,
    help="ledger: finished events beforehand, these numbers in turn.",
)
@click.option(
    "--runs",
    default="1,10,100,1000",
    show_default=True,
    callback=_numbers,
    help="runs: runs per user, these numbers in turn.",
)
@click.option(
    "--gateways",
    default="1,2",
    show_default=True,
    callback=_numbers,
    help="redis: gateways, these numbers in turn; resets: the largest of them.",
)
@click.option(
    "--events",
    type=click.IntRange(100, 10_000_000),
    default=50_000,
    show_default=True,
    help="ledger, runs, redis: events per round.",
)
@click.option("--rounds", type=click.IntRange(1, 99), default=3, show_default=True)
@json_option
def scale(parts: tuple[str, ...], as_json: bool, **sizes: Any) -> None:
    """What do connections and events cost as their numbers grow?

    Every part starts PostgreSQL, Redis and gateways of its own: connections
    (memory and CPU of each), resets (subscribers whose lines break), ledger (an
    event among more and more finished ones), runs (per user), redis (commands
    per event, with several gateways). A part that lost an event exits with 1.
    """
    try:
        from delivery.bench.processes import ended_by_sigterm, raise_file_limit
        from delivery.bench.scale.parts import PARTS, Sizes
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"this benchmark needs {error.name}: pip install 'delivery-ledger[test]'"
        ) from error
    for name in ("runs", "gateways", "connections"):
        if min(sizes[name]) < 1:
            raise click.UsageError(f"--{name}: numbers are 1 or more")
    raise_file_limit()
    report: dict[str, Any] = {}
    with ended_by_sigterm():
        for name in parts or NAMES:
            found: Any = PARTS[name](Sizes(**sizes))
            report[name] = found
            if not as_json:
                _show(name, found)
    if as_json:
        say_json({"sizes": sizes} | report)


def _show(name: str, found: Any) -> None:
    if name == "resets":
        _show_resets(found)
        return
    columns: Sequence[tuple[str, str, str]] = COLUMNS[name]
    rows = [[format(row[key], shape) for _, key, shape in columns] for row in found]
    say_table([title for title, _, _ in columns], rows, title=name)
    click.echo()


def _show_resets(found: dict[str, Any]) -> None:
    wait = found["to_subscriber_s"]
    click.echo(
        f"resets: {found['users']:,} subscribers, {found['resets']:,} TCP resets, "
        f"{found['away_s']:g} s away after each:\n"
        f"{found['received']:,} of {found['published']:,} events arrived, "
        f"p50 {wait['p50']:.2f} s, p99 {wait['p99']:.2f} s, at most {wait['max']:.2f} s\n"
    )
