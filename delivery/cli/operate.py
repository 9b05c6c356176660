"""Commands for operators that open the ledger: migrate, check, purge, audit.

Owns: their options and what they print. Never does: SQL.
"""

from __future__ import annotations

import sys
from datetime import timedelta

import click

from delivery.cli.options import json_option
from delivery.cli.output import say_json, say_table


@click.command()
@click.option("--down", metavar="REVISION", help="Go back to this revision instead.")
@json_option
def migrate(down: str | None, as_json: bool) -> None:
    """Bring the database's tables to this version."""
    from delivery.bootstrap.store import migrate_ledger
    from delivery.config import load_settings

    revision = migrate_ledger(load_settings(), down=down)
    if as_json:
        say_json({"revision": revision})
    else:
        click.echo(f"the tables are at {revision or 'nothing'}")


@click.command()
@json_option
def check(as_json: bool) -> None:
    """List what is misconfigured, unreachable or insecure, and the mend."""
    from delivery.bootstrap.probes import probe_all

    findings = probe_all()
    problems = [finding for finding in findings if finding.level != "ok"]
    if as_json:
        say_json([
            {"level": f.level, "what": f.what, "found": f.found, "mend": f.mend} for f in findings
        ])  # fmt: skip
    else:
        say_table(
            ("what", "", "found", "mend"), [(f.what, f.level, f.found, f.mend) for f in findings]
        )
        click.echo(f"\n{len(findings)} looked at, {len(problems)} to mend")
    if problems:
        sys.exit(max(finding.code for finding in problems))


@click.command()
@click.option("--state", type=click.Choice(["confirmed", "expired", "dead"]), required=True,
              help="Ended events in this state.")  # fmt: skip
@click.option("--older-than", "days", type=click.FloatRange(min=0), required=True,
              help="Days since they were accepted.")  # fmt: skip
@json_option
def purge(state: str, days: float, as_json: bool) -> None:
    """Delete old events that have ended, with their attempts and proofs."""
    from delivery.bootstrap.store import open_ledger
    from delivery.config import load_settings
    from delivery.domain.lifecycle import State

    with open_ledger(load_settings()) as ledger:
        before = ledger.now() - timedelta(days=days)
        deleted = 0
        while batch := ledger.events.purge(State(state), before):
            deleted += batch
    say_json({"deleted": deleted}) if as_json else click.echo(f"{deleted} events deleted")


@click.group()
def audit() -> None:
    """The compliance log."""


@audit.command()
@json_option
def verify(as_json: bool) -> None:
    """Find any changed, inserted or missing row of the compliance log."""
    from delivery.bootstrap.store import open_ledger
    from delivery.config import load_settings

    with open_ledger(load_settings()) as ledger:
        findings = ledger.audit.verify()
    if as_json:
        say_json({"findings": findings})
    else:
        click.echo("\n".join(findings) or "the chain is whole")
    if findings:
        sys.exit(1)


COMMANDS = (migrate, check, purge, audit)
