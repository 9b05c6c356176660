"""``delivery worker``: a Celery worker of the fallback chain.

Owns: its options. Never does: wiring; that is ``bootstrap``.
"""

from __future__ import annotations

import click

from delivery.cli.options import json_option, serving_settings


@click.command()
@click.option("--queues", help="Comma separated; all when left out.")
@click.option(
    "--concurrency",
    type=click.IntRange(1, 512),
    default=8,
    show_default=True,
    help="Tasks at once.",
)
@click.option(
    "--pool",
    type=click.Choice(["threads", "prefork", "solo"]),
    default="threads",
    show_default=True,
    help="How tasks share the machine.",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(1, 65_535),
    help="Serve /metrics there; none when left out.",
)
@json_option
def worker(
    queues: str | None, concurrency: int, pool: str, metrics_port: int | None, as_json: bool
) -> None:
    """Run a Celery worker of the fallback chain."""
    settings = serving_settings(metrics_port=metrics_port)
    from delivery.bootstrap.workers import run_worker
    from delivery.cli.welcome import working

    names = [name.strip() for name in (queues or "").split(",") if name.strip()]
    run_worker(
        settings,
        queues=names,
        concurrency=concurrency,
        pool=pool,
        ready=lambda node: working("worker", node, as_json=as_json),
    )
