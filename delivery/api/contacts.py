"""Contacts over HTTP: addresses and preferences of a user (``Contact`` in the OpenAPI document).

Owns: who may read and write them, and the check of push targets. Never does: send.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import unquote, urlsplit

from aiohttp import web

from delivery.api.operators.suppressions import suppression_view
from delivery.api.problems import Problem
from delivery.api.requests import json_response, owner_or, parse_json, path_user_id, read_body
from delivery.callers.auth import Authenticator
from delivery.callers.principal import Principal
from delivery.domain.event import check_context_id
from delivery.domain.inputs.push_target import SCHEMES, is_public, scheme_of, shape_fault
from delivery.domain.ports import Reads, Writes
from delivery.domain.users.contact import Contact, contact_fields, parse_contact
from delivery.errors import InvalidEvent

# Services with one fixed address: their URLs have a key in place of the host.
_FIXED_HOST = frozenset({"discord", "gchat", "pbul", "pover", "slack", "tgram", "wxteams"})


def check_push_url(url: str, schemes: Collection[str], allow_private: bool = False) -> None:
    """Refuse a push target that is not allowed. Resolves names: call it in a thread.

    Args:
        url: an Apprise URL.
        schemes: the schemes that are allowed.
        allow_private: also take targets in private networks (tests, closed networks).

    Raises:
        InvalidEvent: ``field`` is ``push``; the message never repeats the URL, which holds secrets.
    """
    fault = shape_fault(url, schemes)
    if fault is not None:
        raise InvalidEvent(f"push: {fault}", field="push")
    if scheme_of(url) in _FIXED_HOST:
        return
    addresses = _addresses(_host(url))
    if not allow_private and not all(is_public(address) for address in addresses):
        raise InvalidEvent(
            "push: the host is in a private network; name one that is reachable from outside",
            field="push",
        )


def _host(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host:
        raise InvalidEvent("push: the URL's host or port is malformed", field="push")
    # Apprise decodes %-escapes in the host, so that is what must be looked at.
    return unquote(host).strip(".")


def _addresses(host: str) -> list[str]:
    """All addresses of a host; none for a word that is no host (a token, a topic)."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [str(entry[4][0]) for entry in found]


RESOLVE_TIMEOUT = 5.0
SUPPRESSED = "suppressed"
UNVERIFIED = "unverified"
EMBEDDED = "service embedded"
"""Who changes a contact from Python in the gateway's process, in the compliance log."""


