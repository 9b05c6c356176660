"""``POST /v1/tickets``: a ticket in place of a token, for clients that cannot send headers.

Owns: what a ticket stands for, and its one use as ``?ticket=`` on ``/v1/stream``. Never does:
accept a token in an address, which logs and histories keep.
"""

from __future__ import annotations

import logging
import time

import msgspec
from aiohttp import web

from delivery.api.problems import RETRY_AFTER, Problem
from delivery.api.requests import client, count_bad_token, json_response, read_object
from delivery.callers.auth import Authenticator
from delivery.callers.principal import Principal
from delivery.domain.ports import OneTime
from delivery.errors import ChannelUnavailable

logger = logging.getLogger(__name__)

LIFETIME = 30.0
"""Seconds in which a ticket must be used."""
PURPOSE = "ticket"
PARAMETER = "ticket"
_decoder = msgspec.json.Decoder(Principal)


class Tickets:
    """Handler of ``/v1/tickets``, and who a stream's caller is."""

    def __init__(self, auth: Authenticator, once: OneTime) -> None:
        self._auth = auth
        self._once = once

    def routes(self) -> list[web.RouteDef]:
        """Routes to mount."""
        return [web.post("/v1/tickets", self.issue)]

    async def issue(self, request: web.Request) -> web.Response:
        """``POST /v1/tickets``: a ticket for one stream of the caller."""
        principal = await client(request, self._auth)
        await read_object(request, (), may_be_empty=True)
        try:
            ticket = await self._once.put(PURPOSE, msgspec.json.encode(principal), LIFETIME)
        except ChannelUnavailable as error:
            raise _unavailable(error) from error
        return json_response({"ticket": ticket})

    async def caller(self, request: web.Request) -> Principal:
        """The client of a stream: by its token, or by a ticket, which is used up.

        Raises:
            Problem: 400, 401, 403 or 503.
            Unauthenticated: the token is refused, or that of the ticket was since.
        """
        given = request.query.getall(PARAMETER, [])
        if not given:
            return await client(request, self._auth)
        if len(given) > 1 or "Authorization" in request.headers:
            raise Problem("bad-request", "send either one ticket or the header Authorization")
        try:
            found = await self._once.take(PURPOSE, given[0])
        except ChannelUnavailable as error:
            raise _unavailable(error) from error
        if found is None:
            await count_bad_token(request)
            raise Problem(
                "unauthenticated",
                f"the ticket is unknown, used, or older than {LIFETIME:g} seconds: get another one "
                "from POST /v1/tickets",
            )
        principal = _decoder.decode(found)
        if time.time() >= principal.ends_at:
            raise Problem("token-expired", "the token behind the ticket has expired")
        self._auth.check(principal)
        return principal


def _unavailable(error: ChannelUnavailable) -> Problem:
    logger.warning("tickets: %s", error)
    return Problem("unavailable", "tickets cannot be made or used now", retry_after=RETRY_AFTER)
