"""One pass of ``delivery validate`` over all checks.

Owns: their order and what each needs before it makes sense. Never does: print, or a check.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import aiohttp

from delivery.cli.http import Api
from delivery.cli.validate.checks import CLIENT_TOKEN, GATEWAY, Broken, Checks, Probe
from delivery.cli.validate.watcher import Watcher
from delivery.errors import Unreachable

UNREACHABLE = 3
Check = Callable[[], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Finding:
    """One check.

    Attributes:
        level: ``ok``, ``failed`` or ``skipped``.
        mend: what to do, empty when it is fine.
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


async def validate(probe: Probe, tell: Callable[[Finding], None]) -> Report:
    """Look at everything.

    Args:
        tell: is given each finding as it is made.

    Raises:
        ConfigError: the URL is none.
    """
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        service = stack.enter_context(Api(probe.url, probe.token, timeout=probe.timeout))
        client = stack.enter_context(
            Api(probe.url, probe.client_token or "", timeout=probe.timeout)
        )
        watcher = Watcher(session, probe.url, probe.client_token or "")
        stack.push_async_callback(watcher.close)
        checks = Checks(probe, service, client, watcher)
        found: dict[str, Finding] = {}
        for name, needs, check in _plan(checks):
            missing = [need for need in needs if found[need].level != "ok"]
            if any(one.code == UNREACHABLE for one in found.values()) and not checks.is_heard:
                missing = ["a service that answers"]
            finding = (
                Finding(name, "skipped", f"needs: {', '.join(missing)}")
                if missing
                else await _look(name, check, probe)
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


async def _look(name: str, check: Check, probe: Probe) -> Finding:
    if name == "client token" and probe.client_token is None:
        mend = CLIENT_TOKEN.format(user=probe.user)
        return Finding(name, "skipped", "none; nobody listens as the user", mend)
    try:
        return Finding(name, "ok", await check())
    except Broken as broken:
        return Finding(name, "failed", str(broken), broken.mend, 1)
    except Unreachable as error:
        return Finding(name, "failed", str(error), GATEWAY, UNREACHABLE)
