"""``delivery bench``: acked events per second beside the floor, and the group's subcommands.

Owns: its options and the table. Never does: measure; that is ``delivery.bench``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from delivery.cli.bench import append, faults, growth, scale, scaling, soak
from delivery.cli.options import json_option
from delivery.cli.output import say_json, say_table

if TYPE_CHECKING:
    from delivery.bench.load import Load
    from delivery.bench.ratio import Plan

MODES = ("durable", "performance", "ephemeral", "remote", "fallback", "disconnect")


@click.group(invoke_without_command=True)
@click.option(
    "--mode",
    type=click.Choice(MODES),
    default="durable",
    show_default=True,
    help="What is emitted, and how.",
)
@click.option("--users", type=click.IntRange(1, 10_000), default=10, show_default=True)
@click.option(
    "--events",
    type=click.IntRange(100, 10_000_000),
    default=50_000,
    show_default=True,
    help="Per round.",
)
@click.option(
    "--window",
    type=click.IntRange(1, 100_000),
    default=1_000,
    show_default=True,
    help="Events unacknowledged at most.",
)
@click.option(
    "--rate",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="Events per second; 0 for as fast as it goes.",
)
@click.option(
    "--payload",
    type=click.IntRange(1, 60_000),
    default=100,
    show_default=True,
    help="Bytes of text in each event.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1, 99),
    default=3,
    show_default=True,
    help="Product and floor in turn, so often.",
)
@click.option(
    "--database-url",
    envvar="DELIVERY_DATABASE_URL",
    default=None,
    show_envvar=True,
    help="PostgreSQL to fill with events; a new SQLite file if left out.",
)
@click.option(
    "--profile",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write a flame graph of the gateway there (needs py-spy).",
)
@click.option(
    "--at-least",
    type=click.FloatRange(0),
    default=0.0,
    metavar="RATIO",
    help="Exit with 1 when the ratio by CPU is lower.",
)
@json_option
@click.pass_context
def bench(
    context: click.Context,
    mode: str,
    users: int,
    events: int,
    window: int,
    rate: float,
    payload: int,
    rounds: int,
    database_url: str | None,
    profile: Path | None,
    at_least: float,
    as_json: bool,
) -> None:
    """Measure this machine: acked events, each confirmed in the ledger.

    Starts a gateway and a process of clients, pinned to cores of their own,
    and in turn the floor: bare aiohttp that validates and stores nothing.
    Quote the ratio; absolute figures move with machine and hour. A run that
    lost an event has no figures and exits with 1. `bench faults` breaks things.
    """
    if context.invoked_subcommand is not None:
        return
    from delivery.bench.load import Load
    from delivery.bench.processes import ended_by_sigterm
    from delivery.bench.ratio import Plan

    load = Load(users, events, window, rate, payload)
    with ended_by_sigterm():
        if mode == "fallback":
            _run_fallback(load, as_json)
        elif mode == "disconnect":
            _run_disconnect(load, database_url, as_json)
        else:
            _run_ratio(Plan(load, mode, database_url, rounds, profile), at_least, as_json)


def _run_ratio(plan: Plan, at_least: float, as_json: bool) -> None:
    from delivery.bench.ratio import run_plan

    report = run_plan(plan)
    if as_json:
        say_json(report)
    else:
        _show(report)
    reached = report["ratio"]["events_per_cpu_s"]
    if reached < at_least:
        raise click.ClickException(f"the ratio by CPU is {reached:.2f}, under {at_least:.2f}")


def _run_fallback(load: Load, as_json: bool) -> None:
    from delivery.bench.fallback import run_fallback

    _show_fallback(run_fallback(load), as_json)


def _run_disconnect(load: Load, database_url: str | None, as_json: bool) -> None:
    from delivery.bench.disconnect import Disconnect, run_disconnect

    plan = Disconnect(load.users, rate=load.rate or 500.0, payload=load.payload)
    _show_disconnect(run_disconnect(plan, database_url), as_json)


def _show_fallback(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        say_json(report)
        return
    click.echo(
        f"{report['events']:,} events for users who are away, {report['workers']} workers:\n"
        f"{report['accepted_per_s']:,.0f} accepted/s, "
        f"{report['events_per_s']:,.0f}/s through {', '.join(report['steps'])}"
    )


def _show_disconnect(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        say_json(report)
        return
    plan, aims = report["plan"], report["aims"]
    click.echo(
        f"{plan['users']:,} users with {plan['open_events']} open events each cut off at once;\n"
        f"{plan['others']} others get {plan['rate']:,.0f} events/s "
        f"({report['database']}, {report['broker']}).\n"
    )
    ratio = report["p99_ratio"]
    rows = (
        (
            "from the cut until all are handed over",
            f"{report['handed_over_s']:.2f} s",
            f"under {aims['handed_over_s']:g} s",
        ),
        ("from the cut until the last is due", f"{report['last_due_s']:.2f} s", ""),
        ("from there until it is handed over", f"{report['late_s']:.2f} s", ""),
        ("handed over before the cut", f"{report['before_cut']:,}", ""),
        *(
            (f"others' ack p99 {when}", _milliseconds(wait, "p99"), "")
            for when, wait in report["ack_ms"].items()
        ),
        ("others' longest ack meanwhile", _milliseconds(report["ack_ms"]["meanwhile"], "max"), ""),
        (
            "ratio of the p99",
            "-" if ratio is None else f"{ratio:.2f}",
            f"at most {aims['p99_ratio']:g}",
        ),
    )
    say_table(("", "found", "aim"), rows)


def _milliseconds(wait: dict[str, float], share: str) -> str:
    return f"{wait[share]:.1f} ms" if wait else "-"


def _show(report: dict[str, Any]) -> None:
    rows = [_row(name, report[name]) for name in ("product", "floor")]
    ratio = report["ratio"]
    rows.append(("ratio", f"{ratio['events_per_s']:.2f}", f"{ratio['events_per_cpu_s']:.2f}"))
    say_table(("", "events/s", "events/CPU s", "memory"), rows)
    click.echo()
    say_table(("emission to", "p50", "p99", "p99.9", "max"), _waits(report))
    product = report["product"]
    click.echo(
        f"\n{product['cpu_s_per_million']:.1f} CPU seconds per million events in the gateway, "
        f"{product['client_cpu_s'] / product['events'] * 1e6:.1f} in the clients; "
        f"{product['kib_per_connection']:.1f} KiB per connection"
    )


def _row(name: str, result: dict[str, Any]) -> tuple[str, ...]:
    return (
        name,
        f"{result['events_per_s']:,.0f}",
        f"{result['events_per_cpu_s']:,.0f}",
        f"{result['max_rss_kib'] / 1024:.0f} MiB",
    )


def _waits(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row per wait that was measured."""
    last = "accepted" if report["mode"] == "remote" else "acknowledged"
    product = report["product"]
    found = {
        last: product["ack_ms"],
        "accepted (durable)": product.get("accepted_ms"),
        "handler": product.get("handler_ms"),
        "floor acknowledged": report["floor"]["ack_ms"],
    }
    return [
        (name, *(_milliseconds(wait, share) for share in ("p50", "p99", "p99.9", "max")))
        for name, wait in found.items()
        if wait
    ]


for command in (
    append.append,
    faults.faults,
    growth.growth,
    scale.scale,
    scaling.scaling,
    soak.soak,
):
    bench.add_command(command)
