"""``delivery migrate``: the database's tables at this version.

Owns: its options and output. Never does: SQL.
"""

from __future__ import annotations

import click

from delivery.cli.options import json_option, serving_settings
from delivery.cli.output import say_json


@click.command()
@click.option("--down", metavar="REVISION", help="Go back to this revision instead.")
@click.option(
    "--role", help="PostgreSQL role of gateways and workers, which may only add to the log."
)
@json_option
def migrate(down: str | None, role: str | None, as_json: bool) -> None:
    """Bring the database's tables to this version.

    DELIVERY_MIGRATE_DATABASE_URL names it as the tables' owner; the role of
    DELIVERY_DATABASE_URL, or --role, then gets the rights that it needs.
    """
    settings = serving_settings()  # a container's one command, whose log is kept like the others'
    from delivery.bootstrap.ledger import migrate_ledger
    from delivery.telemetry import logs_json

    revision = migrate_ledger(settings, down=down, role=role)
    if as_json or logs_json():
        say_json({"revision": revision}, indent=None if logs_json() else 2)
    else:
        click.echo(f"the tables are at {revision or 'nothing'}")
