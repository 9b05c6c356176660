"""``delivery up``: everything in one process.

Owns: its options. Never does: wiring; that is ``bootstrap``.
"""

from __future__ import annotations

import click

from delivery.cli.options import json_option, serving_settings


@click.command()
@click.option("--host", help="Address to listen on (DELIVERY_HOST, 127.0.0.1).")
@click.option("--port", type=int, help="Port; 0 takes a free one (DELIVERY_PORT, 8080).")
@click.option("--data-dir", help="SQLite file, spool, secret (DELIVERY_DATA_DIR, .delivery).")
@json_option
def up(host: str | None, port: int | None, data_dir: str | None, as_json: bool) -> None:
    """Run everything in one process, with nothing else to install.

    SQLite, an in-memory broker with worker and beat, and local mail and SMS
    sinks whose messages the page shows. A service whose URL is set is used
    instead of its stand-in. Ctrl-C finishes what is under way.
    """
    settings = serving_settings(queued=True, host=host, port=port, data_dir=data_dir)
    from delivery.bootstrap.embedded import run_up
    from delivery.cli.welcome import welcome
    from delivery.process.event_loop import run

    run(run_up(settings, ready=lambda address: welcome(address, as_json=as_json)))
