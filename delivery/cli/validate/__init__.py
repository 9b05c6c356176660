"""``delivery validate``: checks a running service from outside, step by step.

Owns: options, output, exit code. Never does: a check; those are in ``checks``.
"""

from __future__ import annotations

import secrets
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import click

from delivery.cli.options import api_options, json_option, required_token
from delivery.cli.output import WIDTH, say_json
from delivery.errors import ConfigError
from delivery.telemetry import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from delivery.cli.validate.probe import Target
    from delivery.cli.validate.report import Finding, Report

SERVICE_TOKEN = 'delivery token --service --scope "emit read"'  # noqa: S105
COLORS = {"ok": "green", "failed": "red", "skipped": "yellow"}
TOKEN_TTL = 600.0


@click.command()
@click.option("--user", help="User of the probe's events; a new one if left out.")
@click.option(
    "--client-token",
    envvar="DELIVERY_CLIENT_TOKEN",
    show_envvar=True,
    help="Token of that user's client, to connect with.",
)
@click.option(
    "--other-token",
    envvar="DELIVERY_OTHER_TOKEN",
    show_envvar=True,
    help="Token of another user's client, who must see nothing.",
)
@click.option("--skip", multiple=True, metavar="CHECK", help="Leave a check out; may be repeated.")
@click.option(
    "--min-rate",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="EVENTS",
    help="Events per second that must be confirmed, at least.",
)
@click.option(
    "--max-p99",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="MS",
    help="Milliseconds to the client, at most, for 99 of 100 events.",
)
@click.option(
    "--chain-timeout",
    type=click.FloatRange(min=1, max=3600),
    default=30.0,
    show_default=True,
    help="Seconds until the chain has tried an event that no client acknowledges.",
)
@click.option("--keep", is_flag=True, help="Do not erase the users that this command made.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.1, max=300),
    default=10.0,
    show_default=True,
    help="Seconds for one check.",
)
@api_options
@json_option
def validate(
    user: str | None,
    client_token: str | None,
    other_token: str | None,
    skip: tuple[str, ...],
    min_rate: float,
    max_p99: float,
    chain_timeout: float,
    keep: bool,
    timeout: float,
    url: str,
    token: str | None,
    as_json: bool,
) -> None:
    """Send a probe run and check every step of its way.

    One emitter behind every way in; an agent's events delivered and confirmed;
    rate and latency; an event that no client takes, through its chain; two users
    who never see each other's events. Exit 0: all of it holds. 1: something does not,
    or was not looked at. 3: no answer.

    The token is a service's with the scopes emit and read. Clients' tokens are
    made where the secret that signed it is at hand (beside `delivery up`), or
    given. Without one no event can be acknowledged: the events of an agent are then
    replaced by five of type validation_probe, and the user's checks are skipped.
    Users that this command made are erased in the end if the token has the scope operate.
    """
    import asyncio

    from delivery.cli.validate.probe import Target
    from delivery.cli.validate.report import validate as validate_all

    held = required_token(token, SERVICE_TOKEN)
    named = _subject(client_token, "--client-token")
    other = _subject(other_token, "--other-token")
    if user and named and user != named:
        raise click.UsageError(f"--client-token is of user {named!r}, not of {user!r}")
    user_id = user or named or f"validate-{secrets.token_hex(4)}"
    if other == user_id:
        raise click.UsageError(f"--other-token is of the same user, {other!r}")
    if client_token is None:
        client_token = _made(held, user_id)
    other_id = other or f"{user_id}-other"
    target = Target(
        url,
        held,
        client_token,
        user_id,
        timeout,
        other_token=other_token or _made(held, other_id),
        other_user=other_id,
        chain_timeout=chain_timeout,
        min_rate=min_rate,
        max_p99=max_p99 / 1_000.0,
        is_disposable=not (user or named or other or keep),
    )
    tell: Callable[[Finding], None] = (lambda finding: None) if as_json else _say
    report = asyncio.run(validate_all(target, tell, skip=skip))
    if as_json:
        say_json(_as_json(target, report))
    else:
        _say_summary(report.findings)
    if report.code:
        sys.exit(report.code)


def _as_json(target: Target, report: Report) -> dict[str, Any]:
    checks = [
        {"check": one.check, "level": one.level, "found": one.found, "mend": one.mend}
        for one in report.findings
    ]
    return {
        "ok": not report.code,
        "url": target.url,
        "user": target.user,
        "run": report.run_id,
        "checks": checks,
    }


def _subject(token: str | None, option: str) -> str | None:
    """The user that a client's token names, unverified: the service verifies it."""
    import jwt

    if token is None:
        return None
    if not token.strip():
        # Such as --client-token "$TOKEN" of a variable that is not set: never "without one".
        raise click.UsageError(f"{option} is empty: give a token or leave the option out")
    try:
        subject = jwt.decode(token, options={"verify_signature": False}).get("sub")
    except jwt.InvalidTokenError as error:
        raise ConfigError(f"{option} is not a token: copy it whole") from error
    if not isinstance(subject, str):
        raise ConfigError(f"{option} names no user (sub)")
    return subject


def _made(service_token: str, user: str) -> str | None:
    from delivery.bootstrap.tokens import issue_beside
    from delivery.config import load_settings

    return issue_beside(load_settings(), service_token, user, ttl=TOKEN_TTL)


def _say(finding: Finding) -> None:
    level = click.style(f"{finding.level:<7}", fg=COLORS[finding.level])
    click.echo(f"{level}  {finding.check:<12}  {_wrapped(finding.found)}")
    if finding.mend:
        click.echo(f"{'':23}{_wrapped(f'mend: {finding.mend}')}")


def _wrapped(text: str) -> str:
    lines = textwrap.wrap(printable(text), WIDTH - 23, break_on_hyphens=False) or [""]
    return f"\n{'':23}".join(lines)


def _say_summary(findings: list[Finding]) -> None:
    counts = {level: sum(f.level == level for f in findings) for level in COLORS}
    said = ", ".join(f"{count} {level}" for level, count in counts.items() if count)
    click.echo(f"\n{len(findings)} checks: {said}")
