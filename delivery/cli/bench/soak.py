"""``delivery bench soak``: malformed clients beside good ones.

Owns: its options and table. Never does: measure; that is ``delivery.bench``.
"""

from __future__ import annotations

import click

from delivery.cli.options import json_option
from delivery.cli.output import say_json, say_table


@click.command()
@click.option(
    "--seconds",
    type=click.FloatRange(12, 86_400),
    default=60.0,
    show_default=True,
    help="In six rounds, of each a quarter alone, the rest beside malformed clients.",
)
@json_option
def soak(seconds: float, as_json: bool) -> None:
    """Attack a gateway of its own with malformed clients, beside good ones.

    Exits with 1 when an answer was 500, an event of a good client was lost,
    the gateway's work for which they wait (its processor time, p99) more than
    doubled and is over 250 ms, or memory, tasks or descriptors did not come
    back.
    """
    from delivery.bench.processes import ended_by_sigterm
    from delivery.bench.soak import run_soak

    with ended_by_sigterm():
        report = run_soak(seconds)
    if as_json:
        say_json(report)
    else:
        before, after = report["before"], report["after"]
        answers = ", ".join(f"{name}: {count}" for name, count in report["answers"].items())
        click.echo(f"{report['tries']:,} malformed clients ({answers})\n")
        rows = [
            (
                f"{what}, {share}",
                f"{report[f'alone_{kind}'][share]:.1f} ms",
                f"{report[f'beside_{kind}'][share]:.1f} ms",
            )
            for what, kind in (
                ("good clients' wait", "ms"),
                ("processor time of the gateway meanwhile", "work_ms"),
            )
            for share in ("p50", "p99")
        ]
        rows += [
            (name.replace("_kib", ", KiB"), f"{before[name]:,}", f"{after[name]:,}")
            for name in ("memory_kib", "tasks", "descriptors")
        ]
        say_table(("", "before", "beside or after"), rows)
    if report["faults"]:
        raise click.ClickException("; ".join(report["faults"]))
