"""Push messages to browsers over HTTP: the public key, and a user's subscriptions.

Owns: ``/v1/push/key`` and ``/v1/users/{id}/push``. Never does: send, or show an endpoint, which is
a secret between the browser and those that send to it.
"""

from __future__ import annotations

import asyncio
import socket
from urllib.parse import urlsplit

from aiohttp import web

from delivery.api.contacts import RESOLVE_TIMEOUT
from delivery.api.problems import Problem
from delivery.api.requests import json_response, owner_or, path_user_id, read_object
from delivery.callers.auth import Authenticator
from delivery.domain.inputs.push_target import is_public
from delivery.domain.ports import Reads, Writes
from delivery.domain.users.contact import Contact
from delivery.domain.users.web_push import FIELDS, MAX_SUBSCRIPTIONS, parse_endpoint, parse_web_push
from delivery.errors import InvalidEvent

NOT_SET_UP = "push messages to browsers are not set up here: DELIVERY_VAPID_PRIVATE_KEY is not set"


class WebPushApi:
    """Handlers of browsers' subscriptions.

    Args:
        public_key: the VAPID key that browsers subscribe with; ``None``: not set up.
        allow_private: also take services in private networks (tests, closed networks).
    """

    def __init__(
        self,
        auth: Authenticator,
        *,
        reads: Reads,
        writes: Writes,
        public_key: str | None,
        allow_private: bool = False,
    ) -> None:
        self._auth = auth
        self._reads = reads
        self._writes = writes
        self._public_key = public_key
        self._allow_private = allow_private

    def routes(self) -> list[web.RouteDef]:
        """Routes to mount."""
        path = "/v1/users/{id}/push"
        return [
            web.get("/v1/push/key", self.key),
            web.get(path, self.show),
            web.post(path, self.add),
            web.post(f"{path}/forget", self.forget),
        ]

    async def key(self, request: web.Request) -> web.Response:
        """``GET /v1/push/key``: the public key, without a token: push services see it too."""
        return json_response({"key": self._key()})

    async def show(self, request: web.Request) -> web.Response:
        """``GET``: the user's subscriptions, without their secrets."""
        user_id = path_user_id(request)
        await owner_or(request, self._auth, "read", user_id)
        return json_response(_view(await self._reads.contact(user_id) or Contact(user_id)))

    async def add(self, request: web.Request) -> web.Response:
        """``POST``: keep a browser's subscription. Safe to repeat: a page does at each visit."""
        user_id = path_user_id(request)
        principal = await owner_or(request, self._auth, "operate", user_id)
        self._key()
        new = parse_web_push(await read_object(request, FIELDS))
        await self._require_public(new.endpoint)
        contact = await self._writes.add_web_push(user_id, new, actor=principal.actor)
        return json_response({"id": new.id, **_view(contact)})

    async def forget(self, request: web.Request) -> web.Response:
        """``POST …/forget``: forget a subscription by its endpoint, or by ``id``."""
        user_id = path_user_id(request)
        principal = await owner_or(request, self._auth, "operate", user_id)
        body = await read_object(request, {"endpoint", "id"})
        if set(body) not in ({"endpoint"}, {"id"}):
            raise Problem("invalid-request", 'write {"endpoint": "…"} or {"id": "…"}')
        if not isinstance(body.get("id", ""), str):
            raise Problem("invalid-request", "id must be a string", field="id")
        contact = await self._reads.contact(user_id) or Contact(user_id)
        wanted = parse_endpoint(body["endpoint"]) if "endpoint" in body else None
        found = next(
            (one for one in contact.web_push if wanted == one.endpoint or body.get("id") == one.id),
            None,
        )
        if found is None:
            return json_response({"forgotten": False})
        gone = await self._writes.forget_web_push(user_id, found.endpoint, actor=principal.actor)
        return json_response({"forgotten": gone})

    def _key(self) -> str:
        if self._public_key is None:
            raise Problem("not-found", NOT_SET_UP)
        return self._public_key

    async def _require_public(self, endpoint: str) -> None:
        """Refuse a service inside of a private network now, where its user can be told; whatever
        the name leads to later is checked at each connect."""
        host = urlsplit(endpoint).hostname or ""
        try:
            async with asyncio.timeout(RESOLVE_TIMEOUT):
                found = await asyncio.to_thread(_addresses, host)
        except TimeoutError:
            found = []
        if not found:
            raise InvalidEvent(
                "endpoint: its host cannot be resolved now; subscribe again later",
                field="endpoint",
            )
        if not self._allow_private and not all(map(is_public, found)):
            raise InvalidEvent(
                "endpoint: its host is in a private network; push services are public",
                field="endpoint",
            )


def _addresses(host: str) -> list[str]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [str(entry[4][0]) for entry in found]


def _view(contact: Contact) -> dict[str, object]:
    shown = [one.as_wire() for one in contact.web_push]
    return {"subscriptions": shown, "limit": MAX_SUBSCRIPTIONS}
