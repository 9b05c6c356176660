"""``delivery worker``: a Celery worker of the fallback chain.

Owns: its options. Never does: wiring; that is ``bootstrap``.
"""

from __future__ import annotations

import click

from delivery.cli.options import DEFAULT_URL, json_option, serving_settings


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
@click.option(
    "--outbox",
    is_flag=True,
    help="Also carry the outbox of DELIVERY_OUTBOX_SOURCE, as `delivery outbox` does.",
)
@click.option(
    "--url",
    envvar="DELIVERY_URL",
    default=DEFAULT_URL,
    show_default=True,
    show_envvar=True,
    help="With --outbox: address of the service.",
)
@click.option(
    "--token",
    envvar="DELIVERY_TOKEN",
    show_envvar=True,
    help="With --outbox: a service token with the scope emit; prefer the variable.",
)
@click.option(
    "--token-file",
    envvar="DELIVERY_TOKEN_FILE",
    show_envvar=True,
    type=click.Path(dir_okay=False),
    help="With --outbox: a file with the token, read for each request.",
)
@json_option
def worker(
    queues: str | None,
    concurrency: int,
    pool: str,
    metrics_port: int | None,
    outbox: bool,
    url: str,
    token: str | None,
    token_file: str | None,
    as_json: bool,
) -> None:
    """Run a Celery worker of the fallback chain."""
    settings = serving_settings(metrics_port=metrics_port)
    from delivery.bootstrap.outbox import OutboxTarget
    from delivery.bootstrap.workers import run_worker
    from delivery.cli.welcome import working

    names = [name.strip() for name in (queues or "").split(",") if name.strip()]
    run_worker(
        settings,
        queues=names,
        concurrency=concurrency,
        pool=pool,
        outbox=OutboxTarget(url, token, token_file) if outbox else None,
        ready=lambda node: working("worker", node, as_json=as_json),
    )
