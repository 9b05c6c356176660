"""The ``flower`` command: a web page on the chain's tasks.

Owns: its options. Never does: take the broker's URL or the password as an argument, which every
user of the machine could read; both come from the settings.
"""

from __future__ import annotations

import click

from delivery.cli.options import json_option, serving_settings


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=5555,
    show_default=True,
    help="Port; 0 takes a free one.",
)
@click.option("--control", is_flag=True, help="Let its users stop tasks and workers.")
@json_option
def flower(host: str, port: int, control: bool, as_json: bool) -> None:
    """Run Flower, the monitor of the chain's Celery tasks.

    Asks for DELIVERY_FLOWER_BASIC_AUTH (user:password) and does not start
    without it, unless it listens on loopback alone; its API answers only
    with it. Needs the extra: pip install 'delivery-ledger[flower]'.
    """
    settings = serving_settings()
    from delivery.bootstrap.flower import run_flower
    from delivery.cli.welcome import listening

    run_flower(
        settings, host, port, control=control, ready=lambda url: listening(url, as_json=as_json)
    )
