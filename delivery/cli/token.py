"""``delivery token``: a signed token for trying things out and for services.

Owns: its options. Never does: sign; that is ``bootstrap``.
"""

from __future__ import annotations

import click

from delivery.cli.options import json_option
from delivery.cli.output import say_json
from delivery.domain.limits import TOKEN_TTL


@click.command()
@click.option("--user", help="A client's token: it receives this user's events.")
@click.option("--service", is_flag=True, help="A service's token, with --scope.")
@click.option("--scope", default="emit read", show_default=True, help="Of emit, read, operate.")
@click.option("--name", default="service", show_default=True, help="Who the service is.")
@click.option(
    "--ttl",
    type=click.FloatRange(min=1),
    default=TOKEN_TTL,
    show_default=True,
    help="Seconds until it expires.",
)
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
