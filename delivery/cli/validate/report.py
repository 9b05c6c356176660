"""One pass of ``delivery validate`` over all checks, and its report.

Owns: their order and which earlier checks each needs. Never does: print, or a check.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

import aiohttp

from delivery.cli.http import Api
from delivery.cli.validate.checks import CLIENT_TOKEN, Checks
from delivery.cli.validate.probe import GATEWAY, CheckFailed, Probe, Target
from delivery.cli.validate.trials import Trials
from delivery.cli.validate.watcher import Watcher
from delivery.errors import ConfigError, Unreachable

UNREACHABLE = 3
OTHER_TOKEN = "give --other-token $(delivery token --user another), or --skip isolation"  # noqa: S105
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


async def validate(
    target: Target, tell: Callable[[Finding], None], *, skip: Collection[str] = ()
) -> Report:
    """Run every check.

    Args:
        tell: called with each finding as it is made.
        skip: checks to leave out, by name; those that need them are left out, too.

    Raises:
        ConfigError: the URL is not an http(s) URL, or there is no such check.
    """
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        tokens = (target.token, target.client_token or "", target.other_token or "")
        apis = [
            stack.enter_context(Api(target.url, token, timeout=target.timeout)) for token in tokens
        ]
        watchers = [Watcher(session, target.url, token) for token in tokens[1:]]
        for watcher in watchers:
            stack.push_async_callback(watcher.close)
        probe = Probe(target, *apis)
        checks = Checks(probe, watchers[0])
        plan = _plan(checks, Trials(probe, *watchers))
        _check_names(skip, [name for name, *_ in plan])
        found: dict[str, Finding] = {}
        for name, needs, check in plan:
            missing = [need for need in needs if found[need].level != "ok"]
            if (
                any(one.code == UNREACHABLE for one in found.values())
                and not checks.can_acknowledge
            ):
                missing = ["a service that answers"]
            if name in skip:
                finding = Finding(name, "skipped", "as asked")
            elif missing:
                finding = Finding(name, "skipped", f"needs: {', '.join(missing)}")
            else:
                finding = await _run(name, check, target)
            found[name] = finding
            tell(finding)
    return Report(probe.run_id, _without_gaps(list(found.values())))


def _plan(checks: Checks, trials: Trials) -> list[tuple[str, tuple[str, ...], Check]]:
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
        ("ways in", ("client token", "accepted"), trials.ways_in),
        ("speed", ("ack",), trials.speed),
        ("chain", ("ack",), trials.chain),
        ("isolation", ("ack",), trials.isolation),
        ("left behind", ("client token",), trials.tidy),
    ]


def _check_names(skip: Collection[str], known: list[str]) -> None:
    for name in skip:
        if name not in known:
            raise ConfigError(f"no check {name!r}; known: {', '.join(known)}")


def _without_gaps(findings: list[Finding]) -> list[Finding]:
    """The findings, where a release of which half was not looked at is no good one."""
    skipped = [one for one in findings if one.level == "skipped"]
    if 2 * len(skipped) < len(findings):
        return findings
    return [replace(one, code=max(one.code, 1)) if one in skipped else one for one in findings]


async def _run(name: str, check: Check, target: Target) -> Finding:
    if name == "client token" and target.client_token is None:
        mend = CLIENT_TOKEN.format(user=target.user)
        return Finding(name, "skipped", "none, so no client connects as the user", mend, 1)
    if name == "isolation" and target.other_token is None:
        return Finding(name, "skipped", "no token of a second user", OTHER_TOKEN, 1)
    try:
        return Finding(name, "ok", await check())
    except CheckFailed as failure:
        return Finding(name, "failed", str(failure), failure.mend, 1)
    except Unreachable as error:
        return Finding(name, "failed", str(error), GATEWAY, UNREACHABLE)
