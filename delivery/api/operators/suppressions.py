"""Suppressed addresses over HTTP: listed, and taken off the list.

Owns: ``/v1/suppressions``. Never does: put an address on the list (receipts do).
"""

from __future__ import annotations

import logging
from typing import Any

from aiohttp import web

from delivery.api.problems import Problem
from delivery.api.requests import caller, check_known, json_response, parse_limit, service
from delivery.callers.auth import Authenticator
from delivery.domain.event import format_instant
from delivery.domain.ports import Reads, Writes
from delivery.domain.users.receipts import Suppression

logger = logging.getLogger(__name__)


class SuppressionsApi:
    """Handlers of ``/v1/suppressions``."""

    def __init__(self, auth: Authenticator, *, reads: Reads, writes: Writes) -> None:
        self._auth = auth
        self._reads = reads
        self._writes = writes

    def routes(self) -> list[web.RouteDef]:
        """Routes to mount."""
        return [
            web.get("/v1/suppressions", self.listing),
            web.delete("/v1/suppressions/{address}", self.remove),
        ]

    async def listing(self, request: web.Request) -> web.Response:
        """``GET /v1/suppressions``: addresses that get no message now, newest first."""
        principal = await caller(request, self._auth)
        if not (principal.may("read") or principal.may("operate")):
            raise Problem("forbidden", "this needs a service token with the scope 'read'")
        check_known(request.query, {"after", "limit"})
        limit = parse_limit(request.query.get("limit"))
        try:
            found, following = await self._reads.suppressions(
                after=request.query.get("after"), limit=limit
            )
        except ValueError:
            raise Problem(
                "invalid-request", "after must be the next of the page before", field="after"
            ) from None
        views = [{"address": one.address, **suppression_view(one)} for one in found]
        return json_response({"suppressions": views, "next": following})

    async def remove(self, request: web.Request) -> web.Response:
        """``DELETE /v1/suppressions/{address}``: the address may get messages again."""
        operator = await service(request, self._auth, "operate")
        address = request.match_info["address"]
        if not await self._writes.unsuppress(address, actor=operator.actor):
            raise Problem("not-found", "this address is not suppressed")
        logger.info("a suppressed address was taken off the list by %s", operator.subject)
        return web.Response(status=204, headers={"Cache-Control": "no-store"})


def suppression_view(one: Suppression) -> dict[str, Any]:
    """Why an address on a channel gets no message."""
    return {
        "channel": one.channel,
        "reason": one.reason.value,
        "code": one.code,
        "provider": one.provider,
        "since": format_instant(one.since),
        "expires_at": None if one.expires_at is None else format_instant(one.expires_at),
    }
