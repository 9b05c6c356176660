"""Pages behind the links of mails and text messages, and the readable problem types.

Owns: ``/confirm/{token}``, ``/problems/{slug}``. A GET changes nothing:
mail scanners and previews fetch every link. Never does: ask for a sign-in; the token is the
confirmation.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from html import escape

from aiohttp import web

from delivery.api.look import Look, button
from delivery.api.problems import KINDS, Problem
from delivery.api.requests import client_address
from delivery.domain.event import format_instant
from delivery.domain.lifecycle import Confirmation
from delivery.domain.messages.conventions import read_conventions
from delivery.domain.ports import Reads, Writes
from delivery.domain.records import Digest, Stored
from delivery.errors import LedgerUnavailable, LinkExpired, LinkInvalid
from delivery.links import CONFIRM, SHORT, LinkSigner
from delivery.transports.text import direction, one_line

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts of the pages in one language. ``{}`` stands for a number or a count of updates; ``at``
    is the format of an instant."""

    lang: str
    at: str
    one_update: str
    updates: str
    ask: str
    ask_one: str
    ask_many: str
    yes: str
    thanks: str
    confirmed: str
    types: Mapping[str, str] = field(default_factory=dict)

    def count(self, number: int) -> str:
        """``one update``, ``3 updates``."""
        return self.one_update if number == 1 else self.updates.format(number)

    def type(self, name: str) -> str:
        """Name of an event type in this language."""
        return self.types.get(name) or name.replace("_", " ").capitalize()


ENGLISH = Texts(
    lang="en",
    at="%d %b, %H:%M %Z",
    one_update="one update",
    updates="{} updates",
    ask="Have you seen this?",
    ask_one="You were sent {}. Confirm that you have seen it, and you get no more reminders.",
    ask_many="You were sent {}. Confirm that you have seen them, and you get no more reminders.",
    yes="Yes, I have seen this",
    thanks="Thank you",
    confirmed="{}: confirmed on {}. You can close this page.",
)
GERMAN = Texts(
    lang="de",
    at="%d.%m., %H:%M %Z",
    one_update="eine Neuigkeit",
    updates="{} Neuigkeiten",
    ask="Haben Sie dies gesehen?",
    ask_one="Wir haben Ihnen {} geschickt. Bestätigen Sie, dass Sie sie gesehen haben, und niemand "
    "erinnert Sie mehr daran.",
    ask_many="Wir haben Ihnen {} geschickt. Bestätigen Sie, dass Sie sie gesehen haben, und "
    "niemand erinnert Sie mehr daran.",
    yes="Ja, ich habe dies gesehen",
    thanks="Vielen Dank",
    confirmed="{}: bestätigt am {}. Sie können diese Seite schließen.",
    types={
        "agent_started": "Agent hat begonnen",
        "agent_thinking": "Agent dachte nach",
        "tool_executing": "Werkzeug gestartet",
        "tool_completed": "Werkzeug fertig",
        "agent_completed": "Agent ist fertig",
        "auth_started": "Anmeldung begonnen",
        "auth_validating": "Anmeldung geprüft",
        "auth_completed": "Angemeldet",
        "auth_failed": "Anmeldung fehlgeschlagen",
    },
)
_BY_LANGUAGE = {texts.lang: texts for texts in (ENGLISH, GERMAN)}


def texts_for(locale: str | None) -> Texts:
    """The texts for a locale, such as ``de-AT``; English for other languages."""
    language = (locale or "").replace("_", "-").partition("-")[0].lower()
    return _BY_LANGUAGE.get(language, ENGLISH)


MAX_LISTED = 20


