"""``delivery listen``: events as they come, each acknowledged once it is printed."""

from __future__ import annotations

import json

import click

from delivery.cli.output import clock, say_json
from delivery.client.client import Client
from delivery.client.received import ReceivedEvent

PATIENCE = 15.0
"""Seconds without a connection after which listening gives up."""


async def listen_until(url: str, token: str, count: int | None, as_json: bool) -> None:
    """Print events until ``count`` of them, or for ever.

    Raises:
        Unauthenticated: the token is not accepted; ``Unreachable``: nobody answers.
    """
    seen = 0
    async with Client(url, token, patience=PATIENCE) as client:
        async for event in client:
            say_json(dict(event.wire), indent=None) if as_json else _say(event)
            seen += 1
            if seen == count:
                return


def _say(event: ReceivedEvent) -> None:
    data = json.dumps(event.wire["data"], ensure_ascii=False)
    place = "" if event.seq is None else f" #{event.seq}"
    at = clock(str(event.wire["at"]))
    click.echo(f"{at}  {click.style(event.type, bold=True)}  {event.run_id}{place}  {data}")
