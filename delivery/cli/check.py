"""``delivery check``: findings about settings and services.

Owns: its output and exit code. Never does: a check; those are in ``bootstrap``.
"""

from __future__ import annotations

import sys

import click

from delivery.cli.options import json_option
from delivery.cli.output import say_json, say_table


@click.command()
@click.option(
    "--for",
    "kind",
    type=click.Choice(["gateway", "worker", "beat", "migrate", "flower"]),
    help="Also name the secrets that this kind of process lacks, or has and does not need.",
)
@click.option("--queues", default="", help="The worker's queues, comma separated; all if left out.")
@click.option(
    "--strict",
    is_flag=True,
    help="Also verify the checklist of docs/hardening.md, and fail for every warning.",
)
@click.option(
    "--types",
    is_flag=True,
    help="Also name the types of recorded events that no class of the policies lists.",
)
@json_option
def check(kind: str | None, queues: str, strict: bool, types: bool, as_json: bool) -> None:
    """List what is misconfigured, unreachable or insecure, and the mend."""
    from delivery.checks.installation import check_all

    names = [name.strip() for name in queues.split(",") if name.strip()]
    if names and kind != "worker":
        raise click.UsageError("--queues goes with --for worker")
    findings = check_all(kind, names, strict=strict, types=types)
    problems = [finding for finding in findings if finding.level != "ok"]
    if as_json:
        say_json(
            [{"level": f.level, "what": f.what, "found": f.found, "mend": f.mend} for f in findings]
        )
    else:
        say_table(
            ("what", "", "found", "mend"), [(f.what, f.level, f.found, f.mend) for f in findings]
        )
        click.echo(f"\n{len(findings)} looked at, {len(problems)} to mend")
    if problems:
        sys.exit(max(finding.code for finding in problems))
