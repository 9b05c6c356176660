"""``delivery suppressions`` and ``delivery bounce``: addresses that get no message, and why.

Owns: their options, input and output. Never does: SQL.
"""

from __future__ import annotations

import sys
from urllib.parse import quote

import click

from delivery.cli.options import SERVICE_TOKEN, api_options, json_option, required_token
from delivery.cli.output import clock, say, say_json, say_table


@click.group()
def suppressions() -> None:
    """Look at addresses that get no message, and allow them again."""


@suppressions.command("list")
@click.option("--after", help="The `next` of the page before.")
@click.option("--limit", type=click.IntRange(1, 1_000), default=50, show_default=True)
@api_options
@json_option
def list_suppressions(
    after: str | None, limit: int, url: str, token: str | None, as_json: bool
) -> None:
    """Addresses that get no message now, newest first."""
    from delivery.cli.http import Api

    with Api(url, required_token(token, SERVICE_TOKEN)) as api:
        page = api.get("/suppressions", {"after": after, "limit": limit})
    if as_json:
        say_json(page)
        return
    say_table(
        ("address", "channel", "reason", "code", "since", "until"),
        [
            (
                one["address"],
                one["channel"],
                one["reason"],
                one["code"],
                clock(one["since"]),
                clock(one["expires_at"]),
            )
            for one in page["suppressions"]
        ],
    )
    if page["next"]:
        say(f"more: --after {page['next']}")


@suppressions.command("remove")
@click.argument("address")
@api_options
@json_option
def remove(address: str, url: str, token: str | None, as_json: bool) -> None:
    """Allow messages to an address again."""
    from delivery.cli.http import Api

    with Api(url, required_token(token, SERVICE_TOKEN)) as api:
        api.delete(f"/suppressions/{quote(address, safe='')}")
    say_json({"removed": address}) if as_json else say(f"{address}: not suppressed any more")


@click.command()
@json_option
def bounce(as_json: bool) -> None:
    """Read one mail on standard input: a bounce or a complaint.

    For the mailbox to which bounces of our mails go, as a pipe of the mail
    server or of a fetcher. Opens the ledger. A mail that is no report, or about
    no mail of ours, is left out (exit code 0).
    """
    from delivery.bootstrap.ledger import open_ledger
    from delivery.config import load_settings
    from delivery.transports.receipts import bounce_mail

    raw = sys.stdin.buffer.read(bounce_mail.MAX_MAIL + 1)
    found = bounce_mail.receipts_of(raw)
    views = []
    if found:
        with open_ledger(load_settings()) as ledger:
            for receipt, answer in zip(found, ledger.receipts.record(found), strict=True):
                views.append(
                    {
                        "status": receipt.status.value,
                        "code": receipt.code,
                        "message": None if answer is None else answer.digest.id,
                        "failed": 0 if answer is None else len(answer.failed),
                    }
                )
    if as_json:
        say_json({"receipts": views})
        return
    if not views:
        say("this mail is no report about a delivery")
    for view in views:
        about = f"message {view['message']}" if view["message"] else "no message of ours"
        say(f"{view['status']} {view['code'] or ''}: {about}, {view['failed']} attempts failed")
