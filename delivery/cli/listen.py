"""``delivery listen``: its options. What it does is in ``listening``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from delivery.cli.options import api_options, json_option, required_token


@click.command()
@click.option("--count", type=click.IntRange(min=1), help="Stop after so many events.")
@click.option(
    "--transport", type=click.Choice(["auto", "websocket", "sse"]), default="auto",
    show_default=True, help="auto: SSE while WebSocket does not get through.",
)  # fmt: skip
@click.option("--store", type=click.Path(dir_okay=False, path_type=Path),
              help="File that remembers what was printed, for the next start.")  # fmt: skip
@api_options
@json_option
def listen(
    count: int | None,
    transport: Literal["auto", "websocket", "sse"],
    store: Path | None,
    url: str,
    token: str | None,
    as_json: bool,
) -> None:
    """Receive a user's events and acknowledge each once it is printed.

    The token names the user: `export DELIVERY_TOKEN=$(delivery token --user demo)`.
    Ctrl-C ends it.
    """
    import asyncio

    from delivery.cli.listening import Plan, listen_until

    held = required_token(token, "delivery token --user demo")
    asyncio.run(listen_until(Plan(url, held, count, transport, store, as_json)))


COMMANDS = (listen,)
