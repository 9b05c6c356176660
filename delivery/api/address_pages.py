"""Pages about a user's addresses: leave a channel, choose what comes over it, verify an address.

Owns: ``/unsubscribe/{token}`` and ``/verify/{token}``. A GET changes nothing: mail scanners and
previews fetch every link. Never does: show an address to a browser that does not come from a
message to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import parse_qsl

from aiohttp import web

from delivery.api.look import Look, button
from delivery.api.problems import Problem
from delivery.api.requests import read_body
from delivery.domain.channels import Channel
from delivery.domain.event import EventClass
from delivery.domain.policy import Policies
from delivery.domain.ports import Reads, Writes
from delivery.domain.users.contact import Contact, fingerprint
from delivery.errors import LinkExpired
from delivery.links import UNSUBSCRIBE, VERIFY, LinkClaims, LinkSigner

MAX_FORM_BYTES = 16 * 1024
MAX_FORM_FIELDS = 200
_FORM = "application/x-www-form-urlencoded"
_ENTRY = re.compile(r"[a-z]+(:[a-z][a-z0-9_]{0,15})?")


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts of these pages in one language. ``{}`` stands for a channel's name or an address,
    ``{service}`` for the brand's name, or ``service`` where it has none."""

    lang: str
    service: str
    stop: str
    stopping: str
    unsubscribe: str
    off: str
    resume: str
    choose: str
    save: str
    done: str
    stopped: str
    saved: str
    resumed: str
    undo: str
    own: str
    agree_to: Mapping[str, str]
    agree: str
    ignore: str
    agreed: str
    verified: str
    channels: Mapping[str, str]
    classes: Mapping[str, str]

    def class_name(self, name: str) -> str:
        """Name of a class of events in this language."""
        return self.classes.get(name) or name.replace("_", " ").capitalize()


ENGLISH = Texts(
    lang="en",
    service="this service",
    stop="Stop {}?",
    stopping="You will get no more {} from {service}. What is new still waits for you when you "
    "sign in.",
    unsubscribe="Unsubscribe",
    off="You get no {} from {service}. What is new waits for you when you sign in.",
    resume="Get {} again",
    choose="Or choose which {} you get",
    save="Save",
    done="Done",
    stopped="You will get no more {} from {service}.",
    saved="Your choice of {} is saved.",
    resumed="You get {} from {service} again.",
    undo="Undo",
    own="Is this yours?",
    agree_to={
        Channel.EMAIL: "Emails from {service} are to come to {}.",
        Channel.SMS: "Text messages from {service} are to come to {}.",
        Channel.EMERGENCY: "Push notifications from {service} are to come here.",
    },
    agree="Yes, send them here",
    ignore="If you did not ask for this, close the page: nothing is sent.",
    agreed="Thank you",
    verified="It is confirmed: messages may come here. You can close this page.",
    channels={
        Channel.EMAIL: "emails",
        Channel.SMS: "text messages",
        Channel.EMERGENCY: "push notifications",
    },
    classes={
        "critical": "Your agents",
        "auth": "Sign-ins",
        "standard": "Everything else",
        "ephemeral": "Progress",
    },
)
GERMAN = Texts(
    lang="de",
    service="diesem Dienst",
    stop="Keine {} mehr?",
    stopping="Sie erhalten keine {} mehr von {service}. Was neu ist, wartet weiter auf Sie, "
    "wenn Sie sich anmelden.",
    unsubscribe="Abbestellen",
    off="Sie erhalten keine {} von {service}. Was neu ist, wartet auf Sie, wenn Sie sich anmelden.",
    resume="{} wieder erhalten",
    choose="Oder wählen Sie, welche {} Sie erhalten",
    save="Speichern",
    done="Erledigt",
    stopped="Sie erhalten keine {} mehr von {service}.",
    saved="Ihre Auswahl der {} ist gespeichert.",
    resumed="Sie erhalten wieder {} von {service}.",
    undo="Rückgängig machen",
    own="Gehört dies Ihnen?",
    agree_to={
        Channel.EMAIL: "E-Mails von {service} sollen an {} gehen.",
        Channel.SMS: "SMS von {service} sollen an {} gehen.",
        Channel.EMERGENCY: "Push-Nachrichten von {service} sollen hierher gehen.",
    },
    agree="Ja, hierher senden",
    ignore="Wenn Sie das nicht wollten, schließen Sie die Seite: Es wird nichts gesendet.",
    agreed="Vielen Dank",
    verified="Es ist bestätigt: Nachrichten dürfen hierher kommen. Sie können die Seite schließen.",
    channels={Channel.EMAIL: "E-Mails", Channel.SMS: "SMS", Channel.EMERGENCY: "Push-Nachrichten"},
    classes={
        "critical": "Ihre Agenten",
        "auth": "Anmeldungen",
        "standard": "Alles Übrige",
        "ephemeral": "Fortschritt",
    },
)


