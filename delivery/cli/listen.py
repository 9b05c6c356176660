"""``delivery listen``: events as they come, each acknowledged once it is printed.

Owns: its options, its output, and lines on standard error about the connection. Never does:
connect; that is ``Client``.
"""

from __future__ import annotations

import json
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from delivery.cli.options import api_options, json_option, required_token
from delivery.cli.output import clock, say, say_json
from delivery.errors import ConfigError
from delivery.telemetry import printable

if TYPE_CHECKING:
    from delivery.client.link import Status
    from delivery.client.received import ReceivedEvent
    from delivery.client.store import FileStore

CONNECT_TIMEOUT = 15.0
"""Seconds without a connection after which the command gives up."""
CLOSE_TIMEOUT = 10.0
"""Seconds for the last acknowledgements and the close."""


@click.command()
@click.option("--count", type=click.IntRange(min=1), help="Stop after so many events.")
@click.option(
    "--transport",
    type=click.Choice(["auto", "websocket", "sse"]),
    default="auto",
    show_default=True,
    help="auto: SSE while WebSocket does not get through.",
)
@click.option(
    "--store",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File that remembers what was printed, for the next start.",
)
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

    held = required_token(token, "delivery token --user demo")
    asyncio.run(listen_until(Plan(url, held, count, transport, store, as_json)))


@dataclass(frozen=True, slots=True)
class Plan:
    """Options of one call.

    Attributes:
        count: stop after so many events.
        store: a file that remembers what was printed.
    """

    url: str
    token: str
    count: int | None
    transport: Literal["auto", "websocket", "sse"]
    store: Path | None
    as_json: bool


async def listen_until(plan: Plan) -> None:
    """Print events until ``count`` of them came, or until a signal stops it.

    Raises:
        Unauthenticated: the token is not accepted; ``Unreachable``: no answer came.
        ConfigError: the store cannot be used.
    """
    import asyncio

    from delivery.process.event_loop import StopSignal

    # The loop's own signal handlers: one that Python runs between two instructions can come right
    # before the loop goes to sleep, which then wakes up with the next frame only.
    stopped = asyncio.create_task(StopSignal().wait())
    listening = asyncio.create_task(_listen(plan))
    done, _ = await asyncio.wait({stopped, listening}, return_when=asyncio.FIRST_COMPLETED)
    if listening in done:
        stopped.cancel()
        listening.result()
        return
    listening.cancel()
    await asyncio.wait({listening}, timeout=CLOSE_TIMEOUT)


async def _listen(plan: Plan) -> None:
    from delivery.client.client import Client
    from delivery.client.store import MemoryStore

    seen = 0
    with ExitStack() as stack:
        store = MemoryStore() if plan.store is None else stack.enter_context(_kept(plan.store))
        client = Client(
            plan.url,
            plan.token,
            give_up_after=CONNECT_TIMEOUT,
            store=store,
            transport=plan.transport,
            on_status=Notices(),
        )
        async with client:
            async for event in client:
                say_json(dict(event.wire), indent=None) if plan.as_json else _say(event)
                seen += 1
                if seen == plan.count:
                    return


def _kept(path: Path) -> closing[FileStore]:
    from delivery.client.store import FileStore

    try:
        return closing(FileStore(path))
    except OSError as error:
        raise ConfigError(f"--store: cannot use {path}: {error.strerror}") from error


class Notices:
    """Prints on standard error what happens to the connection: as whom and over what it stands,
    and why it does not."""

    def __init__(self) -> None:
        self._shown = ""
        self._reason: str | None = None

    def __call__(self, status: Status) -> None:
        """Take the client's status."""
        if status.state == "connected":
            self._show(self._connected(status))
            self._reason = None
        elif status.state == "waiting":
            self._reason = status.reason or self._reason
            self._show(f"no connection ({self._reason}); trying again")

    def _connected(self, status: Status) -> str:
        over = "WebSocket" if status.transport == "websocket" else "SSE"
        no_socket = self._reason if over == "SSE" else None
        why = f" (WebSocket does not get through: {no_socket})" if no_socket else ""
        return f"listening as {status.user_id} over {over}{why}"

    def _show(self, line: str) -> None:
        """A line that says something else than the one before."""
        if line != self._shown:
            self._shown = line
            say(line, err=True)


def _say(event: ReceivedEvent) -> None:
    data = json.dumps(event.wire["data"], ensure_ascii=False)
    place = "" if event.seq is None else f" #{event.seq}"
    at = clock(str(event.wire["at"]))
    kind = click.style(printable(event.type), bold=True)
    click.echo(f"{at}  {kind}  {printable(f'{event.run_id}{place}  {data}')}")
