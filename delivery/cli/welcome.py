"""Output of the commands that serve, once they are ready: addresses, tokens, lines to paste."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from delivery.cli.output import say_json
from delivery.telemetry import logs_json

if TYPE_CHECKING:
    from delivery.bootstrap.embedded import Address


def welcome(address: Address, *, as_json: bool) -> None:
    """Print the page, the tokens, and two lines that send and receive an event."""
    if as_json:
        say_json(
            {
                "url": address.url,
                "page": address.page,
                "user": address.user,
                "client_token": address.client_token,
                "service_token": address.service_token,
                "services": dict(address.services),
            },
            indent=None,
        )
        return
    _heading(address)
    if address.client_token is None or address.service_token is None:
        click.echo("Tokens come from the identity provider behind DELIVERY_JWKS_URL.")
        return
    click.echo("Service token (emit read operate):")
    click.echo(f"{address.service_token}\n")
    click.echo(f"Client token of user {address.user}:")
    click.echo(f"{address.client_token}\n")
    click.secho("1. Receive, in a second terminal:", bold=True)
    listen = f"{own_command()} listen --url {address.url}"
    click.echo(f"DELIVERY_TOKEN={address.client_token} {listen}\n")
    click.secho("2. Send, in a third:", bold=True)
    event = {
        "type": "agent_started",
        "user_id": address.user,
        "run_id": "run-1",
        "data": {"text": "hello"},
    }
    click.echo(
        f"curl -sS {address.url}/v1/events -H 'Content-Type: application/json' "
        f"-H 'Authorization: Bearer {address.service_token}' -d '{json.dumps(event)}'\n"
    )


def _heading(address: Address) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=80, highlight=False)
    console.print("[bold]delivery is up.[/bold] Ctrl-C stops it.\n")
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, what in address.services:
        table.add_row(name, what)
    console.print(table)
    click.secho("\nPage (opens once, within 15 minutes):", bold=True)
    click.echo(f"{address.page}\n")


def own_command() -> str:
    """The command line that calls this command from any directory."""
    if shutil.which("delivery"):
        return "delivery"
    beside = Path(sys.executable).with_name("delivery")
    if beside.is_file():
        return shlex.quote(str(beside))
    return f"{shlex.quote(sys.executable)} -m delivery"


def listening(url: str, *, as_json: bool) -> None:
    """Print the address of a gateway that answers."""
    if as_json or logs_json():
        say_json({"url": url}, indent=None)
    else:
        click.echo(f"listening on {url}")


def working(kind: str, node: str, *, as_json: bool) -> None:
    """Print that a process of the chain is up."""
    if as_json or logs_json():
        say_json({"kind": kind, "node": node}, indent=None)
    else:
        click.echo(f"{kind} {node} is up")
