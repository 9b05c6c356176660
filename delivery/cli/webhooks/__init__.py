"""``delivery webhooks``: the application's endpoints, their messages, replays, and a listener.

Owns: their options and output. Never does: SQL or HTTP.
"""

from __future__ import annotations

import base64
import difflib
import re
import secrets
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from delivery.cli.options import json_option
from delivery.cli.output import clock, say, say_fields, say_json, say_table
from delivery.errors import ConfigError

if TYPE_CHECKING:
    from delivery.cli.webhooks.listener import Received
    from delivery.domain.webhooks.endpoints import Endpoint
    from delivery.domain.webhooks.messages import EndpointState, WebhookRow

_AGO = re.compile(r"([0-9]{1,6})([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
NEW = "new"
"""An endpoint of the file that no worker knows yet."""


@click.group()
def webhooks() -> None:
    """The endpoints of your application that are told what became of events."""


def _instant(_context: click.Context, _option: click.Parameter, value: str) -> datetime:
    """``2026-12-01T08:00:00Z``, or ``6h`` for six hours ago."""
    if ago := _AGO.fullmatch(value):
        return datetime.now(UTC) - timedelta(seconds=int(ago[1]) * _UNITS[ago[2]])
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise click.BadParameter(f"{value!r}: write 2026-12-01T08:00:00Z, or 6h for six hours ago")
    return found.astimezone(UTC)


def _endpoints() -> tuple[Any, dict[str, Endpoint]]:
    """The settings, and the endpoints of the file by name."""
    from delivery.config import load_settings, load_webhooks

    settings = load_settings()
    return settings, {one.name: one for one in load_webhooks(settings)}


def _unknown(name: str, known: list[str]) -> ConfigError:
    near = difflib.get_close_matches(name, known, n=1)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    listed = ", ".join(known) or "none (DELIVERY_WEBHOOKS, config/webhooks.toml)"
    return ConfigError(f"there is no webhook {name!r}{meant} Known: {listed}")


def _view(name: str, endpoint: Endpoint | None, state: EndpointState | None) -> dict[str, Any]:
    return {
        "name": name,
        "url": endpoint.url if endpoint else None,
        "events": sorted(endpoint.events) if endpoint else [],
        "types": list(endpoint.types) if endpoint else [],
        "classes": list(endpoint.classes) if endpoint else [],
        "format": endpoint.format.value if endpoint else None,
        "state": NEW if state is None else "on" if state.is_on else "off",
        "reason": state.reason if state else None,
        "changed_at": _text(state.changed_at if state else None),
        "followed_at": _text(state.followed_at if state else None),
        "failing_since": _text(state.failing_since if state else None),
        "failures": state.failures if state else 0,
        "waiting": state.waiting if state else 0,
        "failed": state.failed if state else 0,
        "oldest": _text(state.oldest if state else None),
    }


def _text(instant: datetime | None) -> str | None:
    from delivery.domain.event import format_instant

    return None if instant is None else format_instant(instant)


@webhooks.command("list")
@json_option
def list_webhooks(as_json: bool) -> None:
    """Every endpoint: whether it is on, and how much waits."""
    from delivery.bootstrap.ledger import open_ledger

    settings, known = _endpoints()
    with open_ledger(settings) as ledger:
        states = {one.name: one for one in ledger.webhooks.states()}
    names = list(dict.fromkeys((*known, *states)))
    found = [_view(name, known.get(name), states.get(name)) for name in names]
    if as_json:
        say_json({"webhooks": found})
        return
    say_table(
        ("name", "state", "waiting", "failed", "oldest", "url"),
        [
            (
                one["name"],
                one["state"],
                one["waiting"],
                one["failed"],
                clock(one["oldest"]),
                one["url"] or "not in the file",
            )
            for one in found
        ],
    )
    for one in found:
        if one["reason"]:
            say(f"{one['name']} is off since {one['changed_at']}: {one['reason']}")


@webhooks.command()
@click.argument("name")
@click.option("--limit", type=click.IntRange(1, 1_000), default=20, show_default=True)
@json_option
def show(name: str, limit: int, as_json: bool) -> None:
    """One endpoint, and its latest messages with their attempts."""
    from delivery.bootstrap.ledger import open_ledger

    settings, known = _endpoints()
    with open_ledger(settings) as ledger:
        states = {one.name: one for one in ledger.webhooks.states()}
        if name not in known and name not in states:
            raise _unknown(name, sorted({*known, *states}))
        rows = ledger.webhooks.messages(name, limit=limit)
    view = _view(name, known.get(name), states.get(name))
    messages = [_message(row) for row in rows]
    if as_json:
        say_json(view | {"messages": messages})
        return
    shown = {k: ", ".join(v) or None if isinstance(v, list) else v for k, v in view.items()}
    say_fields(list(shown.items()))
    for one in messages:
        due = f", due {clock(one['due_at'])}" if one["due_at"] else ""
        say(f"{clock(one['at'])}  {one['state']}{due}  {one['id']}")
        for attempt in one["attempts"]:
            ended = attempt["error"] or attempt["status"] or ""
            say(f"  {clock(attempt['started_at'])}  {attempt['outcome']} {ended}")


def _message(row: WebhookRow) -> dict[str, Any]:
    return {
        "id": row.message.public_id,
        "type": row.message.kind.value,
        "subject": row.message.subject,
        "generation": row.message.generation,
        "at": _text(row.message.at),
        "state": row.state,
        "due_at": _text(row.due_at),
        "attempts": [
            {
                "number": one.number,
                "outcome": one.outcome,
                "status": one.status,
                "error": one.error,
                "started_at": _text(one.started_at),
                "ended_at": _text(one.ended_at),
            }
            for one in row.attempts
        ],
    }


@webhooks.command()
@click.argument("name")
@json_option
def enable(name: str, as_json: bool) -> None:
    """Switch an endpoint on that was switched off.

    What waits is sent now. What happened while it was off is not told, unless
    by `delivery webhooks replay`.
    """
    from delivery.bootstrap.ledger import open_ledger

    settings, known = _endpoints()
    with open_ledger(settings) as ledger:
        before = ledger.webhooks.enable(name)
        if before is None:
            names = {*known, *(one.name for one in ledger.webhooks.states())}
            raise _unknown(name, sorted(names))
    off_since = None if before.is_on else _text(before.changed_at)
    if as_json:
        say_json({"name": name, "state": "on", "off_since": off_since})
    elif off_since is None:
        say(f"{name} is on")
    else:
        say(f"{name} is on; it was not told what happened since {off_since}:")
        say(f"delivery webhooks replay {name} --since {off_since}")


@webhooks.command()
@click.argument("name")
@json_option
def disable(name: str, as_json: bool) -> None:
    """Switch an endpoint off until `delivery webhooks enable`."""
    from delivery.bootstrap.ledger import open_ledger

    settings, known = _endpoints()
    with open_ledger(settings) as ledger:
        if not ledger.webhooks.disable(name, "switched off by an operator"):
            names = {*known, *(one.name for one in ledger.webhooks.states())}
            raise _unknown(name, sorted(names))
    say_json({"name": name, "state": "off"}) if as_json else say(f"{name} is off")


@webhooks.command()
@click.argument("name")
@click.option(
    "--since",
    required=True,
    callback=_instant,
    metavar="INSTANT",
    help="2026-12-01T08:00:00Z, or 6h for six hours ago (s, m, h, d).",
)
@json_option
def replay(name: str, since: datetime, as_json: bool) -> None:
    """Tell an endpoint once more what happened since an instant.

    Messages keep their `webhook-id`, so that a receiver knows repeated ones.
    """
    from delivery.bootstrap.ledger import open_ledger

    settings, known = _endpoints()
    if name not in known:
        raise _unknown(name, sorted(known))
    with open_ledger(settings) as ledger:
        ledger.webhooks.register([name])
        count = ledger.webhooks.replay(known[name], since)
        is_off = name in ledger.webhooks.off()
    if as_json:
        say_json({"name": name, "since": _text(since), "messages": count, "is_off": is_off})
        return
    say(f"{name}: {count} messages are sent (again)")
    if is_off:
        say(f"{name} is off: they wait for `delivery webhooks enable {name}`")


@webhooks.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65_535), default=8090, show_default=True)
@click.option("--secret", help="whsec_…; else that of the endpoint in the file with this port.")
@click.option(
    "--status",
    type=click.IntRange(200, 599),
    default=204,
    show_default=True,
    help="What good messages are answered with.",
)
@click.option("--count", type=click.IntRange(min=1), help="End after so many messages.")
@json_option
def listen(
    host: str, port: int, secret: str | None, status: int, count: int | None, as_json: bool
) -> None:
    """Take messages on this machine, check their signatures and print them."""
    from delivery.cli.webhooks.listener import Listener

    left = count
    keys, is_made = _keys(port, secret)

    def show(found: Received) -> None:
        nonlocal left
        _show(found, as_json)
        if left is not None:
            left -= 1
            if left <= 0:
                listener.stop()

    try:
        listener = Listener(host, port, keys, status=status, show=show)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    url = f"http://{host}:{listener.port}"
    say(f"listening on {url}", err=True)
    if is_made:
        whsec = "whsec_" + base64.b64encode(keys[0]).decode()
        say("for config/webhooks.toml:", err=True)
        say(f'[webhook.dev]\nurl = "{url}"\nsecret = "{whsec}"\nallow_private = true', err=True)
    try:
        listener.run()
    except KeyboardInterrupt:
        say("", err=True)
    finally:
        listener.close()


def _keys(port: int, secret: str | None) -> tuple[list[bytes], bool]:
    """The keys to check with, and whether they were made just now."""
    from delivery.domain.webhooks.endpoints import MAKE_SECRET, decode_secret

    if secret is not None:
        key = decode_secret(secret)
        if key is None:
            raise ConfigError(f"--secret: must be whsec_ and base64; make one with: {MAKE_SECRET}")
        return [key], False
    _, known = _endpoints()
    mine = [one for one in known.values() if port and _port(one.url) == port]
    keys = [key for one in mine for key in (one.secret, one.previous) if key is not None]
    return (keys, False) if keys else ([secrets.token_bytes(32)], True)


def _port(url: str) -> int:
    parts = urlsplit(url)
    return parts.port or (443 if parts.scheme == "https" else 80)


def _show(found: Received, as_json: bool) -> None:
    if as_json:
        view = {"id": found.id, "is_valid": found.fault is None, "fault": found.fault}
        say_json(view | {"body": found.body}, indent=None)
        return
    kind = found.body.get("type") if isinstance(found.body, dict) else None
    verdict = "signature ok" if found.fault is None else f"REFUSED: {found.fault}"
    say(f"{kind or 'no type'}  {found.id}  {verdict}")
    say_json(found.body)
