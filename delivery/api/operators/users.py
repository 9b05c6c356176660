"""``GET /v1/users/{id}`` and ``GET /v1/connections``: who is connected, and what a user is owed.

Owns: the shapes of both answers, and which addresses are shown to whom. Never does: change
anything.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from delivery.api.operators.event_filter import MAX_PREFIX
from delivery.api.problems import Problem
from delivery.api.requests import (
    check_known,
    check_texts,
    json_response,
    owner_or,
    parse_limit,
    path_user_id,
    service,
)
from delivery.api.views import stored_view
from delivery.callers.auth import Authenticator
from delivery.domain.event import format_instant
from delivery.domain.node_messages import ConnectionInfo
from delivery.domain.ports import Reads
from delivery.domain.records import EventFilter

NEWEST = 20
"""Events of a user that are shown."""
MAX_AFTER = 600

OfUser = Callable[[str], Awaitable[list[ConnectionInfo]]]
Page = Callable[[str, str, int], tuple[list[ConnectionInfo], str | None]]
"""Connections after a place, of users whose ids begin so, at most so many; see
``ConnectionReports.page``."""


class UsersApi:
    """Handlers of both.

    Args:
        contact_of: the user's contact, as its owner sees it.
        of_user: the user's connections on all nodes.
        page: a page of all connections.
        total: how many connections all nodes have.
    """

    def __init__(
        self,
        auth: Authenticator,
        *,
        reads: Reads,
        contact_of: Callable[[str], Awaitable[dict[str, Any] | None]],
        of_user: OfUser,
        page: Page,
        total: Callable[[], Awaitable[int]],
    ) -> None:
        self._auth = auth
        self._reads = reads
        self._contact_of = contact_of
        self._of_user = of_user
        self._page = page
        self._total = total

    def routes(self) -> list[web.RouteDef]:
        """Routes to mount."""
        return [
            web.get("/v1/users/{id}", self.show),
            web.get("/v1/connections", self.connections),
        ]

    async def show(self, request: web.Request) -> web.Response:
        """``GET /v1/users/{id}``: connections, contact, open and newest events of a user."""
        user_id = path_user_id(request)
        principal = await owner_or(request, self._auth, "read", user_id)
        check_known(request.query, ())
        contact = await self._contact_of(user_id)
        if contact is not None and not (principal.is_user(user_id) or principal.may("operate")):
            contact = masked(contact)
        found, _ = await self._reads.find(EventFilter(user_id=user_id), limit=NEWEST)
        return json_response(
            {
                "user_id": user_id,
                "connections": [_view(one) for one in await self._of_user(user_id)],
                "contact": contact,
                "open": await self._reads.open_events(user_id),
                "events": [stored_view(stored) for stored in found],
            }
        )

    async def connections(self, request: web.Request) -> web.Response:
        """``GET /v1/connections``: a page of all connections, by user."""
        await service(request, self._auth, "read")
        query = request.query
        check_known(query, {"user_prefix", "after", "limit"})
        after = _text(query.get("after"), "after", MAX_AFTER)
        prefix = _text(query.get("user_prefix"), "user_prefix", MAX_PREFIX)
        found, following = self._page(after, prefix, parse_limit(query.get("limit")))
        views = [_view(one) for one in found]
        return json_response(
            {"connections": views, "next": following, "total": await self._total()}
        )


def masked(contact: dict[str, Any]) -> dict[str, Any]:
    """A contact by which an operator recognises an address and cannot write to it."""
    shown = dict(contact)
    for name in ("email", "phone"):
        if name in shown:
            shown[name] = mask(shown[name])
    for name in ("push", "unverified", "verified"):
        if name in shown:
            shown[name] = [mask(text) for text in shown[name]]
    if "suppressed" in shown:
        shown["suppressed"] = [
            one | ({"address": mask(one["address"])} if "address" in one else {})
            for one in shown["suppressed"]
        ]
    return shown


def mask(text: str) -> str:
    """``ada@example.org`` as ``a…@example.org``, ``+491701234567`` as ``+49…67``, a push target as
    its scheme."""
    scheme, separator, _ = text.partition("://")
    if separator:
        return f"{scheme}://…"
    local, at, domain = text.rpartition("@")
    if at:
        return f"{local[:1]}…@{domain}"
    return f"{text[:3]}…{text[-2:]}" if text.startswith("+") else text


def _text(value: str | None, name: str, longest: int) -> str:
    if value is None:
        return ""
    check_texts(name, value)
    if not len(value) <= longest:
        raise Problem("invalid-request", f"{name} is over {longest} characters", field=name)
    return value


def _view(one: ConnectionInfo) -> dict[str, Any]:
    since = None if one.since is None else datetime.fromtimestamp(one.since, UTC)
    return {
        "user_id": one.user,
        "node": one.node,
        "id": one.id or None,
        "device": one.device,
        "transport": one.transport,
        "since": None if since is None else format_instant(since),
        "health": one.health,
    }
