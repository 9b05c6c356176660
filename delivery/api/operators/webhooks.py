"""The application's endpoints over HTTP: how they stand, switched on and off, told again.

Owns: ``/v1/webhooks``. Never does: read the file of endpoints, which only their workers have: what
an endpoint is told stands in the ledger, as its worker knows it.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from delivery.api.problems import Problem
from delivery.api.requests import (
    check_known,
    json_response,
    parse_instant,
    parse_limit,
    read_object,
    service,
)
from delivery.callers.auth import Authenticator
from delivery.domain.event import format_instant
from delivery.domain.stores.webhooks import Webhooks
from delivery.domain.webhooks.messages import EndpointState, WebhookRow, chosen_by

logger = logging.getLogger(__name__)

REPLAY_SECONDS = 5.0
"""How long one request looks for outcomes; the next one goes on."""
FARTHEST = timedelta(days=366)


class WebhooksApi:
    """Handlers of ``/v1/webhooks``."""

    def __init__(self, auth: Authenticator, *, webhooks: Webhooks) -> None:
        self._auth = auth
        self._webhooks = webhooks

    def routes(self) -> list[web.RouteDef]:
        """Routes to mount."""
        return [
            web.get("/v1/webhooks", self.listing),
            web.get("/v1/webhooks/{name}", self.show),
            web.post("/v1/webhooks/{name}/enable", self.enable),
            web.post("/v1/webhooks/{name}/disable", self.disable),
            web.post("/v1/webhooks/{name}/replay", self.replay),
        ]

    async def listing(self, request: web.Request) -> web.Response:
        """``GET /v1/webhooks``: every endpoint that a worker knows, by name."""
        principal = await service(request, self._auth, "read")
        is_shown = principal.may("operate")
        found = await self._webhooks.webhooks()
        return json_response({"webhooks": [_view(one, is_shown=is_shown) for one in found]})

    async def show(self, request: web.Request) -> web.Response:
        """``GET /v1/webhooks/{name}``: one, with its latest messages and their attempts."""
        principal = await service(request, self._auth, "read")
        check_known(request.query, {"limit"})
        limit = parse_limit(request.query.get("limit"))
        state = await self._state(request)
        rows = await self._webhooks.webhook_messages(state.name, limit)
        view = _view(state, is_shown=principal.may("operate"))
        return json_response(view | {"messages": [_message(row) for row in rows]})

    async def enable(self, request: web.Request) -> web.Response:
        """``POST /v1/webhooks/{name}/enable``: what waits is sent now. Safe to repeat."""
        operator = await service(request, self._auth, "operate")
        await read_object(request, (), may_be_empty=True)
        before = await self._webhooks.enable_webhook((await self._state(request)).name)
        if before is None:
            raise _unknown()
        logger.info("webhook %s was switched on by %s", before.name, operator.subject)
        off_since = None if before.is_on else _text(before.changed_at)
        return json_response({"name": before.name, "state": "on", "off_since": off_since})

    async def disable(self, request: web.Request) -> web.Response:
        """``POST /v1/webhooks/{name}/disable``: until it is switched on. Safe to repeat."""
        operator = await service(request, self._auth, "operate")
        await read_object(request, (), may_be_empty=True)
        name = (await self._state(request)).name
        if not await self._webhooks.disable_webhook(name, "switched off by an operator"):
            raise _unknown()
        logger.info("webhook %s was switched off by %s", name, operator.subject)
        return json_response({"name": name, "state": "off"})

    async def replay(self, request: web.Request) -> web.Response:
        """``POST /v1/webhooks/{name}/replay``: all outcomes since an instant are told again, with
        the ids that they had."""
        operator = await service(request, self._auth, "operate")
        body = await read_object(request, ("since",))
        if body.get("since") is None:
            raise Problem("invalid-request", "since is missing", field="since")
        since = max(parse_instant(body["since"], "since"), datetime.now(UTC) - FARTHEST)
        state = await self._state(request)
        if state.facts is None:
            raise Problem(
                "invalid-request",
                "no worker has told what this endpoint wants; a worker of this release does so "
                "when it starts, and `delivery webhooks replay` needs none",
            )
        endpoint = chosen_by(state.name, state.facts)
        done = await self._webhooks.replay_webhook(endpoint, since, REPLAY_SECONDS)
        logger.info(
            "webhook %s: %d messages are told again, by %s",
            state.name,
            done.messages,
            operator.subject,
        )
        view = {"name": state.name, "state": _word(state), "messages": done.messages}
        return json_response(view | {"next": _text(done.next)}, status=202)

    async def _state(self, request: web.Request) -> EndpointState:
        """The endpoint that the path names.

        Raises:
            Problem: 404, there is none.
        """
        name = request.match_info["name"]
        for one in await self._webhooks.webhooks():
            if one.name == name:
                return one
        raise _unknown()


def _unknown() -> Problem:
    return Problem("not-found", "no worker knows this webhook: GET /v1/webhooks lists them")


def _word(state: EndpointState) -> str:
    return "on" if state.is_on else "off"


def _text(instant: datetime | None) -> str | None:
    return None if instant is None else format_instant(instant)


def _view(state: EndpointState, *, is_shown: bool) -> dict[str, Any]:
    """How an endpoint stands.

    Args:
        is_shown: whether the path of its URL is, which may be as good as a password.
    """
    facts = state.facts or {}
    url = facts.get("url")
    if url is not None and not is_shown:
        parts = urlsplit(url)
        url = f"{parts.scheme}://{parts.netloc}/…"
    return {
        "name": state.name,
        "url": url,
        "events": facts.get("events", []),
        "types": facts.get("types", []),
        "classes": facts.get("classes", []),
        "format": facts.get("format"),
        "state": _word(state),
        "reason": state.reason,
        "changed_at": _text(state.changed_at),
        "followed_at": _text(state.followed_at),
        "failing_since": _text(state.failing_since),
        "failures": state.failures,
        "waiting": state.waiting,
        "failed": state.failed,
        "oldest": _text(state.oldest),
        "last_error": state.last_error,
        "last_error_at": _text(state.last_error_at),
    }


def _message(row: WebhookRow) -> dict[str, Any]:
    return {
        "id": row.message.public_id,
        "type": row.message.kind.value,
        "at": _text(row.message.at),
        "state": row.state,
        "due_at": _text(row.due_at),
        "attempts": [
            {
                "number": one.number,
                "outcome": one.outcome,
                "status": one.status,
                "error": one.error,
                "started_at": _text(one.started_at),
                "ended_at": _text(one.ended_at),
            }
            for one in row.attempts
        ],
    }
