"""``GET /v1/history``: figures by minute, hour, or another step.

Owns: the range and the step of an answer, and their bounds. Never does: measure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web

from delivery.api.problems import Problem
from delivery.api.requests import check_known, json_response, parse_instant, service
from delivery.callers.auth import Authenticator
from delivery.domain.event import format_instant
from delivery.domain.operators.history import (
    HOUR,
    MAX_POINTS,
    MINUTE,
    Point,
    in_steps,
    start_of,
    step_for,
)
from delivery.domain.ports import Reads

NAMED = {"minute": MINUTE, "hour": HOUR}
MAX_STEP = 7 * 24 * HOUR
LAST = timedelta(hours=1)
"""The range that is answered when none is asked for."""


class HistoryApi:
    """The handler of ``/v1/history``."""

    def __init__(self, auth: Authenticator, *, reads: Reads) -> None:
        self._auth = auth
        self._reads = reads

    def routes(self) -> list[web.RouteDef]:
        """Routes to mount."""
        return [web.get("/v1/history", self.show)]

    async def show(self, request: web.Request) -> web.Response:
        """``GET /v1/history``: the figures of a range, oldest first. A step in which nothing was
        measured is left out."""
        await service(request, self._auth, "read")
        check_known(request.query, {"from", "to", "step"})
        since, until = _range(request.query)
        step = _step(request.query.get("step"), since, until)
        kept = HOUR if step % HOUR == 0 else MINUTE
        # A step begins at a multiple of its length, so that two answers have the same ones.
        points = await self._reads.history(kept, start_of(since, step), until)
        return json_response(
            {
                "from": format_instant(since),
                "to": format_instant(until),
                "step": step,
                "points": [_view(point, step) for point in in_steps(points, step)],
            }
        )


def _range(query: Mapping[str, str]) -> tuple[datetime, datetime]:
    given, end = query.get("from"), query.get("to")
    until = datetime.now(UTC) if end is None else parse_instant(end, "to")
    try:
        since = until - LAST if given is None else parse_instant(given, "from")
    except OverflowError:
        raise Problem("invalid-request", "to is too early", field="to") from None
    if since >= until:
        raise Problem("invalid-request", "from must be before to", field="from")
    if since.timestamp() < 0:
        raise Problem("invalid-request", "from must be 1970 or later", field="from")
    return since, until


def _step(value: str | None, since: datetime, until: datetime) -> int:
    if value is None:
        step = step_for(since, until)
    elif value in NAMED:
        step = NAMED[value]
    elif re.fullmatch("[0-9]{1,6}", value) and int(value) % MINUTE == 0 and int(value) > 0:
        step = int(value)
    else:
        step = 0
    if not 0 < step <= MAX_STEP:
        detail = "step must be minute, hour, or seconds: a multiple of 60, at most a week"
        raise Problem("invalid-request", detail, field="step")
    if (until - since).total_seconds() > step * MAX_POINTS:
        detail = f"the range has over {MAX_POINTS} steps: take a longer step or a shorter range"
        raise Problem("invalid-request", detail, field="step")
    return step


def _view(point: Point, step: int) -> dict[str, Any]:
    return {
        "at": format_instant(point.at),
        "events": point.events,
        "events_per_s": point.events / step,
        "delivery_rate": point.delivery_rate,
        "fallback_share": point.fallback_share,
        "ack_ms": {"p50": point.ack_p50_ms, "p99": point.ack_p99_ms},
        "connections": point.connections,
        "dead": point.dead,
        "open_breakers": point.open_breakers,
    }
