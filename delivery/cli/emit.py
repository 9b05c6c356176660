"""``delivery emit``: events sent to a running service over HTTP.

Owns: its options and output. Never does: open the ledger.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from delivery.cli.options import SERVICE_TOKEN, api_options, json_option, required_token
from delivery.cli.output import say, say_json, say_table


@click.command()
@click.argument("type", required=False)
@click.option("--user", help="Whose event it is.")
@click.option("--run", help="The run it belongs to.")
@click.option("--thread", help="The thread it belongs to.")
@click.option("--data", default="{}", show_default=True, help="The payload, a JSON object.")
@click.option("--id", "event_id", help="Your own UUIDv7, the idempotency key.")
@click.option(
    "--file",
    "source",
    type=click.File("rb"),
    help="One JSON event per line instead; - is standard input.",
)
@api_options
@json_option
def emit(
    type: str | None,
    user: str | None,
    run: str | None,
    thread: str | None,
    data: str,
    event_id: str | None,
    source: Any,
    url: str,
    token: str | None,
    as_json: bool,
) -> None:
    """Send an event: `delivery emit agent_started --user demo --run r-1`."""
    from delivery.cli.http import Api

    held = required_token(token, SERVICE_TOKEN)
    with Api(url, held) as api:
        if source is not None:
            answer = api.post_lines("/events", source.read())
        else:
            answer = api.post("/events", _event(type, user, run, thread, data, event_id))
    if as_json:
        say_json(answer)
    else:
        _say_receipts(answer)
    if answer["rejected"]:
        sys.exit(1)


def _event(
    type: str | None,
    user: str | None,
    run: str | None,
    thread: str | None,
    data: str,
    event_id: str | None,
) -> dict[str, Any]:
    if not (type and user and run):
        raise click.UsageError("write TYPE, --user and --run, or --file")
    try:
        parsed = json.loads(data)
    except ValueError as error:
        raise click.UsageError(f"--data is not JSON: {error}") from error
    event = {"type": type, "user_id": user, "run_id": run, "data": parsed}
    event |= {"thread_id": thread} if thread else {}
    event |= {"id": event_id} if event_id else {}
    return event


def _say_receipts(answer: Any) -> None:
    rows = [
        (
            one["id"],
            one["seq"],
            "yes" if one["durable"] else "no",
            "duplicate" if one["duplicate"] else "accepted",
        )
        for one in answer["accepted"]
    ]
    if rows:
        say_table(("id", "seq", "durable", "outcome"), rows)
    for one in answer["rejected"]:
        problem = one["error"]
        say(f"#{one['index']} rejected: {problem.get('detail') or problem.get('title')}")
