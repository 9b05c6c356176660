"""``delivery bench faults``: events lost, repeated and delayed while a cluster breaks.

Owns: its options and table. Never does: break or measure anything; that is
``delivery.bench.faults``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from delivery.cli.options import json_option
from delivery.cli.output import say_json, say_table
from delivery.errors import ConfigError

if TYPE_CHECKING:
    from delivery.bench.faults.runner import Outcome
    from delivery.bench.faults.scenarios import Scenario

NAME_WIDTH = 18
COLUMNS = (
    ("accept", 6),
    ("live", 6),
    ("replay", 6),
    ("chain", 5),
    ("dead", 4),
    ("lost", 4),
    ("twice", 5),
    ("p50", 5),
    ("p99", 5),
    ("max", 5),
)


@click.command()
@click.option(
    "--scenario",
    "names",
    multiple=True,
    metavar="NAME",
    help="Only this one; may be given several times.",
)
@click.option("--list", "only_list", is_flag=True, help="Name the scenarios and do nothing.")
@click.option("--users", type=click.IntRange(1, 10_000), default=200, show_default=True)
@click.option(
    "--rate",
    type=click.FloatRange(1, 10_000),
    default=200.0,
    show_default=True,
    help="Events per second, over all users.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(1, 86_400),
    default=60.0,
    show_default=True,
    help="How long the load of a scenario lasts.",
)
@click.option(
    "--outage",
    type=click.FloatRange(0.1, 3_600),
    default=20.0,
    show_default=True,
    help="Seconds that a server is away.",
)
@click.option(
    "--away",
    type=click.FloatRange(0, 3_600),
    default=2.0,
    show_default=True,
    help="Seconds that a client stays away whose line was cut.",
)
@click.option(
    "--every",
    type=click.FloatRange(0.1, 3_600),
    default=5.0,
    show_default=True,
    help="Seconds between faults that repeat.",
)
@click.option(
    "--backlog",
    type=click.IntRange(1, 1_000_000),
    default=10_000,
    show_default=True,
    help="Events that the backlog scenarios gather.",
)
@click.option("--gateways", type=click.IntRange(1, 64), default=2, show_default=True)
@click.option("--workers", type=click.IntRange(1, 64), default=2, show_default=True)
@click.option(
    "--drain",
    type=click.FloatRange(1, 3_600),
    default=90.0,
    show_default=True,
    help="Seconds in which every event must have ended after the load.",
)
@json_option
def faults(
    names: tuple[str, ...],
    only_list: bool,
    gateways: int,
    workers: int,
    as_json: bool,
    **sizes: Any,
) -> None:
    """Break a cluster under load and audit every event.

    Starts PostgreSQL, Redis, gateways, workers and beat of its own, connects
    clients, emits at a steady rate, breaks one thing after the other, lets
    everything drain, and compares the ledger with what the clients' handlers
    saw. Exits with 1 when an event was lost or handled twice.
    """
    try:
        from delivery.bench.faults.cluster import Shape
        from delivery.bench.faults.injection import Plan
        from delivery.bench.faults.runner import run_scenarios
        from delivery.bench.faults.scenarios import SCENARIOS, chosen
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"this benchmark needs {error.name}: pip install 'delivery-ledger[test]'"
        ) from error
    if only_list:
        return _list(SCENARIOS, as_json)
    reports: dict[str, Any] = {}

    def on_outcome(scenario: Scenario, outcome: Outcome) -> None:
        reports[scenario.name] = outcome.as_json()
        if not as_json:
            _say(scenario, outcome)

    scenarios = chosen(names)
    if not as_json:
        _say_head()
    good = run_scenarios(scenarios, Shape(gateways, workers), Plan(**sizes), on_outcome)
    if as_json:
        say_json({"plan": sizes, "gateways": gateways, "workers": workers, "scenarios": reports})
    if not good:
        raise click.exceptions.Exit(1)


def _list(scenarios: tuple[Scenario, ...], as_json: bool) -> None:
    if as_json:
        say_json([{"name": one.name, "what": one.what} for one in scenarios])
    else:
        say_table(("scenario", "what breaks"), [(one.name, one.what) for one in scenarios])


def _say_head() -> None:
    click.echo(" " * NAME_WIDTH + "".join(f" {name:>{width}}" for name, width in COLUMNS))


def _say(scenario: Scenario, outcome: Outcome) -> None:
    """Print a line of figures, and notes below it."""
    verdict = outcome.verdict
    counts = (
        verdict.accepted,
        verdict.live,
        verdict.replay,
        verdict.fallback,
        verdict.dead,
        verdict.lost + verdict.unconfirmed,
        verdict.twice,
    )
    times = [_seconds(verdict.to_handler_s.get(share)) for share in ("p50", "p99", "max")]
    cells = [str(count) for count in counts] + times
    figures = "".join(f" {cell:>{width}}" for cell, (_, width) in zip(cells, COLUMNS, strict=True))
    click.echo(f"{scenario.name:<{NAME_WIDTH}}{figures}")
    for line in _asides(outcome):
        click.echo(f"  {line}")


def _asides(outcome: Outcome) -> list[str]:
    verdict = outcome.verdict
    settled = "never" if verdict.settle_s is None else f"{verdict.settle_s:.1f} s"
    found = [
        f"recovered in {verdict.recover_s:.1f} s; all confirmed {settled} after the end; "
        f"{verdict.disordered} out of order"
    ]
    if verdict.waiting:
        found.append(f"{verdict.waiting} still on their way by the chain")
    if verdict.unconfirmed:
        found.append(f"{verdict.unconfirmed} were handled and are not confirmed in the ledger")
    found += [f"{count} refused: {why}"[:78] for why, count in verdict.refusals.items()]
    found += [f"over budget: {miss}" for miss in outcome.misses]
    found += [f"{way}: {', '.join(ids)}"[:78] for way, ids in verdict.examples.items()]
    return found


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"
