"""``delivery migrate``: the database's tables at this version.

Owns: its options and output. Never does: SQL.
"""

from __future__ import annotations

import click

from delivery.cli.options import json_option
from delivery.cli.output import say_json


@click.command()
@click.option("--down", metavar="REVISION", help="Go back to this revision instead.")
@json_option
def migrate(down: str | None, as_json: bool) -> None:
    """Bring the database's tables to this version."""
    from delivery.bootstrap.ledger import migrate_ledger
    from delivery.config import load_settings

    revision = migrate_ledger(load_settings(), down=down)
    if as_json:
        say_json({"revision": revision})
    else:
        click.echo(f"the tables are at {revision or 'nothing'}")