def texts_for(locale: str | None) -> Texts:
    """The texts for a locale, such as ``de-AT``; English for other languages."""
    language = (locale or "").replace("_", "-").partition("-")[0].lower()
    return GERMAN if language == GERMAN.lang else ENGLISH


class AddressPages:
    """Handlers of the pages about addresses.

    Args:
        policies: name the classes of events that a user may refuse on a channel.
        look: of the pages.
    """

    def __init__(
        self,
        *,
        reads: Reads,
        writes: Writes,
        links: LinkSigner,
        policies: Policies,
        look: Look | None = None,
    ) -> None:
        self._look = look or Look()
        self._reads = reads
        self._writes = writes
        self._links = links
        self._policies = policies

    def routes(self) -> list[web.RouteDef]:
        """Routes to mount."""
        readable = self._look.readable
        return [
            web.get("/unsubscribe/{token}", readable(self.show_unsubscribe)),
            web.post("/unsubscribe/{token}", readable(self.unsubscribe)),
            web.get("/verify/{token}", readable(self.show_verify)),
            web.post("/verify/{token}", readable(self.verify)),
        ]

    async def show_unsubscribe(self, request: web.Request) -> web.Response:
        """``GET /unsubscribe/{token}``: what the user gets over the channel; changes nothing."""
        contact, channel = await self._subscription(request)
        texts = texts_for(contact.locale)
        name = texts.channels.get(channel, channel)
        own = own_entries(contact.opt_out, channel)
        if channel in own:
            left = tuple(entry for entry in own if entry != channel)
            title, _, rest = (self._said(part, name, texts) for part in texts.off.partition(". "))
            body = f"<p>{escape(rest)}</p>\n"
            body += _form(texts.resume.format(name), [("choice", "restore"), *_was(left)])
            return self._look.page(title, body, lang=texts.lang)
        body = (
            f"<p>{escape(self._said(texts.stopping, name, texts))}</p>\n{button(texts.unsubscribe)}"
        )
        body += self._choices(texts, channel, name, own)
        return self._look.page(texts.stop.format(name), body, lang=texts.lang)

    async def unsubscribe(self, request: web.Request) -> web.Response:
        """``POST /unsubscribe/{token}``: opt out by the button or by one click (RFC 8058), or do as
        the page's other forms say."""
        contact, channel = await self._subscription(request)
        texts = texts_for(contact.locale)
        fields = await _fields(request)
        choice = dict(fields).get("choice")
        before = own_entries(contact.opt_out, channel)
        if choice == "save":
            kept = {value for key, value in fields if key == "keep"}
            refused = self._refused(channel, before, kept)
            before = await self._writes.choose(contact.user_id, channel, refused)
            said = texts.saved
        elif choice == "restore":
            given = (value for key, value in fields if key == "was" and _ENTRY.fullmatch(value))
            refused = own_entries(tuple(dict.fromkeys(given)), channel)
            await self._writes.choose(contact.user_id, channel, refused)
            said = texts.saved if channel in refused else texts.resumed
        else:
            await self._writes.opt_out(contact.user_id, channel)
            before = tuple(entry for entry in before if entry != channel)
            said = texts.stopped
        name = texts.channels.get(channel, channel)
        body = f"<p>{escape(self._said(said, name, texts))}</p>"
        if choice != "restore":
            body += "\n" + _form(texts.undo, [("choice", "restore"), *_was(before)], "quiet")
        return self._look.page(texts.done, body, lang=texts.lang)

    async def show_verify(self, request: web.Request) -> web.Response:
        """``GET /verify/{token}``: a question and a button; changes nothing."""
        claims = self._links.read(request.match_info["token"], VERIFY)
        contact = await self._reads.contact(claims.subject)
        address = _address_of(contact, claims)
        texts = texts_for(contact.locale if contact else None)
        if contact is not None and contact.is_verified(address):
            return self._look.page(
                texts.agreed, f"<p>{escape(texts.verified)}</p>", lang=texts.lang
            )
        what = self._said(texts.agree_to[claims.channel or ""], address, texts)
        body = f"<p>{escape(what)}</p>\n{button(texts.agree)}\n<p>{escape(texts.ignore)}</p>"
        return self._look.page(texts.own, body, lang=texts.lang)

    async def verify(self, request: web.Request) -> web.Response:
        """``POST /verify/{token}``: the address may get messages from now on. Safe to repeat."""
        claims = self._links.read(request.match_info["token"], VERIFY)
        contact = await self._writes.verify(
            claims.subject, claims.channel or "", claims.address or ""
        )
        if contact is None:
            raise LinkExpired(GONE)
        texts = texts_for(contact.locale)
        return self._agreed(texts)

    def _agreed(self, texts: Texts) -> web.Response:
        return self._look.page(texts.agreed, f"<p>{escape(texts.verified)}</p>", lang=texts.lang)

    def _said(self, text: str, what: str, texts: Texts) -> str:
        """A text about a channel or an address, with the name of the service that sends there."""
        return text.format(what, service=self._look.brand.name or texts.service)

    async def _subscription(self, request: web.Request) -> tuple[Contact, str]:
        claims = self._links.read(request.match_info["token"], UNSUBSCRIBE)
        contact = await self._reads.contact(claims.subject)
        return contact or Contact(claims.subject), claims.channel or ""

    def _classes(self, channel: str) -> list[str]:
        """Classes of events that a user may refuse on a channel, that of other types last."""
        found = [
            policy.event_class
            for policy in self._policies.classes.values()
            if any(step.channel == channel and "opt_out" in step.respects for step in policy.chain)
        ]
        return [one.value for one in sorted(found, key=lambda one: one is EventClass.STANDARD)]

    def _choices(self, texts: Texts, channel: str, name: str, own: Sequence[str]) -> str:
        """The form in which a user chooses among the classes; empty where there is no choice."""
        classes = self._classes(channel)
        if not classes:
            return ""
        boxes = []
        for one in classes:
            checked = "" if f"{channel}:{one}" in own else " checked"
            boxes.append(
                f'<label><input type="checkbox" name="keep" value="{escape(one)}"{checked}>'
                f"<span>{escape(texts.class_name(one))}</span></label>"
            )
        return (
            f'\n<form method="post"><fieldset><legend>{escape(texts.choose.format(name))}</legend>'
            f'{"".join(boxes)}</fieldset><input type="hidden" name="choice" value="save">'
            f'<button class="quiet" type="submit">{escape(texts.save)}</button></form>'
        )

    def _refused(self, channel: str, own: Sequence[str], kept: set[str]) -> tuple[str, ...]:
        """What is refused after a choice. Classes that the page did not show stay as they are."""
        classes = self._classes(channel)
        shown = {f"{channel}:{one}" for one in classes}
        others = [entry for entry in own if entry != channel and entry not in shown]
        return (*others, *(f"{channel}:{one}" for one in classes if one not in kept))


