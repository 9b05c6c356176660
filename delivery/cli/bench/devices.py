"""``delivery bench devices``: what each device earns, on against off.

Owns: its options and table. Never does: measure; that is ``delivery.bench``.
"""

from __future__ import annotations

from typing import Any

import click

from delivery.cli.bench.growth import load_options
from delivery.cli.options import json_option
from delivery.cli.output import say_json, say_table


@click.command()
@load_options
@click.option("--events", type=click.IntRange(100, 10_000_000), default=20_000,
              show_default=True, help="Per round of batching and performance mode.")  # fmt: skip
@click.option("--rate", type=click.FloatRange(1), default=3_000.0, show_default=True,
              help="Events per second in paced rounds.")  # fmt: skip
@click.option("--linger", type=click.FloatRange(0.001, 0.1), default=0.02, show_default=True,
              help="Seconds that batching may hold an event.")  # fmt: skip
@click.option("--pieces", type=click.IntRange(10, 10_000_000), default=20_000, show_default=True,
              help="Ephemeral events for a slow reader.")  # fmt: skip
@click.option("--pushes", type=click.IntRange(10, 10_000_000), default=5_000, show_default=True,
              help="Events for a dead peer.")  # fmt: skip
@json_option
def devices(
    users: int, window: int, payload: int, events: int, rate: float, as_json: bool, **sizes: Any
) -> None:
    """What does each device earn, on against off?

    Batching (events of one user held to be sent together), performance mode
    (which holds nothing) under the same policy, merging of text that waits for
    a slow reader, and the breaker of a user whose client is dead. A gain over 1
    is earned, under 1 is paid.
    """
    from delivery.bench.devices import Plan, run_devices
    from delivery.bench.faults.commands import ended_by_sigterm
    from delivery.bench.window import Load

    with ended_by_sigterm():
        report = run_devices(Plan(Load(users, events, window, rate, payload), **sizes))
    if as_json:
        say_json(report)
    else:
        _show_devices(report)


def _show_devices(report: dict[str, Any]) -> None:
    rows = []
    last = ""
    for one in report["devices"]:
        gain = "-" if one["gain"] is None else f"{one['gain']:.2f}"
        device = one["device"] if one["device"] != last else ""
        rows.append((device, one["measure"], _figure(one["on"]), _figure(one["off"]), gain))
        last = one["device"]
    say_table(("device", "measure", "on", "off", "gain"), rows)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.2f}"
