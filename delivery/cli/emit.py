"""``delivery emit``: events sent to a running service over HTTP.

Owns: its options and output. Never does: open the ledger.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import click

from delivery.cli.options import SERVICE_TOKEN, api_options, json_option, required_token
from delivery.cli.output import say, say_json, say_table

LIKE = 0.8
"""How like a known type another one must be, from 0 to 1, to be taken for a slip."""


@click.command()
@click.argument("type", required=False)
@click.option("--user", help="Whose event it is.")
@click.option("--run", help="The run it belongs to.")
@click.option("--thread", help="The thread it belongs to.")
@click.option("--data", default="{}", show_default=True, help="The payload, a JSON object.")
@click.option("--id", "event_id", help="Your own UUIDv7, the idempotency key.")
@click.option("--class", "class_", help="A class of the service's policies, not its type's.")
@click.option("--ttl", type=float, help="Seconds until it expires, at most its class's.")
@click.option("--not-before", help="An instant, like 2026-01-31T12:00:00Z; 30 days ahead at most.")
@click.option("--group", help="Its events are in one message, whatever their runs.")
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
    **options: Any,
) -> None:
    """Send an event: `delivery emit agent_started --user demo --run r-1`."""
    from delivery.cli.http import Api

    held = required_token(token, SERVICE_TOKEN)
    with Api(url, held) as api:
        if source is not None:
            lines = source.read()
            answer = api.post_lines("/events", lines)
        else:
            event = _event(type, user, run, thread, data, event_id)
            _hint(event["type"])
            answer = api.post("/events", event | _chosen(options))
            lines = json.dumps(event).encode()
    if as_json:
        say_json(answer)
    else:
        _say_receipts(answer)
        _say_flags(answer, lines)
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


def _chosen(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name.rstrip("_"): value for name, value in options.items() if value is not None}


def _hint(name: str) -> None:
    """Say that a type reads like one of the known ones: an unlisted type is ``standard``."""
    import difflib

    from delivery.domain.event import AGENT_TYPES, AUTH_TYPES

    known = (*AGENT_TYPES, *AUTH_TYPES)
    near = [] if name in known else difflib.get_close_matches(name.lower(), known, 1, LIKE)
    if near:
        text = f"{name} is no type of an agent's run or a sign-in: did you mean {near[0]}?"
        say(text, err=True)


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


def _say_flags(answer: Any, lines: bytes) -> None:
    """Say which accepted events got ``meta.flags``: most likely a template was not filled.

    Args:
        lines: the events as they were sent, one per line.
    """
    from delivery.domain.event import id_flags

    sent = [line for line in lines.split(b"\n") if line.strip()]
    for one in answer["accepted"]:
        event = json.loads(sent[one["index"]])
        flags = id_flags(event["user_id"], event["run_id"], event.get("thread_id"))
        if flags:
            say(f"#{one['index']} flagged, and accepted: {', '.join(flags)}")
