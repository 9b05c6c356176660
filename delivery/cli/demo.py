"""``delivery demo``: the tour. One process, a page with an agent, a chain that takes seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from delivery.cli.options import json_option, serving_settings
from delivery.cli.output import say_json

if TYPE_CHECKING:
    from delivery.bootstrap.embedded import Address


@click.command()
@click.option("--host", help="Address to listen on (DELIVERY_HOST, 127.0.0.1).")
@click.option("--port", type=int, help="Port; 0 takes a free one (DELIVERY_PORT, 8080).")
@click.option("--data-dir", help="SQLite file, spool, secret (DELIVERY_DATA_DIR, .delivery).")
@json_option
def demo(host: str | None, port: int | None, data_dir: str | None, as_json: bool) -> None:
    """Show what happens to an event: a chat page beside the dashboard.

    Talk to an agent, go offline while it works, and watch its answer climb the
    chain until a mail gets it confirmed. Everything runs in this process; the
    chain's times are shortened so that the tour takes less than a minute.
    """
    settings = serving_settings(queued=True, host=host, port=port, data_dir=data_dir)
    from delivery.bootstrap.embedded import demo_policies, run_up
    from delivery.process.event_loop import run

    if settings.policies is None:
        settings = settings.model_copy(update={"policies": demo_policies()})

    run(run_up(settings, ready=lambda address: _say(address, as_json=as_json)))


def _say(address: Address, *, as_json: bool) -> None:
    page = address.page.replace("/#", "/demo#") if "/#" in address.page else f"{address.url}/demo"
    if as_json:
        say_json(
            {
                "url": address.url,
                "page": page,
                "user": address.user,
                "client_token": address.client_token,
                "service_token": address.service_token,
            },
            indent=None,
        )
        return
    click.secho("The demo is on. Ctrl-C ends it.\n", bold=True)
    click.echo(f"Open this page:\n{page}\n")
    click.echo(f"The dashboard alone, in the same browser:\n{address.url}/")
