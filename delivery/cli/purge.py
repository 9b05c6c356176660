"""``delivery purge``: old events that have ended are deleted.

Owns: its options and the pace. Never does: SQL.
"""

from __future__ import annotations

import re
import time
from datetime import timedelta

import click

from delivery.cli.options import json_option
from delivery.cli.output import say_json

MAX_DAYS = 36_500
_DAYS = re.compile(r"[0-9]+(\.[0-9]+)?")
ENDS = ("confirmed", "expired", "dead")


def _retention(
    _context: click.Context, _option: click.Parameter, values: tuple[str, ...]
) -> dict[str, float]:
    """``("dead=30",)`` as ``{"dead": 30.0}``."""
    found: dict[str, float] = {}
    for value in values:
        state, _, text = value.partition("=")
        if state not in ENDS:
            raise click.BadParameter(f"{state!r} is not one of {', '.join(ENDS)}")
        days = float(text) if _DAYS.fullmatch(text) else -1.0
        if not 0 <= days <= MAX_DAYS:
            raise click.BadParameter(f"{value!r}: write days from 0 to {MAX_DAYS}, as {state}=30")
        found[state] = days
    return found


@click.command()
@click.option(
    "--keep",
    metavar="STATE=DAYS",
    multiple=True,
    callback=_retention,
    help="How long events that ended so are kept; repeatable.",
)
@click.option("--state", type=click.Choice(ENDS), help="With --older-than: the same for one.")
@click.option("--older-than", "days", type=click.FloatRange(min=0), help="Days, with --state.")
@click.option("--dry-run", is_flag=True, help="Count them, delete nothing.")
@click.option(
    "--batch",
    type=click.IntRange(1, 10_000),
    default=1_000,
    show_default=True,
    help="Events looked at in one transaction.",
)
@json_option
def purge(
    keep: dict[str, float],
    state: str | None,
    days: float | None,
    dry_run: bool,
    batch: int,
    as_json: bool,
) -> None:
    """Delete old events that have ended, with their records.

    `delivery purge --keep confirmed=30 --keep expired=90 --keep dead=365`
    once a day. Works in small transactions with a pause after each, beside
    everything else; events that a worker holds are left for the next time.
    Partitions in which every event is old enough are dropped as a whole.
    """
    if (state is None) != (days is None):
        raise click.UsageError("--state and --older-than belong together")
    if state is not None and days is not None:
        keep = keep | {state: days}
    if not keep:
        raise click.UsageError("write at least one --keep STATE=DAYS")
    deleted = _purge(keep, batch=batch, dry_run=dry_run)
    if as_json:
        say_json({"deleted": 0 if dry_run else sum(deleted.values()), "by_state": deleted})
        return
    listed = ", ".join(f"{count} {name}" for name, count in deleted.items())
    click.echo(f"{listed} {'would be deleted' if dry_run else 'deleted'}")


def _purge(keep: dict[str, float], *, batch: int, dry_run: bool) -> dict[str, int]:
    from delivery.bootstrap.ledger import open_ledger
    from delivery.config import load_settings
    from delivery.domain.lifecycle import State

    deleted = dict.fromkeys(keep, 0)
    # As the tables' owner, who alone may drop partitions; judging a large one takes a while.
    with open_ledger(load_settings(), owner=True, is_patient=True) as ledger:
        now = ledger.now()
        before = {State(name): now - timedelta(days=days) for name, days in keep.items()}
        if not dry_run:
            for ended, count in ledger.partitions.drop_old(before).items():
                deleted[ended.value] += count
        after: int | None = -1
        while after is not None:
            begun = time.monotonic()
            step = ledger.retention.purge(before, after=after, limit=batch, dry_run=dry_run)
            after = step.after
            for ended, count in step.deleted.items():
                deleted[ended.value] += count
            if step.deleted and not dry_run:
                # Half of the time at most: the commits of gateways and workers come in between.
                time.sleep(min(1.0, time.monotonic() - begun))
        while not dry_run and ledger.cloud_events.trim():
            pass
        while not dry_run and ledger.webhooks.trim():
            pass
    return deleted
