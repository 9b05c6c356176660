"""``delivery partitions``: the events of a PostgreSQL ledger in a table for each period.

Owns: its options and table. Never does: SQL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from delivery.cli.options import json_option
from delivery.cli.output import say_json, say_table
from delivery.errors import ConfigError

if TYPE_CHECKING:
    from delivery.ledger.partitions.layout import Layout


@click.group()
def partitions() -> None:
    """Keep events in one table per day, week or month (PostgreSQL).

    Then `delivery purge` drops whole tables. Runs as the tables' owner:
    DELIVERY_MIGRATE_DATABASE_URL where it is set.
    """


@partitions.command()
@click.option(
    "--every",
    type=click.Choice(["day", "week", "month"]),
    default="month",
    show_default=True,
    help="Time that one partition holds.",
)
@json_option
def init(every: str, as_json: bool) -> None:
    """Make the table of events the first of the partitions.

    Beside running gateways and workers: two locks of milliseconds, and a scan
    between them that holds up nothing. Safe to repeat, also after a failure.
    """
    from delivery.bootstrap.ledger import open_ledger
    from delivery.config import load_settings
    from delivery.ledger.partitions.layout import Period

    with open_ledger(load_settings(), owner=True, is_patient=True) as ledger:
        ledger.partitions.convert(Period(every))
        _show(_required(ledger.partitions.layout()), as_json)


@partitions.command("list")
@json_option
def list_partitions(as_json: bool) -> None:
    """The partitions, their times, estimated rows and sizes."""
    from delivery.bootstrap.ledger import open_ledger
    from delivery.config import load_settings

    with open_ledger(load_settings(), owner=True) as ledger:
        _show(_required(ledger.partitions.layout()), as_json)


@partitions.command()
@json_option
def maintain(as_json: bool) -> None:
    """Make the partitions of the next periods.

    Workers do it by themselves where their role owns the tables; elsewhere run
    this once a day. An event without a partition is in the default one.
    """
    from delivery.bootstrap.ledger import open_ledger
    from delivery.config import load_settings

    with open_ledger(load_settings(), owner=True, is_patient=True) as ledger:
        found = _required(ledger.partitions.layout())
        if not found.is_owner:
            raise ConfigError(
                "this role does not own the tables: set DELIVERY_MIGRATE_DATABASE_URL to the "
                "owner's"
            )
        made = list(ledger.partitions.make_ahead())
    if as_json:
        say_json({"made": made})
    else:
        click.echo(f"made: {', '.join(made)}" if made else "nothing is due")


def _required(found: Layout | None) -> Layout:
    if found is None:
        raise ConfigError("events are in one table: `delivery partitions init` makes partitions")
    return found


def _show(found: Layout, as_json: bool) -> None:
    rows: list[dict[str, Any]] = [
        {
            "name": one.name,
            "from": None if one.start is None else one.start.isoformat(),
            "to": None if one.end is None else one.end.isoformat(),
            "rows": one.rows,
            "bytes": one.size,
        }
        for one in found.partitions
    ]
    if as_json:
        say_json({"every": found.period, "partitions": rows, "detached": list(found.detached)})
        return
    say_table(
        ("partition", "from", "to", "rows, about", "MiB"),
        [
            (
                row["name"],
                row["from"][:10] if row["from"] else "any other time",
                (row["to"] or "")[:10],
                "-" if row["rows"] is None else f"{row['rows']:,}",
                f"{row['bytes'] / 2**20:,.1f}",
            )
            for row in rows
        ],
    )
    for name in found.detached:
        click.echo(f"{name} is dropped by the next `delivery purge`")
