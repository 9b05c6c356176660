"""``GET /v1/events/{id}/messages``: the messages that carried an event, as they were sent.

Owns: these answers, and the page of a mail. Never does: keep a message; the chain does.
"""

from __future__ import annotations

import re
from html import escape
from typing import Any

from aiohttp import web

from delivery.api.operators.operations import MAIL_HEADERS
from delivery.api.operators.users import mask
from delivery.api.problems import Problem
from delivery.api.requests import json_response, path_event_id, service
from delivery.api.views import with_base
from delivery.callers.auth import Authenticator
from delivery.domain.event import format_instant
from delivery.domain.ports import Reads
from delivery.domain.records import SentMessage


class MessagesApi:
    """Handlers of both."""

    def __init__(self, auth: Authenticator, *, reads: Reads) -> None:
        self._auth = auth
        self._reads = reads

    def routes(self) -> list[web.RouteDef]:
        """Routes to mount."""
        return [
            web.get("/v1/events/{id}/messages", self.of_event),
            web.get("/v1/messages/{id}", self.page),
        ]

    async def of_event(self, request: web.Request) -> web.Response:
        """``GET /v1/events/{id}/messages``: oldest first; none where none is kept."""
        principal = await service(request, self._auth, "read")
        found = await self._reads.sent_messages(path_event_id(request))
        is_shown = principal.may("operate")
        return json_response({"messages": [_view(one, is_shown=is_shown) for one in found]})

    async def page(self, request: web.Request) -> web.Response:
        """``GET /v1/messages/{id}``: a message as a page, for a frame."""
        await service(request, self._auth, "read")
        number = request.match_info["id"]
        is_number = re.fullmatch("[0-9]{1,18}", number) is not None
        message = await self._reads.sent_message(int(number)) if is_number else None
        if message is None:
            raise Problem("not-found", "no message has this id")
        content = message.content
        body = (
            content.html or f"<!doctype html><title>Text</title><pre>{escape(content.text)}</pre>"
        )
        return web.Response(
            body=with_base(body).encode("utf-8", "replace"),
            content_type="text/html",
            charset="utf-8",
            headers=MAIL_HEADERS,
        )


def _view(one: SentMessage, *, is_shown: bool) -> dict[str, Any]:
    return {
        "id": str(one.id),
        "kind": one.channel,
        "to": one.to if is_shown else mask(one.to),
        "subject": one.content.subject,
        "text": one.content.text,
        "view": f"v1/messages/{one.id}" if one.content.html is not None else None,
        "number": one.number,
        "digest_id": one.digest_id,
        "at": format_instant(one.at),
    }
