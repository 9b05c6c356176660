"""``delivery audit``: the compliance log.

Owns: its output and exit code. Never does: SQL.
"""

from __future__ import annotations

import sys

import click

from delivery.cli.options import json_option
from delivery.cli.output import say, say_json


@click.group()
def audit() -> None:
    """The compliance log."""


@audit.command()
@json_option
def verify(as_json: bool) -> None:
    """Find any changed, inserted or missing row of the compliance log."""
    from delivery.bootstrap.ledger import open_ledger
    from delivery.config import load_settings

    with open_ledger(load_settings()) as ledger:
        findings = ledger.audit.verify()
    if as_json:
        say_json({"findings": findings})
    else:
        say("\n".join(findings) or "the chain is whole")
    if findings:
        sys.exit(1)