GONE = "the address of this link was changed since"


def own_entries(opt_out: Sequence[str], channel: str) -> tuple[str, ...]:
    """What a user refuses of one channel: the channel, or classes on it."""
    return tuple(entry for entry in opt_out if entry.partition(":")[0] == channel)


def _address_of(contact: Contact | None, claims: LinkClaims) -> str:
    """The address that a link is about.

    Raises:
        LinkExpired: it is not the user's any more.
    """
    for channel, address in () if contact is None else contact.addresses():
        if channel == claims.channel and fingerprint(channel, address) == claims.address:
            return address
    raise LinkExpired(GONE)


def _was(entries: Sequence[str]) -> list[tuple[str, str]]:
    return [("was", entry) for entry in entries]


def _form(label: str, fields: Sequence[tuple[str, str]], style: str = "") -> str:
    """A form of hidden fields and one button that posts to the page's own address."""
    hidden = "".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
        for name, value in fields
    )
    css = f' class="{style}"' if style else ""
    return f'<form method="post">{hidden}<button{css} type="submit">{escape(label)}</button></form>'


async def _fields(request: web.Request) -> list[tuple[str, str]]:
    """The fields of a form of these pages; none for another body, such as a mail provider's.

    Raises:
        Problem: 413 or 422, more than the pages send.
    """
    body = await read_body(request, MAX_FORM_BYTES)
    if request.content_type != _FORM:
        return []
    try:
        return parse_qsl(body.decode(), max_num_fields=MAX_FORM_FIELDS)
    except ValueError as error:
        raise Problem("invalid-request", "the form is malformed") from error
