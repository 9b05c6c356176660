"""``delivery gateway``: the sockets and the HTTP API of a cluster.

Owns: its options. Never does: wiring; that is ``bootstrap``.
"""

from __future__ import annotations

import click

from delivery.cli.options import json_option, serving_settings


@click.command()
@click.option("--host", help="Address to listen on (DELIVERY_HOST, 127.0.0.1).")
@click.option("--port", type=int, help="Port (DELIVERY_PORT, 8080).")
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Processes that share the port.",
)
@json_option
def gateway(host: str | None, port: int | None, workers: int, as_json: bool) -> None:
    """Run the sockets and the HTTP API of a cluster."""
    settings = serving_settings(queued=True, host=host, port=port)
    from delivery.bootstrap.gateway import run_gateways
    from delivery.cli.welcome import listening

    run_gateways(settings, workers, ready=lambda url: listening(url, as_json=as_json))
