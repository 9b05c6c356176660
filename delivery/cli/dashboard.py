"""``delivery dashboard``: a link that opens the dashboard of a running service.

Owns: its options and output. Never does: sign anything but the token to ask for the link, where
none is given.
"""

from __future__ import annotations

import click

from delivery.cli.options import api_options, json_option
from delivery.cli.output import say_json

TOKEN_TTL = 12 * 3_600.0
"""Seconds: a session ends with the token behind its link. The token goes nowhere else."""


@click.command()
@click.option("--read-only", is_flag=True, help="The session may look, and not replay.")
@click.option("--data-dir", default=None, help="Where `delivery up` keeps its secret.")
@api_options
@json_option
def dashboard(
    read_only: bool, data_dir: str | None, url: str, token: str | None, as_json: bool
) -> None:
    """Print a link that opens the dashboard, once, within 15 minutes.

    The browser gets a session of half an hour, which the open page renews.
    Without DELIVERY_TOKEN the secret at hand is used: DELIVERY_JWT_SECRET, or
    that of a `delivery up` in the same data directory.
    """
    from delivery.cli.http import Api

    with Api(url, _narrowed(token, read_only=read_only, data_dir=data_dir)) as api:
        answer = api.post("/session/links", {})
    say_json(answer) if as_json else click.echo(answer["url"])


def _narrowed(token: str | None, *, read_only: bool, data_dir: str | None) -> str:
    if token is not None:
        if read_only:
            raise click.UsageError("--read-only needs no token: the link has the token's scopes")
        return token
    from delivery.bootstrap.tokens import issue
    from delivery.config import load_settings

    scopes = ("read",) if read_only else ("read", "operate")
    settings = load_settings(data_dir=data_dir)
    ttl = min(TOKEN_TTL, settings.max_secret_token_ttl)
    return issue(settings, "dashboard", scopes=scopes, ttl=ttl)
