"""``delivery listen``: events as they come, each acknowledged once it is printed."""

from __future__ import annotations

import asyncio
import json

import click

from delivery.bootstrap.loop import Told
from delivery.cli.output import clock, say_json
from delivery.client.client import Client
from delivery.client.received import ReceivedEvent

PATIENCE = 15.0
"""Seconds without a connection after which listening gives up."""
GOODBYE = 10.0
"""Seconds for the last acknowledgements and the close."""


async def listen_until(url: str, token: str, count: int | None, as_json: bool) -> None:
    """Print events until ``count`` of them, or until a signal says stop.

    Raises:
        Unauthenticated: the token is not accepted; ``Unreachable``: nobody answers.
    """
    # The loop's own handlers: one that Python runs between two instructions can come a moment
    # before the loop goes to sleep, and is then heard at the next heartbeat.
    told = asyncio.create_task(Told().to_stop())
    listening = asyncio.create_task(_listen(url, token, count, as_json))
    done, _ = await asyncio.wait({told, listening}, return_when=asyncio.FIRST_COMPLETED)
    if listening in done:
        told.cancel()
        listening.result()
        return
    listening.cancel()
    await asyncio.wait({listening}, timeout=GOODBYE)


async def _listen(url: str, token: str, count: int | None, as_json: bool) -> None:
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
