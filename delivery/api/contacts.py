"""Contacts over HTTP (contract 4.2): how a user wants to be reached.

Owns: who may read and write them, and the check of push targets at the door. Never does: send.
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from delivery.api.problems import Problem
from delivery.api.push_urls import check_push_url
from delivery.api.requests import json_response, owner_or, parse_json, path_user_id, read_body
from delivery.domain.contact import parse_contact
from delivery.gateway.parts import GatewayParts

RESOLVE_TIMEOUT = 5.0


class UsersApi:
    """Handlers of ``/v1/users/{id}/contacts``."""

    def __init__(self, parts: GatewayParts) -> None:
        self._parts = parts

    def routes(self) -> list[web.RouteDef]:
        """What to mount."""
        path = "/v1/users/{id}/contacts"
        return [web.put(path, self.put), web.get(path, self.get), web.delete(path, self.delete)]

    async def put(self, request: web.Request) -> web.Response:
        """Replace the whole contact."""
        user_id = await self._authorised(request)
        body = parse_json(await read_body(request))
        if not isinstance(body, dict):
            raise Problem("invalid-request", "the body must be a JSON object")
        contact = parse_contact(user_id, body)
        await self._check_push(contact.push)
        await self._parts.journal.call(self._parts.ledger.contacts.put, contact)
        return json_response(contact.as_wire())

    async def get(self, request: web.Request) -> web.Response:
        """Show it; 404 when none is stored."""
        user_id = await self._authorised(request)
        contact = await self._parts.journal.call(self._parts.ledger.contacts.get, user_id)
        if contact is None:
            raise Problem("not-found", "this user has no contact data")
        return json_response(contact.as_wire())

    async def delete(self, request: web.Request) -> web.Response:
        """Forget it; safe to repeat."""
        user_id = await self._authorised(request)
        await self._parts.journal.call(self._parts.ledger.contacts.delete, user_id)
        return web.Response(status=204, headers={"Cache-Control": "no-store"})

    async def _authorised(self, request: web.Request) -> str:
        user_id = path_user_id(request)
        await owner_or(request, self._parts.auth, "operate", user_id)
        return user_id

    async def _check_push(self, urls: tuple[str, ...]) -> None:
        def check() -> None:
            for url in urls:
                check_push_url(url, self._parts.push_schemes, self._parts.allow_private_push)

        if not urls:
            return
        try:
            await asyncio.wait_for(asyncio.to_thread(check), RESOLVE_TIMEOUT)
        except TimeoutError:
            raise Problem(
                "invalid-request",
                f"push: a host could not be resolved within {RESOLVE_TIMEOUT:g} s",
                field="push",
            ) from None
