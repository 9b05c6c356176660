"""``delivery contacts``: a user's addresses and preferences in a running service.

Owns: their options, requests and output. Never does: check a contact (the service does), or SQL.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from delivery.cli.options import SERVICE_TOKEN, api_options, json_option, required_token
from delivery.cli.output import say, say_json

FIELDS = ("email", "phone", "push", "locale", "time_zone", "quiet_hours", "opt_out")
_READ_ONLY = ("suppressed", "unverified", "verified")
_ADDRESSES = ("email", "phone", "push")


@click.group()
def contacts() -> None:
    """Set, show and delete users' addresses and preferences."""


@contacts.command("set")
@click.argument("user_id")
@click.option("--email", help="An address like name@example.org.")
@click.option("--phone", help="A number like +491701234567.")
@click.option("--push", multiple=True, help="An Apprise URL; may be repeated.")
@click.option("--locale", help="A language, like de or en-GB.")
@click.option("--time-zone", help="An IANA name, like Europe/Berlin.")
@click.option("--quiet-hours", help="No messages between, like 22:00-07:00.")
@click.option("--opt-out", multiple=True, help="A channel, or email:orders; may be repeated.")
@click.option(
    "--clear", multiple=True, type=click.Choice(FIELDS), help="Remove a field; may be repeated."
)
@click.option("--unverified", is_flag=True, help="Ask the owners of the addresses first.")
@click.option("--replace", is_flag=True, help="Forget the fields that are not given.")
@api_options
@json_option
def set_contact(
    user_id: str,
    clear: tuple[str, ...],
    unverified: bool,
    replace: bool,
    url: str,
    token: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Set fields of a user's contact; the others stay as they are.

    The addresses given here count as verified. With --unverified each gets one
    message that asks its owner, and nothing else until then.
    """
    from delivery.cli.http import Api

    given = _given(options)
    if not given and not clear and not replace:
        raise click.UsageError("name a field to set, such as --email, or one to --clear")
    if both := sorted(set(given) & set(clear)):
        raise click.UsageError(f"--clear {both[0]} contradicts a value for it")
    path = f"/users/{quote(user_id, safe='')}/contacts"
    with Api(url, required_token(token, SERVICE_TOKEN)) as api:
        before = {} if replace else _stored(api.ask("GET", f"/v1{path}"))
        body = merged(before, given, clear, unverified=unverified)
        answer = api.put(path, body)
    say_json(answer) if as_json else _show(user_id, answer)


@contacts.command("show")
@click.argument("user_id")
@api_options
@json_option
def show(user_id: str, url: str, token: str | None, as_json: bool) -> None:
    """Show what is stored about a user."""
    from delivery.cli.http import Api

    with Api(url, required_token(token, SERVICE_TOKEN)) as api:
        answer = api.get(f"/users/{quote(user_id, safe='')}/contacts")
    say_json(answer) if as_json else _show(user_id, answer)


@contacts.command("delete")
@click.argument("user_id")
@api_options
@json_option
def delete(user_id: str, url: str, token: str | None, as_json: bool) -> None:
    """Forget a user's addresses and preferences. Safe to repeat."""
    from delivery.cli.http import Api

    with Api(url, required_token(token, SERVICE_TOKEN)) as api:
        api.delete(f"/users/{quote(user_id, safe='')}/contacts")
    say_json({"deleted": user_id}) if as_json else say(f"{user_id}: contact deleted")


def merged(
    before: dict[str, Any], given: dict[str, Any], clear: tuple[str, ...], *, unverified: bool
) -> dict[str, Any]:
    """The contact to store: what is there, with the given fields in place of theirs.

    Addresses that were not given stay verified or unverified as they are.
    """
    body = {name: value for name, value in before.items() if name not in (*_READ_ONLY, *clear)}
    left_out = set(before.get("unverified", ()))
    if unverified:
        left_out |= set(_addresses(given))
    else:
        left_out -= set(_addresses(given))
    body |= given
    verified = [address for address in _addresses(body) if address not in left_out]
    if len(verified) < len(_addresses(body)):
        body["verified"] = verified
    return body


def _addresses(contact: dict[str, Any]) -> list[str]:
    single = [contact[name] for name in ("email", "phone") if contact.get(name)]
    return [*single, *contact.get("push", ())]


def _given(options: dict[str, Any]) -> dict[str, Any]:
    found = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in options.items()
        if value not in (None, ())
    }
    hours = options["quiet_hours"]
    if hours is not None:
        begins, mark, ends = str(hours).partition("-")
        if not mark:
            raise click.UsageError("--quiet-hours is written HH:MM-HH:MM")
        found["quiet_hours"] = {"from": begins.strip(), "to": ends.strip()}
    return found


def _stored(answer: tuple[int, Any]) -> dict[str, Any]:
    status, body = answer
    if status == 200 and isinstance(body, dict):
        return body
    if status == 404:
        return {}
    from delivery.errors import RemoteError

    problem = body if isinstance(body, dict) else {}
    text = problem.get("detail") or problem.get("title") or "refused"
    raise RemoteError(f"{text} ({status})", status=status, problem=problem)


def _show(user_id: str, contact: dict[str, Any]) -> None:
    say(user_id)
    unverified = set(contact.get("unverified", ()))
    for name in FIELDS:
        value = contact.get(name)
        if value is None:
            continue
        if name == "quiet_hours":
            value = f"{value['from']}-{value['to']}"
        for one in value if isinstance(value, list) else [value]:
            note = "  (not verified)" if name in _ADDRESSES and one in unverified else ""
            say(f"  {name:12}{one}{note}")
    for one in contact.get("suppressed", ()):
        say(f"  suppressed  {one['channel']}: {one['reason']}")
