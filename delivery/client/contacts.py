"""Contacts of users, set from Python over HTTP.

Owns: the requests to ``/v1/users/{id}/contacts``. Never does: check a contact; the service does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import quote

from delivery.client.http import Reply, to_error
from delivery.domain.event import check_context_id
from delivery.domain.users.contact import contact_fields
from delivery.errors import InvalidEvent
from delivery.protocol import encode_json

Ask = Callable[[str, str, bytes | None], Awaitable[Reply]]
"""One request: method, path, body."""


class RemoteContacts:
    """``d.contacts``: a user's addresses and preferences. Needs a service's token with the scope
    ``operate``, or the user's own."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    async def put(
        self, user_id: str, contact: Mapping[str, Any] | None = None, **fields: Any
    ) -> dict[str, Any]:
        """Replace a user's whole contact.

        Args:
            contact: the fields as in the HTTP API; ``fields`` adds to them or stands alone:
                ``email``, ``phone``, ``push``, ``locale``, ``time_zone``, ``quiet_hours``,
                ``opt_out``, ``verified``.

        Returns:
            The contact as it is stored; ``unverified`` lists addresses that get one message which
            asks for their owner's agreement, and nothing else until then.

        Raises:
            InvalidEvent: ``field`` names what is wrong; ``InvalidContext``: the id.
            Unreachable: the service did not answer.
            Unauthenticated: the token is not good; ``RemoteError``: it lacks the scope.
        """
        try:
            body = encode_json(contact_fields(contact, fields))
        except (TypeError, ValueError) as error:
            raise InvalidEvent(f"the contact is no JSON: {error}") from error
        return dict((await self._request("PUT", user_id, body)).document)

    async def get(self, user_id: str) -> dict[str, Any] | None:
        """A user's contact; ``None`` if none is stored. Raises what ``put`` raises."""
        reply = await self._request("GET", user_id)
        return None if reply.status == 404 else dict(reply.document)

    async def delete(self, user_id: str) -> None:
        """Forget a user's contact. Safe to repeat. Raises what ``put`` raises."""
        await self._request("DELETE", user_id)

    async def _request(self, method: str, user_id: str, body: bytes | None = None) -> Reply:
        check_context_id("user_id", user_id)
        reply = await self._ask(method, f"/v1/users/{quote(user_id, safe='')}/contacts", body)
        if reply.status >= 300 and not (method == "GET" and reply.status == 404):
            raise to_error(reply.status, reply.document, retry_after=reply.retry_after)
        return reply
