"""Commands that run until they are told to stop: up, gateway, worker, beat.

Owns: their options and the exit on a signal. Never does: wiring; that is ``bootstrap``.
"""

from __future__ import annotations

from typing import Any

import click

from delivery.cli.options import json_option


def serving_settings(**overrides: Any) -> Any:
    """Settings of a command that serves, with its log set up."""
    from delivery.config import load_settings
    from delivery.telemetry import setup_logging

    settings = load_settings(**overrides)
    setup_logging(settings.log_format, settings.log_level, secrets=settings.secret_values())
    return settings


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
    settings = serving_settings(host=host, port=port, data_dir=data_dir)
    from delivery.bootstrap.embedded import run_up
    from delivery.cli.welcome import welcome
    from delivery.process.event_loop import run

    run(run_up(settings, ready=lambda address: welcome(address, as_json=as_json)))


@click.command()
@click.option("--host", help="Address to listen on (DELIVERY_HOST, 127.0.0.1).")
@click.option("--port", type=int, help="Port (DELIVERY_PORT, 8080).")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True,
              help="Processes that share the port.")  # fmt: skip
@json_option
def gateway(host: str | None, port: int | None, workers: int, as_json: bool) -> None:
    """Run the sockets and the HTTP API of a cluster."""
    settings = serving_settings(host=host, port=port)
    from delivery.bootstrap.gateway import run_gateways
    from delivery.cli.welcome import listening

    run_gateways(settings, workers, ready=lambda url: listening(url, as_json=as_json))


@click.command()
@click.option("--queues", help="Comma separated; all when left out.")
@click.option("--concurrency", type=click.IntRange(1, 512), default=8, show_default=True,
              help="Tasks at once.")  # fmt: skip
@click.option("--pool", type=click.Choice(["threads", "prefork", "solo"]), default="threads",
              show_default=True, help="How tasks share the machine.")  # fmt: skip
@json_option
def worker(queues: str | None, concurrency: int, pool: str, as_json: bool) -> None:
    """Run a Celery worker of the fallback chain."""
    settings = serving_settings()
    from delivery.bootstrap.workers import run_worker
    from delivery.cli.welcome import working

    names = [name.strip() for name in (queues or "").split(",") if name.strip()]
    run_worker(
        settings, queues=names, concurrency=concurrency, pool=pool,
        ready=lambda node: working("worker", node, as_json=as_json),
    )  # fmt: skip


@click.command()
@json_option
def beat(as_json: bool) -> None:
    """Run the clock of the fallback chain; one per cluster is enough."""
    settings = serving_settings()
    from delivery.bootstrap.workers import run_beat
    from delivery.cli.welcome import working

    run_beat(settings, ready=lambda node: working("beat", node, as_json=as_json))


COMMANDS = (up, gateway, worker, beat)
