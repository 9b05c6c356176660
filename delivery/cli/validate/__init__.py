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
    from delivery.cli.validate.checks import Target
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
    timeout: float,
    url: str,
    token: str | None,
    as_json: bool,
) -> None:
    """Send a probe run and check every step of its way.

    The token is a service's with the scopes emit and read. A client's token is
    made where the secret that signed it is at hand (beside `delivery up`), or
    given. Without one no event can be acknowledged: the events of an agent are then
    replaced by five of type validation_probe, and the user's checks are skipped.
    """
    import asyncio

    from delivery.cli.validate.checks import Target
    from delivery.cli.validate.report import validate as validate_all

    if client_token is not None and not client_token.strip():
        # Such as --client-token "$TOKEN" of a variable that is not set: never "without one".
        raise click.UsageError("--client-token is empty: give a token or leave the option out")
    held = required_token(token, SERVICE_TOKEN)
    named = _subject(client_token) if client_token else None
    if user and named and user != named:
        raise click.UsageError(f"--client-token is of user {named!r}, not of {user!r}")
    user_id = user or named or f"validate-{secrets.token_hex(4)}"
    if client_token is None:
        client_token = _made(held, user_id)
    target = Target(url, held, client_token, user_id, timeout)
    report = asyncio.run(validate_all(target, (lambda finding: None) if as_json else _say))
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


def _subject(token: str) -> str:
    """The user that a client's token names, unverified: the service verifies it."""
    import jwt

    try:
        subject = jwt.decode(token, options={"verify_signature": False}).get("sub")
    except jwt.InvalidTokenError as error:
        raise ConfigError("--client-token is not a token: copy it whole") from error
    if not isinstance(subject, str):
        raise ConfigError("--client-token names no user (sub)")
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
