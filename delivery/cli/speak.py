"""Commands that speak HTTP with a running service: emit, events; and ``token``.

Owns: what they ask and how the answers look. Never does: open the ledger.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from delivery.cli.options import api_options, json_option, required_token
from delivery.cli.output import clock, say_fields, say_json, say_table

if TYPE_CHECKING:
    from delivery.cli.api import Api

SERVICE_TOKEN = 'delivery token --service --scope "emit read operate"'  # noqa: S105
REPLAY_PAGE = 500
STATES = ("accepted", "sent", "falling_back", "confirmed", "parked", "dead", "expired")


@click.command()
@click.option("--user", help="A client's token: it receives this user's events.")
@click.option("--service", is_flag=True, help="A service's token, with --scope.")
@click.option("--scope", default="emit read", show_default=True, help="Of emit, read, operate.")
@click.option("--name", default="service", show_default=True, help="Who the service is.")
@click.option("--ttl", type=click.FloatRange(min=1), default=86_400.0, show_default=True,
              help="Seconds until it expires.")  # fmt: skip
@click.option("--data-dir", default=None, help="Where `delivery up` keeps its secret.")
@json_option
def token(
    user: str | None,
    service: bool,
    scope: str,
    name: str,
    ttl: float,
    data_dir: str | None,
    as_json: bool,
) -> None:
    """Make a token; prints only the token.

    Signed with DELIVERY_JWT_SECRET, or with the development secret of a
    `delivery up` in the same data directory.
    """
    if bool(user) == service:
        raise click.UsageError("write either --user NAME or --service")
    from delivery.bootstrap.tokens import issue
    from delivery.config import load_settings

    scopes = scope.split() if service else None
    unknown = set(scopes or ()) - {"emit", "read", "operate"}
    if unknown:
        raise click.UsageError(f"unknown scope {sorted(unknown)[0]!r}: write emit, read, operate")
    made = issue(load_settings(data_dir=data_dir), user or name, scopes=scopes, ttl=ttl)
    say_json({"token": made}) if as_json else click.echo(made)


@click.command()
@click.argument("type", required=False)
@click.option("--user", help="Whose event it is.")
@click.option("--run", help="The run it belongs to.")
@click.option("--thread", help="The thread it belongs to.")
@click.option("--data", default="{}", show_default=True, help="The payload, a JSON object.")
@click.option("--id", "event_id", help="Your own UUIDv7, the idempotency key.")
@click.option("--file", "source", type=click.File("rb"),
              help="One JSON event per line instead; - is standard input.")  # fmt: skip
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
    from delivery.cli.api import Api

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
        (one["id"], one["seq"], "yes" if one["durable"] else "no",
         "duplicate" if one["duplicate"] else "accepted")
        for one in answer["accepted"]
    ]  # fmt: skip
    if rows:
        say_table(("id", "seq", "durable", "outcome"), rows)
    for one in answer["rejected"]:
        problem = one["error"]
        click.echo(f"#{one['index']} rejected: {problem.get('detail') or problem.get('title')}")


@click.group()
def events() -> None:
    """Look at events, and replay them."""


@events.command("show")
@click.argument("event_id")
@api_options
@json_option
def show(event_id: str, url: str, token: str | None, as_json: bool) -> None:
    """One event with every attempt and every proof."""
    from delivery.cli.api import Api

    with Api(url, required_token(token, SERVICE_TOKEN)) as api:
        event = api.get(f"/events/{event_id}")
    if as_json:
        say_json(event)
        return
    say_fields([
        ("id", event["id"]), ("type", event["type"]), ("class", event["class"]),
        ("user", event["user_id"]), ("run", f"{event['run_id']} #{event['seq']}"),
        ("state", event["state"] + (f" ({event['step']})" if event.get("step") else "")),
        ("accepted", event["at"]), ("due", event.get("due_at")),
        ("expires", event.get("expires_at")), ("generation", event.get("generation")),
        ("data", json.dumps(event["data"], ensure_ascii=False)),
    ])  # fmt: skip
    click.echo()
    say_table(
        ("channel", "#", "outcome", "started", "ms", "error"),
        [(a["channel"], a["number"], a["outcome"], clock(a["started_at"]), a["latency_ms"],
          a["error"]) for a in event["attempts"]],
        title="Attempts",
    )  # fmt: skip
    click.echo()
    say_table(
        ("channel", "by", "evidence", "at"),
        [(c["channel"], c["by"], c["evidence"], clock(c["at"])) for c in event["confirmations"]],
        title="Confirmations",
    )


@events.command("list")
@click.option("--user", help="Only this user's.")
@click.option("--run", help="Only this run's.")
@click.option("--state", type=click.Choice(STATES), help="Only those in this state.")
@click.option("--type", "type_", help="Only this type.")
@click.option("--after", help="The `next` of the page before.")
@click.option("--limit", type=click.IntRange(1, 1_000), default=50, show_default=True)
@api_options
@json_option
def list_events(
    user: str | None,
    run: str | None,
    state: str | None,
    type_: str | None,
    after: str | None,
    limit: int,
    url: str,
    token: str | None,
    as_json: bool,
) -> None:
    """Events, newest first."""
    from delivery.cli.api import Api

    query = {"user_id": user, "run_id": run, "state": state, "type": type_,
             "after": after, "limit": limit}  # fmt: skip
    with Api(url, required_token(token, SERVICE_TOKEN)) as api:
        page = api.get("/events", query)
    if as_json:
        say_json(page)
        return
    say_table(
        ("id", "type", "user", "state"),
        [(e["id"], e["type"], e["user_id"], e["state"]) for e in page["events"]],
    )
    if page["next"]:
        click.echo(f"more: --after {page['next']}")


@events.command("replay")
@click.argument("event_id", required=False)
@click.option("--state", type=click.Choice(STATES), help="All events in this state instead.")
@click.option("--user", help="With --state: only this user's.")
@click.option("--run", help="With --state: only this run's.")
@click.option("--before", help="With --state: only those before this instant (RFC 3339).")
@click.option("--dry-run", is_flag=True, help="With --state: count them, change nothing.")
@api_options
@json_option
def replay(
    event_id: str | None,
    state: str | None,
    user: str | None,
    run: str | None,
    before: str | None,
    dry_run: bool,
    url: str,
    token: str | None,
    as_json: bool,
) -> None:
    """Deliver anew: one event, or all in a state."""
    if bool(event_id) == bool(state):
        raise click.UsageError("write either EVENT_ID or --state")
    from delivery.cli.api import Api

    with Api(url, required_token(token, SERVICE_TOKEN)) as api:
        if event_id:
            answer = api.post(f"/events/{event_id}/replay", {})
        else:
            body = {"state": state, "user_id": user, "run_id": run, "before": before}
            body = {name: value for name, value in body.items() if value is not None}
            matched = api.post("/replay", body | {"dry_run": True})["matched"]
            replayed = 0 if dry_run else _replay_all(api, body, matched, as_json)
            answer = {"matched": matched, "replayed": replayed}
    if as_json:
        say_json(answer)
    elif event_id:
        click.echo(f"{answer['id']}: {answer['state']}")
    else:
        click.echo(f"{answer['matched']} matched, {answer['replayed']} replayed")


def _replay_all(api: Api, body: dict[str, Any], total: int, as_json: bool) -> int:
    """Page by page, so that no request takes long; a bar on standard error for people."""
    replayed, after = 0, ""
    hidden = as_json or not sys.stderr.isatty()
    with click.progressbar(
        length=total, label="replaying", file=sys.stderr, hidden=hidden, show_pos=True
    ) as bar:
        while True:
            more = {"limit": REPLAY_PAGE} | ({"after": after} if after else {})
            answer = api.post("/replay", body | more)
            replayed += int(answer["replayed"])
            bar.update(answer["replayed"])
            after = answer["next"]
            if not after:
                return replayed


COMMANDS = (token, emit, events)