class Pages:
    """Handlers of the pages behind links.

    Args:
        on_confirmed: called with the ids that a link confirmed.
        trusted_proxies: addresses whose ``X-Forwarded-*`` count.
        look: of the pages.
    """

    def __init__(
        self,
        *,
        reads: Reads,
        writes: Writes,
        links: LinkSigner,
        on_confirmed: Callable[[Sequence[str]], None],
        trusted_proxies: Sequence[str] = (),
        look: Look | None = None,
    ) -> None:
        self._look = look or Look()
        self._reads = reads
        self._writes = writes
        self._links = links
        self._on_confirmed = on_confirmed
        self._trusted_proxies = trusted_proxies

    def routes(self) -> list[web.RouteDef]:
        """Routes to mount."""
        readable = self._look.readable
        return [
            web.get("/confirm/{token}", readable(self.show_confirm)),
            web.post("/confirm/{token}", readable(self.confirm)),
            web.get("/c/{token}", readable(self.show_confirm)),
            web.post("/c/{token}", readable(self.confirm)),
            web.get("/problems/{slug}", readable(self.problem)),
        ]

    async def show_confirm(self, request: web.Request) -> web.Response:
        """``GET /confirm/{token}``: the events of the message and a button; confirms nothing."""
        digest, listed = await self._digest(request)
        stored = await self._reads.events(listed[-MAX_LISTED:])
        texts, zone = await self._reader(digest.user_id)
        ask = texts.ask_one if len(listed) == 1 else texts.ask_many
        body = (
            f"<p>{ask.format(texts.count(len(listed)))}</p>\n"
            f"{_list(stored, texts, zone)}\n{button(texts.yes)}"
        )
        return self._look.page(texts.ask, body, lang=texts.lang, back=self._opens(stored))

    async def confirm(self, request: web.Request) -> web.Response:
        """``POST /confirm/{token}``: confirm the events of the message. Safe to repeat."""
        digest, listed = await self._digest(request)
        # Before the confirmation: a failure of this read must change nothing.
        texts, zone = await self._reader(digest.user_id)
        stored = await self._reads.events(listed[-MAX_LISTED:])
        confirmations = [
            Confirmation(id_, digest.user_id, digest.channel, digest.user_id, f"link:{digest.id}")
            for id_ in listed
        ]
        answer = await self._writes.confirm(confirmations, digest_id=digest.id)
        if answer.confirmed:
            self._on_confirmed(answer.confirmed)
        address = client_address(request, self._trusted_proxies)
        logger.info(
            "digest %s: %d events confirmed by link from %s",
            digest.id,
            len(answer.confirmed),
            address,
        )
        count = texts.count(len(listed))
        when = (await self._confirmed_at(listed[-1])).astimezone(zone).strftime(texts.at)
        body = (
            f"<p>{texts.confirmed.format(count[0].upper() + count[1:], when)}</p>\n"
            f"{_list(stored, texts, zone)}"
        )
        return self._look.page(texts.thanks, body, lang=texts.lang, back=self._opens(stored))

    async def _confirmed_at(self, event_id: str) -> datetime:
        """When an event was confirmed for the first time; now, if a read cannot tell."""
        try:
            found = await self._reads.event(event_id)
        except LedgerUnavailable:
            found = None  # the confirmation stands all the same
        if found is not None and found.confirmations:
            return found.confirmations[0].at
        return datetime.now(UTC)

    def _opens(self, stored: Sequence[Stored]) -> str | None:
        """Where the newest of these events opens in the application."""
        brand = self._look.brand
        urls = (read_conventions(item.event.data, brand).url for item in reversed(stored))
        return next((url for url in urls if url), None)

    async def problem(self, request: web.Request) -> web.Response:
        """``GET /problems/{slug}``: the meaning of a problem type, and a remedy."""
        slug = request.match_info["slug"]
        kind = KINDS.get(slug)
        if kind is None:
            raise Problem("not-found", "no problem type has this name")
        body = f"<p>{escape(kind.advice)}</p>\n<p><code>{slug}</code> · HTTP {kind.status}</p>"
        return self._look.page(kind.title, body)

    async def _digest(self, request: web.Request) -> tuple[Digest, tuple[str, ...]]:
        purpose = SHORT if request.path.startswith("/c/") else CONFIRM
        claims = self._links.read(request.match_info["token"], purpose)
        found = await self._reads.digest(claims.subject)
        if found is None:
            raise LinkInvalid("the message of this link is not in the ledger any more")
        if not found[1]:
            raise LinkExpired("all that the message of this link listed was started anew since")
        return found

    async def _reader(self, user_id: str) -> tuple[Texts, tzinfo]:
        """The texts and the time zone of the message's user."""
        contact = await self._reads.contact(user_id)
        if contact is None:
            return texts_for(None), UTC
        return texts_for(contact.locale), contact.zone


def _list(stored: Sequence[Stored], texts: Texts, zone: tzinfo) -> str:
    if not stored:
        return ""
    lines = []
    for item in stored:
        at = item.event.at
        shown = at.astimezone(zone).strftime(texts.at)
        title = item.event.data.get("title")
        own = one_line(title) if isinstance(title, str) and title.strip() else ""
        said = own or texts.type(item.event.type)
        lines.append(
            f'<li><span dir="{direction(said)}">{escape(said)}</span>'
            f'<time datetime="{format_instant(at)}">{shown}</time></li>'
        )
    return f"<ul>{''.join(lines)}</ul>"