class Contacts:
    """Contacts from Python in the gateway's process; the surface of the remote one's ``contacts``.

    Args:
        push_schemes: Apprise schemes that a contact may name.
        allow_private_push: also take push targets in private networks (tests, closed networks).
        on_unverified: called after a contact was set that has an unverified address.
    """

    def __init__(
        self,
        *,
        reads: Reads,
        writes: Writes,
        push_schemes: Collection[str] = SCHEMES,
        allow_private_push: bool = False,
        on_unverified: Callable[[], None] = lambda: None,
    ) -> None:
        self._reads = reads
        self._writes = writes
        self._push_schemes = push_schemes
        self._allow_private_push = allow_private_push
        self._on_unverified = on_unverified

    async def put(
        self, user_id: str, contact: Mapping[str, Any] | None = None, **fields: Any
    ) -> dict[str, Any]:
        """Replace a user's whole contact; see ``RemoteContacts.put``.

        Raises:
            InvalidEvent: names the field and what to send; ``InvalidContext``: the id.
        """
        check_context_id("user_id", user_id)
        found = parse_contact(user_id, without_read_only(contact_fields(contact, fields)))
        return await self.set(found, actor=EMBEDDED)

    async def get(self, user_id: str) -> dict[str, Any] | None:
        """The user's contact, as ``PUT`` takes it; ``None`` if none is stored."""
        contact = await self._reads.contact(check_context_id("user_id", user_id))
        return None if contact is None else await self.view(contact)

    async def delete(self, user_id: str, *, actor: str = EMBEDDED) -> None:
        """Forget the contact. Safe to repeat."""
        await self._writes.delete_contact(check_context_id("user_id", user_id), actor=actor)

    async def set(
        self, contact: Contact, *, actor: str, keeps_verified: bool = False
    ) -> dict[str, Any]:
        """Store a checked contact; see ``ContactStore.put``. Its push targets are checked here.

        Returns:
            The stored one; see ``view``.
        """
        await self._check_push(contact.push)
        stored = await self._writes.put_contact(contact, actor=actor, keeps_verified=keeps_verified)
        if stored.unverified():
            self._on_unverified()
        return await self.view(stored)

    async def view(self, contact: Contact) -> dict[str, Any]:
        """The contact, with its unverified addresses, and those that get no message now and why."""
        found = await self._reads.suppressed(contact)
        more = {
            UNVERIFIED: [address for _, address in contact.unverified()],
            SUPPRESSED: [suppression_view(one) for one in found.values()],
        }
        return contact.as_wire() | {name: value for name, value in more.items() if value}

    async def _check_push(self, urls: tuple[str, ...]) -> None:
        def check() -> None:
            for url in urls:
                check_push_url(url, self._push_schemes, self._allow_private_push)

        if not urls:
            return
        try:
            async with asyncio.timeout(RESOLVE_TIMEOUT):
                await asyncio.to_thread(check)
        except TimeoutError:
            raise Problem(
                "invalid-request",
                f"push: a host could not be resolved within {RESOLVE_TIMEOUT:g} s",
                field="push",
            ) from None


class ContactsApi:
    """Handlers of ``/v1/users/{id}/contacts``.

    A service vouches for the addresses that it sets; those that a user's own token sets are
    unverified, unless they were verified before.
    """

    def __init__(self, auth: Authenticator, contacts: Contacts) -> None:
        self._auth = auth
        self._contacts = contacts

    def routes(self) -> list[web.RouteDef]:
        """Routes to mount."""
        path = "/v1/users/{id}/contacts"
        return [web.put(path, self.put), web.get(path, self.get), web.delete(path, self.delete)]

    async def put(self, request: web.Request) -> web.Response:
        """``PUT``: replace the whole contact."""
        user_id, principal = await self._authorised(request)
        body = parse_json(await read_body(request))
        if not isinstance(body, dict):
            raise Problem("invalid-request", "the body must be a JSON object")
        body = without_read_only(body)
        if principal.is_client and body.get("verified") is True:
            raise Problem(
                "forbidden", "only a service may say that an address is verified", field="verified"
            )
        contact = parse_contact(user_id, body)
        if principal.is_client:
            contact = replace(contact, verified=())
        stored = await self._contacts.set(
            contact, actor=principal.actor, keeps_verified=principal.is_client
        )
        return json_response(stored)

    async def get(self, request: web.Request) -> web.Response:
        """``GET``: the contact; 404 when none is stored."""
        user_id, _ = await self._authorised(request)
        contact = await self._contacts.get(user_id)
        if contact is None:
            raise Problem("not-found", "this user has no contact data")
        return json_response(contact)

    async def delete(self, request: web.Request) -> web.Response:
        """``DELETE``: forget the contact. Safe to repeat."""
        user_id, principal = await self._authorised(request)
        await self._contacts.delete(user_id, actor=principal.actor)
        return web.Response(status=204, headers={"Cache-Control": "no-store"})

    async def _authorised(self, request: web.Request) -> tuple[str, Principal]:
        user_id = path_user_id(request)
        return user_id, await owner_or(request, self._auth, "operate", user_id)


def without_read_only(body: Mapping[str, Any]) -> dict[str, Any]:
    """A body without what only answers have, so that an answer can be sent back as it came."""
    return {name: value for name, value in body.items() if name not in (SUPPRESSED, UNVERIFIED)}
