"""``delivery tokens`` and ``delivery users``: who has access to a running service.

Owns: their options, requests and output. Never does: sign a token, or SQL.
"""

from __future__ import annotations

import sys
from urllib.parse import quote

import click

from delivery.cli.options import SERVICE_TOKEN, api_options, json_option, required_token
from delivery.cli.output import say, say_json


@click.group()
def tokens() -> None:
    """Revoke tokens."""


@tokens.command("revoke")
@click.option("--jti", help="Revoke the token with this id (its claim jti).")
@click.option("--user", help="Revoke all tokens that this user was issued until now.")
@click.option("--before", help="With --user: those issued before this instant (RFC 3339).")
@api_options
@json_option
def revoke(
    jti: str | None,
    user: str | None,
    before: str | None,
    url: str,
    token: str | None,
    as_json: bool,
) -> None:
    """Refuse tokens from now on, on every node.

    Open sockets and streams end within a second.
    """
    if (jti is None) == (user is None):
        raise click.UsageError("write either --jti ID or --user NAME")
    if before is not None and user is None:
        raise click.UsageError("--before belongs to --user")
    from delivery.cli.http import Api

    body = {"jti": jti, "user_id": user, "before": before}
    with Api(url, required_token(token, SERVICE_TOKEN)) as api:
        answer = api.post(
            "/tokens/revoke", {name: value for name, value in body.items() if value is not None}
        )
    if as_json:
        say_json(answer)
    elif jti is not None:
        say(f"token {answer['jti']}: revoked")
    else:
        say(f"tokens of {answer['user_id']} issued before {answer['before']}: revoked")


@click.group()
def users() -> None:
    """Disconnect users and erase them."""


@users.command("erase")
@click.argument("user_id")
@api_options
@json_option
def erase(user_id: str, url: str, token: str | None, as_json: bool) -> None:
    """Erase all that is kept about a user.

    Events, contact, digests and copies are deleted; in the compliance log
    the user becomes a pseudonym. Opens the database that is set, as its
    owner where DELIVERY_MIGRATE_DATABASE_URL is; else asks the service at
    --url if there is a token; else opens the data directory's file.
    """
    from delivery.bootstrap.erasure import erase_user, names_database
    from delivery.config import load_settings
    from delivery.domain.event import check_context_id
    from delivery.errors import InvalidContext

    try:
        check_context_id("user_id", user_id)
    except InvalidContext as error:
        raise click.BadParameter(str(error), param_hint="USER_ID") from error
    settings = load_settings()
    if names_database(settings) or not token:
        answer = erase_user(settings, user_id)
    else:
        from delivery.cli.http import Api

        with Api(url, token, timeout=60.0) as api:
            answer = api.delete(f"/users/{quote(user_id, safe='')}")
    if as_json:
        say_json(answer)
    else:
        say(f"{user_id}: erased, {answer['events']} events")
    if answer["unkeyed_rows"]:
        say(
            f"{answer['unkeyed_rows']} unkeyed rows of the compliance log still name the user: "
            "repeat with DELIVERY_MIGRATE_DATABASE_URL, the tables' owner",
            err=True,
        )
        sys.exit(1)


@users.command("disconnect")
@click.argument("user_id")
@api_options
@json_option
def disconnect(user_id: str, url: str, token: str | None, as_json: bool) -> None:
    """Close all connections of a user, on every node.

    Their token stays good: `delivery tokens revoke --user` keeps them out.
    """
    from delivery.cli.http import Api

    with Api(url, required_token(token, SERVICE_TOKEN)) as api:
        answer = api.post(f"/users/{quote(user_id, safe='')}/disconnect", {})
    say_json(answer) if as_json else say(f"{answer['user_id']}: disconnected")
