"""Events of a service, read and replayed through its HTTP API.

Owns: the requests. Never does: emit; that is ``RemoteEmitter``.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

from delivery.client.contacts import Ask
from delivery.client.http import Reply, to_error
from delivery.domain.event import check_event_id


class RemoteEvents:
    """``d.events``: what the ledger knows. Needs a service's token with the scope ``read``; replay
    needs ``operate``.

    Every call raises ``Unreachable`` without an answer, ``Unauthenticated`` for a token that is not
    good, and ``RemoteError`` for what the service refuses.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    async def list(
        self,
        *,
        user_id: str | None = None,
        run_id: str | None = None,
        state: str | None = None,
        type: str | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> dict[str, Any]:
        """A page of events, newest first.

        Args:
            state: accepted, sent, falling_back, confirmed, parked, dead or expired.
            after: ``next`` of the page before.

        Returns:
            ``events`` as in ``GET /v1/events``, and ``next``: ``None`` behind the last page.
        """
        wanted = {
            "user_id": user_id,
            "run_id": run_id,
            "state": state,
            "type": type,
            "after": after,
            "limit": limit,
        }
        query = urlencode({name: value for name, value in wanted.items() if value is not None})
        return await self._document("GET", f"/v1/events?{query}")

    async def show(self, event_id: str) -> dict[str, Any] | None:
        """An event with its attempts and confirmations; ``None`` if there is none."""
        reply = await self._ask("GET", _path(event_id), None)
        if reply.status == 404:
            return None
        return _read(reply)

    async def replay(self, event_id: str) -> dict[str, Any]:
        """Deliver an event anew: its chain and its time to live start again.

        Effect: the event's generation goes up by one; its links of before no longer confirm it.
        """
        return await self._document("POST", f"{_path(event_id)}/replay", b"{}")

    async def stats(self) -> dict[str, Any]:
        """The figures of the last minutes, as in ``GET /v1/stats``."""
        return await self._document("GET", "/v1/stats")

    async def _document(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        return _read(await self._ask(method, path, body))


def _path(event_id: str) -> str:
    return f"/v1/events/{quote(check_event_id(event_id), safe='')}"


def _read(reply: Reply) -> dict[str, Any]:
    if reply.status >= 300:
        raise to_error(reply.status, reply.document, retry_after=reply.retry_after)
    return dict(reply.document)
