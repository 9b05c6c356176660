"""Revocation of tokens and disconnection of users, by operators.

Owns: ``/v1/tokens/revoke`` and ``/v1/users/{id}/disconnect``. Never does: decide which token is
revoked at a door; the authenticator does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web

from delivery.api.problems import Problem
from delivery.api.requests import (
    json_response,
    parse_instant,
    path_user_id,
    read_object,
    service,
)
from delivery.callers.auth import Authenticator
from delivery.domain.event import check_context_id, format_instant
from delivery.domain.ports import Writes
from delivery.domain.users.revocation import Revocation, RevocationKind, check_jti

logger = logging.getLogger(__name__)

MAX_AHEAD = 300.0
"""Seconds by which ``before`` may be ahead: for the clock of an issuer that is."""


class AccessApi:
    """Handlers for operators, about who has access.

    Args:
        revoke: carries out a revocation that is recorded, on this node and the others.
        disconnect: closes a user's connections, on this node and the others.
        max_token_life: seconds after its issue at which no token is accepted any more.
    """

    def __init__(
        self,
        auth: Authenticator,
        *,
        writes: Writes,
        revoke: Callable[[Revocation], None],
        disconnect: Callable[[str], None],
        max_token_life: float,
    ) -> None:
        self._auth = auth
        self._writes = writes
        self._revoke = revoke
        self._disconnect = disconnect
        self._lifetime = timedelta(seconds=max_token_life)

    def routes(self) -> list[web.RouteDef]:
        """Routes to mount."""
        return [
            web.post("/v1/tokens/revoke", self.revoke),
            web.post("/v1/users/{id}/disconnect", self.disconnect),
        ]

    async def revoke(self, request: web.Request) -> web.Response:
        """``POST /v1/tokens/revoke``: refuse a token, or a user's, from now on. Safe to repeat."""
        operator = await service(request, self._auth, "operate")
        body = await read_object(request, ("jti", "user_id", "before"))
        kind, subject, before = _which(body)
        revoked = await self._writes.revoke(
            kind, subject, before=before, lifetime=self._lifetime, actor=operator.actor
        )
        self._revoke(revoked)
        logger.info("tokens revoked by %s: %s %s", operator.subject, kind, subject)
        return json_response(_view(revoked))

    async def disconnect(self, request: web.Request) -> web.Response:
        """``POST /v1/users/{id}/disconnect``: close the user's connections with 3503. Their token
        is not revoked."""
        operator = await service(request, self._auth, "operate")
        user_id = path_user_id(request)
        await read_object(request, (), may_be_empty=True)
        self._disconnect(user_id)
        # After the act: connections end even while the ledger is away, and the caller repeats.
        await self._writes.record_act("disconnected", user_id, {"actor": operator.actor})
        logger.info("user %s disconnected by %s", user_id, operator.subject)
        return json_response({"user_id": user_id}, status=202)


def _which(body: dict[str, Any]) -> tuple[RevocationKind, str, datetime | None]:
    names = [name for name in ("jti", "user_id") if body.get(name) is not None]
    if len(names) != 1:
        raise Problem("invalid-request", "name either a jti or a user_id", field="jti")
    given = body.get("before")
    if names == ["jti"]:
        if given is not None:
            raise Problem("invalid-request", "before belongs to user_id", field="before")
        return RevocationKind.JTI, check_jti(body["jti"]), None
    user_id = check_context_id("user_id", body["user_id"])
    before = None if given is None else parse_instant(given, "before")
    if before is not None and before > datetime.now(UTC) + timedelta(seconds=MAX_AHEAD):
        raise Problem(
            "invalid-request", f"before is over {MAX_AHEAD:g} s in the future", field="before"
        )
    return RevocationKind.USER, user_id, before


def _view(revoked: Revocation) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if revoked.kind is RevocationKind.JTI:
        found["jti"] = revoked.subject
    else:
        found["user_id"] = revoked.subject
        found["before"] = None if revoked.before is None else format_instant(revoked.before)
    return found | {"expires_at": format_instant(revoked.expires_at)}
