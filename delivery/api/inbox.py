"""The inbox over HTTP: a user's messages among the events, and what was read and archived.

Owns: ``/v1/users/{id}/inbox``. Never does: acknowledge: a message that is read was confirmed when a
client had handled it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web

from delivery.api.problems import Problem
from delivery.api.requests import (
    check_known,
    check_texts,
    count_rate,
    json_response,
    owner_or,
    parse_limit,
    path_user_id,
    read_object,
)
from delivery.api.views import stored_view
from delivery.callers.auth import Authenticator
from delivery.callers.rates import ACKS
from delivery.domain.event import check_event_id, check_event_type, format_instant
from delivery.domain.ports import UserInbox
from delivery.domain.records import InboxFilter, InboxItem
from delivery.errors import InvalidEvent

MAX_TYPES = 20
MAX_IDS = 1_000
_FLAGS = {"true": True, "false": False}


class InboxApi:
    """Handlers of ``/v1/users/{id}/inbox``.

    Args:
        tell: tells a user's clients, on all nodes, that the inbox changed.
    """

    def __init__(
        self, auth: Authenticator, *, inbox: UserInbox, tell: Callable[[str], None]
    ) -> None:
        self._auth = auth
        self._inbox = inbox
        self._tell = tell

    def routes(self) -> list[web.RouteDef]:
        """Routes to mount."""
        path = "/v1/users/{id}/inbox"
        return [web.get(path, self.show), web.post(path, self.mark)]

    async def show(self, request: web.Request) -> web.Response:
        """``GET``: a page, newest first, with the number of unread messages."""
        user_id = path_user_id(request)
        await owner_or(request, self._auth, "read", user_id)
        query = request.query
        check_known(query, {"type", "run_id", "unread", "archived", "after", "limit"})
        check_texts("run_id", query.get("run_id"))
        which = InboxFilter(
            types=_types(query.getall("type", [])),
            run_id=query.get("run_id"),
            unread=_flag("unread", query.get("unread")),
            archived=_flag("archived", query.get("archived")) or False,
        )
        limit = parse_limit(query.get("limit"))
        try:
            found, following, unread = await self._inbox.inbox(
                user_id, which, after=query.get("after"), limit=limit
            )
        except ValueError:
            detail = "after must be the next of a page before, or an event's id"
            raise Problem("invalid-request", detail, field="after") from None
        items = [_view(one) for one in found]
        return json_response({"items": items, "next": following, "unread": unread})

    async def mark(self, request: web.Request) -> web.Response:
        """``POST``: mark messages by their ids, or all up to one as read. Safe to repeat."""
        user_id = path_user_id(request)
        await owner_or(request, self._auth, "operate", user_id)
        await count_rate(request, ACKS, user_id)
        body = await read_object(request, ("ids", "read", "archived", "all", "up_to", "types"))
        read, archived = _mark("read", body), _mark("archived", body)
        if body.get("all") is not None:
            return await self._mark_all(user_id, body, read, archived)
        for name in ("up_to", "types"):
            if body.get(name) is not None:
                raise Problem("invalid-request", f"{name} goes with all", field=name)
        if read is None and archived is None:
            raise Problem("invalid-request", "say what to set: read or archived", field="read")
        given = _ids(body.get("ids"))
        wanted = {known: one for one in given if (known := _canonical(one)) is not None}
        mine = await self._inbox.mark_inbox(user_id, list(wanted), read=read, archived=archived)
        if mine:
            self._tell(user_id)
        marked = {wanted[one] for one in mine}
        return json_response(
            {
                "marked": [one for one in given if one in marked],
                "unknown": [one for one in given if one not in marked],
            }
        )

    async def _mark_all(
        self, user_id: str, body: dict[str, Any], read: bool | None, archived: bool | None
    ) -> web.Response:
        if body["all"] is not True or read is not True or archived is not None:
            raise Problem("invalid-request", "all must be true, with read: true only", field="all")
        if body.get("ids") is not None:
            raise Problem("invalid-request", "name either ids or all", field="ids")
        up_to = body.get("up_to")
        if up_to is not None:
            up_to = check_event_id(up_to)
        types = body.get("types") or []
        if not isinstance(types, list):
            raise Problem("invalid-request", "types must be a list of types", field="types")
        marked = await self._inbox.read_inbox(user_id, up_to, _types(types))
        if marked:
            self._tell(user_id)
        return json_response({"marked": marked, "unknown": []})


def _view(item: InboxItem) -> dict[str, Any]:
    return stored_view(item.stored) | {
        "read_at": None if item.read_at is None else format_instant(item.read_at),
        "archived_at": None if item.archived_at is None else format_instant(item.archived_at),
    }


def _types(given: list[Any]) -> tuple[str, ...]:
    if len(given) > MAX_TYPES:
        raise Problem("invalid-request", f"at most {MAX_TYPES} types", field="type")
    return tuple(check_event_type(one) for one in given)


def _flag(name: str, value: str | None) -> bool | None:
    if value is None:
        return None
    if value not in _FLAGS:
        raise Problem("invalid-request", f"{name} must be true or false", field=name)
    return _FLAGS[value]


def _mark(name: str, body: dict[str, Any]) -> bool | None:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise Problem("invalid-request", f"{name} must be true or false", field=name)
    return value


def _ids(given: object) -> list[str]:
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        raise Problem("invalid-request", "ids must be a list of event ids", field="ids")
    if not 1 <= len(given) <= MAX_IDS:
        raise Problem("invalid-request", f"1 to {MAX_IDS} ids in one request", field="ids")
    return given


def _canonical(event_id: str) -> str | None:
    try:
        return check_event_id(event_id)
    except InvalidEvent:
        return None
