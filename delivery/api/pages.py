"""Pages behind the links of mails and text messages, and the readable problem types.

Owns: the look of all such pages, ``/confirm/{token}``, ``/problems/{slug}``. A GET changes nothing:
mail scanners and previews fetch every link. Never does: ask for a sign-in; the token is the
confirmation.
"""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from html import escape

from aiohttp import web

from delivery.api.problems import KINDS, Problem, problem_of
from delivery.api.requests import client_address
from delivery.domain.event import format_instant
from delivery.domain.lifecycle import Confirmation
from delivery.domain.messages.brand import Brand
from delivery.domain.messages.conventions import read_conventions
from delivery.domain.ports import Reads, Writes
from delivery.domain.records import Digest, Stored
from delivery.errors import DeliveryError, LedgerUnavailable, LinkExpired, LinkInvalid
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
    open: str
    open_application: str
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
    open="Open {}",
    open_application="Open the application",
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
    open="{} öffnen",
    open_application="Zur Anwendung",
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


_CSS = """
:root{color-scheme:light dark;--bg:#f4f5f7;--card:#fff;--ink:#16181d;--soft:#5b6270;--line:#dfe2e8;
--accent:#2557d6;--on-accent:#fff;--focus:#7aa2ff}
@media (prefers-color-scheme:dark){:root{--bg:#101218;--card:#191c24;--ink:#eceef3;--soft:#a3aab8;
--line:#2c313d;--accent:#8fb0ff;--on-accent:#0d1530;--focus:#c4d6ff}}
*{box-sizing:border-box}
body{margin:0;min-height:100vh;display:grid;place-items:center;padding:1.25rem;background:var(--bg);
color:var(--ink);font:1rem/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{width:100%;max-width:32rem;background:var(--card);border:1px solid var(--line);
border-radius:1rem;padding:clamp(1.5rem,5vw,2.5rem)}
h1{margin:0 0 .75rem;font-size:1.45rem;line-height:1.25;text-wrap:balance}
p{margin:0 0 1rem;color:var(--soft)}
ul{list-style:none;margin:0 0 1.5rem;padding:0;border-top:1px solid var(--line)}
li{display:flex;justify-content:space-between;gap:1rem;padding:.6rem 0;
border-bottom:1px solid var(--line)}
li time{color:var(--soft);font-variant-numeric:tabular-nums;white-space:nowrap}
button{width:100%;padding:.85rem 1.25rem;border:0;border-radius:.65rem;background:var(--accent);
color:var(--on-accent);font:inherit;font-weight:600;cursor:pointer}
fieldset{margin:0 0 1.25rem;padding:0;border:0;border-top:1px solid var(--line)}
legend{float:left;width:100%;padding:1rem 0 .25rem;font-weight:600}
label{clear:both;display:flex;gap:.75rem;align-items:center;min-height:2.75rem;
border-bottom:1px solid var(--line);cursor:pointer}
input{width:1.2rem;height:1.2rem;margin:0;flex:none;accent-color:var(--accent)}
.quiet{background:transparent;color:var(--accent);border:1px solid var(--line)}
form+form,form+p,p+form{margin-top:1.25rem}
button:hover{filter:brightness(1.08)}
button:focus-visible,a:focus-visible,input:focus-visible{
outline:3px solid var(--focus);outline-offset:3px}
a{color:var(--accent)}
.brand{font-weight:700;color:var(--ink)}
.back{margin:1.25rem 0 0;text-align:center}
li span{overflow-wrap:anywhere}
code{font-family:ui-monospace,SFMono-Regular,Menlo,monospace;font-size:.92em}
""".strip()
_CSS_HASH = base64.b64encode(hashlib.sha256(_CSS.encode()).digest()).decode()

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_CSS_HASH}'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    # The address holds the token: no referrer may carry it, and no cache may keep it.
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
}


def page(
    title: str,
    body: str,
    *,
    lang: str = "en",
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    brand: str = "",
) -> web.Response:
    """Make a whole page.

    Args:
        brand: plain text above the heading: the application's name.
        title: plain text, for heading and title.
        body: HTML; the caller must escape foreign text.
    """
    text = (
        f'<!doctype html>\n<html lang="{lang}">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_CSS}</style>\n</head>\n"
        f"<body>\n<main>\n{_brand_line(brand)}<h1>{escape(title)}</h1>\n{body}\n</main>\n</body>\n</html>\n"
    )
    return web.Response(
        status=status,
        body=text.encode(),
        content_type="text/html",
        charset="utf-8",
        headers={**HEADERS, **(headers or {})},
    )


def _brand_line(name: str) -> str:
    return f'<p class="brand" dir="{direction(name)}">{escape(name)}</p>\n' if name else ""


def button(label: str) -> str:
    """HTML of a form that posts to the page's own address."""
    return f'<form method="post"><button type="submit">{escape(label)}</button></form>'


MAX_LISTED = 20
_Page = Callable[[web.Request], Awaitable[web.Response]]


class Pages:
    """Handlers of the pages behind links.

    Args:
        on_confirmed: called with the ids that a link confirmed.
        trusted_proxies: addresses whose ``X-Forwarded-*`` count.
        brand: of the application to which the page leads back.
    """

    def __init__(
        self,
        *,
        reads: Reads,
        writes: Writes,
        links: LinkSigner,
        on_confirmed: Callable[[Sequence[str]], None],
        trusted_proxies: Sequence[str] = (),
        brand: Brand | None = None,
    ) -> None:
        self._brand = brand or Brand()
        self._reads = reads
        self._writes = writes
        self._links = links
        self._on_confirmed = on_confirmed
        self._trusted_proxies = trusted_proxies

    def routes(self) -> list[web.RouteDef]:
        """Routes to mount."""
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
            f"{_list(stored, texts, zone)}\n{button(texts.yes)}{self._way_back(stored, texts)}"
        )
        return page(texts.ask, body, lang=texts.lang, brand=self._brand.name)

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
            f"{_list(stored, texts, zone)}{self._way_back(stored, texts)}"
        )
        return page(texts.thanks, body, lang=texts.lang, brand=self._brand.name)

    async def _confirmed_at(self, event_id: str) -> datetime:
        """When an event was confirmed for the first time; now, if a read cannot tell."""
        try:
            found = await self._reads.event(event_id)
        except LedgerUnavailable:
            found = None  # the confirmation stands all the same
        if found is not None and found.confirmations:
            return found.confirmations[0].at
        return datetime.now(UTC)

    def _way_back(self, stored: Sequence[Stored], texts: Texts) -> str:
        """HTML of the link to the application; empty where it has no address."""
        urls = [read_conventions(item.event.data, self._brand).url for item in reversed(stored)]
        url = next((url for url in urls if url), None) or self._brand.app_url
        if url is None:
            return ""
        name = self._brand.name
        label = texts.open.format(name) if name else texts.open_application
        return f'\n<p class="back"><a href="{escape(url)}">{escape(label)}</a></p>'

    async def problem(self, request: web.Request) -> web.Response:
        """``GET /problems/{slug}``: the meaning of a problem type, and a remedy."""
        slug = request.match_info["slug"]
        kind = KINDS.get(slug)
        if kind is None:
            raise Problem("not-found", "no problem type has this name")
        body = f"<p>{escape(kind.advice)}</p>\n<p><code>{slug}</code> · HTTP {kind.status}</p>"
        return page(kind.title, body)

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


def readable(handler: _Page) -> _Page:
    """Answer errors with a page instead of a problem document."""

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
