"""``delivery events``: events of a running service, shown and replayed.

Owns: its options, requests and output. Never does: open the ledger.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from delivery.cli.options import SERVICE_TOKEN, api_options, json_option, required_token
from delivery.cli.output import clock, say, say_fields, say_json, say_list, say_table

if TYPE_CHECKING:
    from delivery.cli.http import Api

REPLAY_PAGE = 500
STATES = ("accepted", "sent", "falling_back", "confirmed", "parked", "dead", "expired")


@click.group()
def events() -> None:
    """Look at events, and replay them."""


@events.command("show")
@click.argument("event_id")
@api_options
@json_option
def show(event_id: str, url: str, token: str | None, as_json: bool) -> None:
    """One event with every attempt and every confirmation."""
    from delivery.cli.http import Api

    with Api(url, required_token(token, SERVICE_TOKEN)) as api:
        event = api.get(f"/events/{event_id}")
    say_json(event) if as_json else _say_event(event)


def _say_event(event: dict[str, Any]) -> None:
    say_fields(
        [
            ("id", event["id"]),
            ("type", event["type"]),
            ("class", event["class"]),
            ("user", event["user_id"]),
            ("run", f"{event['run_id']} #{event['seq']}"),
            ("state", event["state"] + (f" ({event['step']})" if event.get("step") else "")),
            ("accepted", event["at"]),
            ("due", event.get("due_at")),
            ("expires", event.get("expires_at")),
            ("generation", event.get("generation")),
            ("data", json.dumps(event["data"], ensure_ascii=False)),
        ]
    )
    click.echo()
    say_table(
        ("step", "#", "outcome", "started", "ms", "error"),
        [
            (
                _step(a),
                a["number"],
                a["outcome"],
                clock(a["started_at"]),
                a["latency_ms"],
                a["error"],
            )
            for a in event["attempts"]
        ],
        title="Attempts",
    )
    click.echo()
    say_table(
        ("channel", "by", "evidence", "at"),
        [(c["channel"], c["by"], c["evidence"], clock(c["at"])) for c in event["confirmations"]],
        title="Confirmations",
    )
    if receipts := event.get("receipts"):
        click.echo()
        say_table(
            ("channel", "status", "code", "provider", "at"),
            [
                (r["channel"], r["status"], r["code"], r["provider"], clock(r["at"]))
                for r in receipts
            ],
            title="Receipts",
        )


def _step(attempt: dict[str, Any]) -> str:
    """The name of an attempt's step, with its channel where that is another word, and the
    provider that did it."""
    name, channel = str(attempt.get("step") or attempt["channel"]), str(attempt["channel"])
    place = name if name == channel else f"{name} ({channel})"
    return place if attempt.get("provider") is None else f"{place} by {attempt['provider']}"


@events.command("list")
@click.option("--user", help="Only this user's.")
@click.option("--run", help="Only this run's.")
@click.option("--state", type=click.Choice(STATES), help="Only those in this state.")
@click.option("--type", "type_", help="Only this type.")
@click.option("--class", "class_", help="Only this class.")
@click.option("--user-prefix", help="Only of users whose id begins so.")
@click.option("--run-prefix", help="Only of runs whose id begins so.")
@click.option("--id-prefix", help="Only events whose id begins so.")
@click.option("--channel", help="Only those with a step, attempt or confirmation there.")
@click.option("--error", help="Only those with this text in an attempt's error.")
@click.option("--from", "from_", help="Only those from this instant on (RFC 3339).")
@click.option("--to", help="Only those before this instant (RFC 3339).")
@click.option("--after", help="The `next` of the page before.")
@click.option("--limit", type=click.IntRange(1, 1_000), default=50, show_default=True)
@api_options
@json_option
def list_events(
    user: str | None,
    run: str | None,
    state: str | None,
    type_: str | None,
    class_: str | None,
    from_: str | None,
    after: str | None,
    limit: int,
    url: str,
    token: str | None,
    as_json: bool,
    **more: str | None,
) -> None:
    """Events, newest first. The options are the filters of the dashboard."""
    from delivery.cli.http import Api

    query = more | {
        "class": class_,
        "from": from_,
        "user_id": user,
        "run_id": run,
        "state": state,
        "type": type_,
        "after": after,
        "limit": limit,
    }
    with Api(url, required_token(token, SERVICE_TOKEN)) as api:
        page = api.get("/events", query)
    if as_json:
        say_json(page)
        return
    say_list(
        ("id", "at", "state", "type", "user", "run"),
        [
            (e["id"], clock(e["at"]), e["state"], e["type"], e["user_id"], e["run_id"])
            for e in page["events"]
        ],
        first=3,
    )
    if page["next"]:
        say(f"more: --after {page['next']}")


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
    from delivery.cli.http import Api

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
        say(f"{answer['id']}: {answer['state']}")
    else:
        click.echo(f"{answer['matched']} matched, {answer['replayed']} replayed")


def _replay_all(api: Api, body: dict[str, Any], total: int, as_json: bool) -> int:
    """Replay page by page, so that no request takes long; shows a bar on a terminal."""
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
