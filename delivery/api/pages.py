"""Pages behind the links of mails and text messages, and the readable problem types.

Owns: ``/confirm/{token}``, ``/unsubscribe/{token}``, ``/problems/{slug}``. A GET changes nothing:
mail scanners and previews fetch every link. Never does: ask for a sign-in; the token is the proof.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, tzinfo
from html import escape

from aiohttp import web

from delivery.api.page_shell import button, page
from delivery.api.page_words import Words, words_for
from delivery.api.problems import KINDS, Problem, problem_of
from delivery.api.requests import client_address
from delivery.domain.event import format_instant
from delivery.domain.lifecycle import Confirmation
from delivery.domain.records import Digest, Stored
from delivery.errors import DeliveryError, LinkInvalid
from delivery.gateway.parts import GatewayParts
from delivery.links import CONFIRM, UNSUBSCRIBE

logger = logging.getLogger(__name__)

MAX_LISTED = 20
_Page = Callable[[web.Request], Awaitable[web.Response]]


class Pages:
    """Handlers of the pages that people see."""

    def __init__(self, parts: GatewayParts) -> None:
        self._parts = parts

    def routes(self) -> list[web.RouteDef]:
        """What to mount."""
        return [
            web.get("/confirm/{token}", _readable(self.show_confirm)),
            web.post("/confirm/{token}", _readable(self.confirm)),
            web.get("/unsubscribe/{token}", _readable(self.show_unsubscribe)),
            web.post("/unsubscribe/{token}", _readable(self.unsubscribe)),
            web.get("/problems/{slug}", _readable(self.problem)),
        ]

    async def show_confirm(self, request: web.Request) -> web.Response:
        """What the message was about, and a button; confirms nothing."""
        digest, listed = await self._digest(request)
        stored = await self._parts.journal.call(self._parts.ledger.events.read, listed[:MAX_LISTED])
        words, zone = await self._reader(digest.user_id)
        ask = words.ask_one if len(listed) == 1 else words.ask_many
        body = (
            f"<p>{ask.format(words.count(len(listed)))}</p>\n"
            f"{_list(stored, words, zone)}\n{button(words.yes)}"
        )
        return page(words.ask, body, lang=words.lang)

    async def confirm(self, request: web.Request) -> web.Response:
        """Confirm exactly the events that the message listed; a repeat has no second effect."""
        parts = self._parts
        digest, listed = await self._digest(request)
        words, _ = await self._reader(digest.user_id)  # first: what is done is also said
        proofs = [
            Confirmation(id_, digest.user_id, digest.channel, digest.user_id, f"link:{digest.id}")
            for id_ in listed
        ]
        answer = await parts.journal.call(parts.ledger.events.confirm, proofs)
        if answer.confirmed:
            parts.on_confirmed(answer.confirmed)
        address = client_address(request, parts.trusted_proxies)
        logger.info("digest %s: %d events confirmed by link from %s",
                    digest.id, len(answer.confirmed), address)  # fmt: skip
        count = words.count(len(listed))
        body = f"<p>{words.confirmed.format(count[0].upper() + count[1:])}</p>"
        return page(words.thanks, body, lang=words.lang)

    async def show_unsubscribe(self, request: web.Request) -> web.Response:
        """Ask first; changes nothing."""
        user_id, channel = self._subscription(request)
        words, _ = await self._reader(user_id)
        name = words.channels.get(channel, channel)
        body = f"<p>{escape(words.stopping.format(name))}</p>\n{button(words.unsubscribe)}"
        return page(words.stop.format(name), body, lang=words.lang)

    async def unsubscribe(self, request: web.Request) -> web.Response:
        """Opt out, by the button or by a mail client's one click (RFC 8058)."""
        user_id, channel = self._subscription(request)
        words, _ = await self._reader(user_id)
        await self._parts.journal.call(self._parts.ledger.contacts.opt_out, user_id, channel)
        stopped = words.stopped.format(words.channels.get(channel, channel))
        return page(words.done, f"<p>{escape(stopped)}</p>", lang=words.lang)

    async def problem(self, request: web.Request) -> web.Response:
        """What a problem type means and what to do about it."""
        slug = request.match_info["slug"]
        kind = KINDS.get(slug)
        if kind is None:
            raise Problem("not-found", "no problem type has this name")
        body = f"<p>{escape(kind.advice)}</p>\n<p><code>{slug}</code> · HTTP {kind.status}</p>"
        return page(kind.title, body)

    async def _digest(self, request: web.Request) -> tuple[Digest, tuple[str, ...]]:
        claims = self._parts.links.read(request.match_info["token"], CONFIRM)
        found = await self._parts.journal.call(self._parts.ledger.digests.get, claims.subject)
        if found is None:
            raise LinkInvalid("the message behind this link is no longer known")
        return found

    async def _reader(self, user_id: str) -> tuple[Words, tzinfo]:
        """The words and the time zone of the user whom the message was for."""
        contact = await self._parts.journal.call(self._parts.ledger.contacts.get, user_id)
        if contact is None:
            return words_for(None), UTC
        return words_for(contact.locale), contact.zone

    def _subscription(self, request: web.Request) -> tuple[str, str]:
        claims = self._parts.links.read(request.match_info["token"], UNSUBSCRIBE)
        return claims.subject, claims.channel or ""


def _readable(handler: _Page) -> _Page:
    """People get a page where programs would get a problem document."""

    async def handle(request: web.Request) -> web.Response:
        try:
            return await handler(request)
        except (DeliveryError, TimeoutError) as error:
            problem = problem_of(error)
            if problem.status >= 500:
                logger.warning("page %s: %s", type(error).__name__, error)
            kind = KINDS[problem.slug]
            headers = {"Retry-After": "2"} if problem.status == 503 else {}
            body = f"<p>{escape(kind.advice)}</p>"
            return page(kind.title, body, status=kind.status, headers=headers)

    return handle


def _list(stored: Sequence[Stored], words: Words, zone: tzinfo) -> str:
    if not stored:
        return ""
    lines = []
    for item in stored:
        at = item.event.at
        shown = at.astimezone(zone).strftime(words.at)
        lines.append(
            f"<li><span>{escape(words.type(item.event.type))}</span>"
            f'<time datetime="{format_instant(at)}">{shown}</time></li>'
        )
    return f"<ul>{''.join(lines)}</ul>"
