"""One pass of ``delivery validate`` over all checks, and its report.

Owns: their order and which earlier checks each needs. Never does: print, or a check.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import aiohttp

from delivery.cli.http import Api
from delivery.cli.validate.checks import CLIENT_TOKEN, GATEWAY, CheckFailed, Checks, Target
from delivery.cli.validate.watcher import Watcher
from delivery.errors import Unreachable

UNREACHABLE = 3
Check = Callable[[], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Finding:
    """One check.

    Attributes:
        level: ``ok``, ``failed`` or ``skipped``.
        mend: advice, empty when it is fine.
        code: the exit code it asks for.
    """

    check: str
    level: str
    found: str
    mend: str = ""
    code: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """All findings of one pass over one run."""

    run_id: str
    findings: list[Finding]

    @property
    def code(self) -> int:
        """The exit code: the worst of all."""
        return max((finding.code for finding in self.findings), default=0)


async def validate(target: Target, tell: Callable[[Finding], None]) -> Report:
    """Run every check.

    Args:
        tell: called with each finding as it is made.

    Raises:
        ConfigError: the URL is not an http(s) URL.
    """
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        service = stack.enter_context(Api(target.url, target.token, timeout=target.timeout))
        client = stack.enter_context(
            Api(target.url, target.client_token or "", timeout=target.timeout)
        )
        watcher = Watcher(session, target.url, target.client_token or "")
        stack.push_async_callback(watcher.close)
        checks = Checks(target, service, client, watcher)
        found: dict[str, Finding] = {}
        for name, needs, check in _plan(checks):
            missing = [need for need in needs if found[need].level != "ok"]
            if (
                any(one.code == UNREACHABLE for one in found.values())
                and not checks.can_acknowledge
            ):
                missing = ["a service that answers"]
            finding = (
                Finding(name, "skipped", f"needs: {', '.join(missing)}")
                if missing
                else await _run(name, check, target)
            )
            found[name] = finding
            tell(finding)
    return Report(checks.run_id, list(found.values()))


def _plan(checks: Checks) -> list[tuple[str, tuple[str, ...], Check]]:
    return [
        ("healthz", (), checks.healthz),
        ("readyz", (), checks.readyz),
        ("token", (), checks.scopes),
        ("client token", (), checks.client_token),
        # Connected before anything is sent, so that the events are pushed and not replayed.
        ("websocket", ("client token",), checks.websocket),
        ("accepted", ("token",), checks.accepted),
        ("order", ("accepted",), checks.order),
        ("duplicate", ("accepted",), checks.duplicate),
        ("conflict", ("accepted",), checks.conflict),
        ("delivered", ("websocket", "accepted"), checks.delivered),
        ("ack", ("delivered",), checks.ack),
        ("timeline", ("ack",), checks.timeline),
        ("stream", ("client token", "accepted"), checks.stream),
        ("left behind", ("client token",), checks.tidy),
    ]


async def _run(name: str, check: Check, target: Target) -> Finding:
    if name == "client token" and target.client_token is None:
        mend = CLIENT_TOKEN.format(user=target.user)
        return Finding(name, "skipped", "none, so no client connects as the user", mend)
    try:
        return Finding(name, "ok", await check())
    except CheckFailed as failure:
        return Finding(name, "failed", str(failure), failure.mend, 1)
    except Unreachable as error:
        return Finding(name, "failed", str(error), GATEWAY, UNREACHABLE)
