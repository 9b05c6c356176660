"""Erasure of a user over HTTP, for operators.

Owns: ``DELETE /v1/users/{id}`` and the order of its steps. Never does: know what is stored where.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Collection

from aiohttp import web

from delivery.api.problems import Problem
from delivery.api.requests import json_response, path_user_id, service
from delivery.callers.auth import Authenticator
from delivery.domain.ports import Reads, Writes
from delivery.errors import ChannelUnavailable

logger = logging.getLogger(__name__)

PAGE = 500
MAX_SECONDS = 25.0
"""After it the caller repeats: proxies and clients wait for no answer for much longer."""


class ErasureApi:
    """The handler of ``DELETE /v1/users/{id}``.

    Args:
        disconnect: closes a user's connections, on this node and the others.
        forget_copies: deletes a user's queue copies.
        forget_messages: deletes what local sinks keep for these addresses.
    """

    def __init__(
        self,
        auth: Authenticator,
        *,
        reads: Reads,
        writes: Writes,
        disconnect: Callable[[str], None],
        forget_copies: Callable[[str], Awaitable[None]],
        forget_messages: Callable[[Collection[str]], None] | None = None,
    ) -> None:
        self._auth = auth
        self._reads = reads
        self._writes = writes
        self._disconnect = disconnect
        self._forget_copies = forget_copies
        self._forget_messages = forget_messages

    def routes(self) -> list[web.RouteDef]:
        """Routes to mount."""
        return [web.delete("/v1/users/{id}", self.erase)]

    async def erase(self, request: web.Request) -> web.Response:
        """``DELETE /v1/users/{id}``: erase all that is kept about a user. Safe to repeat."""
        operator = await service(request, self._auth, "operate")
        user_id = path_user_id(request)
        await self._forget_sinks(user_id)
        events = await self._erase_events(user_id)
        try:
            await self._forget_copies(user_id)
        except ChannelUnavailable as error:
            raise Problem(
                "unavailable",
                "the queue copies of the user's events cannot be deleted now: repeat the request",
                headers={"Retry-After": "5"},
            ) from error
        # A client that is connected would acknowledge events that are gone.
        self._disconnect(user_id)
        erased = await self._writes.erase_rest(user_id, events=events, actor=operator.actor)
        logger.info("a user was erased by %s: %d events", operator.subject, events)
        return json_response(
            {
                "user_id": user_id,
                "events": erased.events,
                "digests": erased.digests,
                "contact": erased.has_contact,
                "unkeyed_rows": erased.unkeyed_rows,
            }
        )

    async def _erase_events(self, user_id: str) -> int:
        end, total = time.monotonic() + MAX_SECONDS, 0
        while True:
            count = await self._writes.erase_events(user_id, PAGE)
            total += count
            if count < PAGE:
                return total
            if time.monotonic() > end:
                raise Problem(
                    "unavailable",
                    f"{total} events are deleted and more are left: repeat the request",
                    headers={"Retry-After": "1"},
                )

    async def _forget_sinks(self, user_id: str) -> None:
        if self._forget_messages is None:
            return
        contact = await self._reads.contact(user_id)
        if contact is not None:
            self._forget_messages([one for one in (contact.email, contact.phone) if one])
