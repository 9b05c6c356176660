"""``delivery beat``: the clock of the fallback chain.

Owns: its options. Never does: wiring; that is ``bootstrap``.
"""

from __future__ import annotations

import click

from delivery.cli.options import json_option, serving_settings


@click.command()
@click.option(
    "--metrics-port",
    type=click.IntRange(1, 65_535),
    help="Serve /metrics there; none when left out.",
)
@json_option
def beat(metrics_port: int | None, as_json: bool) -> None:
    """Run the clock of the fallback chain; one per cluster is enough."""
    settings = serving_settings(metrics_port=metrics_port)
    from delivery.bootstrap.workers import run_beat
    from delivery.cli.welcome import working

    run_beat(settings, ready=lambda node: working("beat", node, as_json=as_json))
