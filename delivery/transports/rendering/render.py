"""Renders messages: subject, mail bodies, SMS, push and alert texts, by locale.

Owns: the templates' context, the limits of each kind of message, and the error of a message that
cannot be made. Never does: send, or read more of a contact than language and time zone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from markupsafe import Markup, escape

from delivery.domain.channels import Channel
from delivery.domain.limits import MAX_SMS_CHARS
from delivery.domain.messages.brand import Brand
from delivery.domain.messages.conventions import read_conventions
from delivery.domain.operators.figures import AlertGroup
from delivery.domain.transports import Message
from delivery.errors import ChannelError, ConfigError, Unrenderable
from delivery.telemetry import metrics
from delivery.transports.rendering.content import MAX_LINES, Line, Run, newest, runs_of, zone_name
from delivery.transports.rendering.markdown import plain_text
from delivery.transports.rendering.sandbox import fields
from delivery.transports.rendering.sms_text import segments, units, with_gsm_equivalents
from delivery.transports.rendering.templates import (
    FALLBACK,
    SENTENCES,
    VERIFICATION,
    Look,
    Templates,
    locales_of,
)
from delivery.transports.text import direction, one_line

logger = logging.getLogger(__name__)

MAX_SUBJECT = 180
MAX_FAULTS, MAX_FAULT = 5, 300
"""Faults of one message that are told, and the length of each."""
MAX_TOLD = 500
ROOMS = (110, 90, 70, 55, 40)
"""Lengths of the event's words that are tried so that a text message is one part."""
RIGHT_TO_LEFT = frozenset(
    ["ar", "arc", "ckb", "dv", "fa", "he", "iw", "ks", "ps", "sd", "syr", "ug", "ur", "yi"]
)
"""Languages whose script runs from right to left. Source: Unicode CLDR, character order."""

M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class Digest:
    """The texts of a mail; ``faults`` say what of it was left out, or not rendered as wished."""

    subject: str
    text: str
    html: str
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Text:
    """A text message."""

    text: str
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Notice:
    """The texts of a push message or an alert; ``url``: what a message of a browser opens."""

    title: str
    body: str
    faults: tuple[str, ...] = ()
    url: str | None = None


class Renderer:
    """Renders messages from folders of templates.

    A message that a template of the installation's own cannot render is rendered by the look that
    comes along; that is logged and counted, and the message goes.

    Args:
        templates: a folder whose files win over the packaged ones; ``None`` for those alone.
        brand: of the application whose users get the messages.
        operators_locale: the language of alerts.

    Raises:
        ConfigError: the folder is not there, or a template in it cannot be compiled.
    """

    def __init__(
        self,
        templates: str | Path | None = None,
        *,
        brand: Brand | None = None,
        operators_locale: str = FALLBACK,
    ) -> None:
        self._brand = brand or Brand()
        self._operators_locales = locales_of(operators_locale)
        self._templates = Templates(
            templates, {"line": one_line, "zone": zone_name, "plain": plain_text, "bidi": _bidi}
        )
        for fault in self.faults:
            logger.error("%s; the default look stands in", fault)

    @property
    def brand(self) -> Brand:
        """Of the application whose users get the messages."""
        return self._brand

    @property
    def faults(self) -> tuple[str, ...]:
        """Templates for one type or class that are of no use."""
        return self._templates.faults

    def digest(self, message: Message) -> Digest:
        """The mail of a digest, or the one that asks the owner of an address.

        Raises:
            ConfigError: a template that comes along is broken; names the file.
        """
        locales = locales_of(message.contact.locale)
        url = message.verify_url
        if url is not None:
            return self._first(
                Channel.EMAIL,
                self._templates.default,
                lambda look: self._verify(look, url, locales),
            )

        def made(look: Look) -> tuple[Digest, list[str]]:
            context, left_out = self._context(look, message, locales)
            text, html, subject = (
                look.render(name, locales, context).strip()
                for name in ("digest.txt", "digest.html", "digest.subject")
            )
            subject = one_line(subject, MAX_SUBJECT)
            return Digest(subject, text + "\n", html + "\n"), left_out

        return self._first(Channel.EMAIL, self._looks(message, locales), made)

    def sms(self, message: Message, sender: str = "") -> str:
        """The words of ``text``."""
        return self.text(message, sender).text

    def text(self, message: Message, sender: str = "") -> Text:
        """One short text; one part, where shorter words of the event make it one.

        Args:
            sender: the name or number that the text comes from.

        Raises:
            ConfigError: a template is broken, or its text is over ``MAX_SMS_CHARS``.
        """
        locales = locales_of(message.contact.locale)

        def asked(look: Look) -> tuple[Text, list[str]]:
            words = look.words(VERIFICATION, locales)
            return Text(_sendable(words.sms(self._asker(url), url).strip())), []

        def made(look: Look) -> tuple[Text, list[str]]:
            context, left_out = self._context(look, message, locales)
            context["sender"] = sender
            found = ""
            for room in ROOMS:
                text = _sendable(look.render("sms.txt", locales, context | {"room": room}).strip())
                if len(segments(text).parts) == 1:
                    return Text(text), left_out
                found = found or text
            return Text(found), left_out

        url = message.verify_url or ""
        if url:
            return self._first(Channel.SMS, self._templates.default, asked)
        return self._first(Channel.SMS, self._looks(message, locales), made)

    def web_push(self, message: Message) -> Notice:
        """A notice for browsers, beside the link that it opens: the event's own title and summary,
        as its inbox has it; with no title, or of several, the text of ``push`` without links."""
        locales = locales_of(message.contact.locale)

        def made(look: Look) -> tuple[Notice, list[str]]:
            context, left_out = self._context(look, message, locales)
            words = context | {"open_url": None, "confirm_url": None}
            notice = _notice(look.render("push.txt", locales, words))
            if len(message.events) == 1:
                shown = read_conventions(message.events[0].data, self._brand)
                if shown.title:
                    notice = Notice(one_line(shown.title, MAX_SUBJECT), shown.summary)
            return replace(notice, url=context["open_url"]), left_out

        return self._first(Channel.EMERGENCY, self._looks(message, locales), made)

    def push(self, message: Message) -> Notice:
        """A notice for push targets: the template's first line is its title."""
        locales = locales_of(message.contact.locale)

        def asked(look: Look) -> tuple[Notice, list[str]]:
            words = look.words(VERIFICATION, locales)
            title = one_line(words.push_title(self._asker(url)), MAX_SUBJECT)
            return Notice(title, words.push(self._asker(url), url)), []

        def made(look: Look) -> tuple[Notice, list[str]]:
            context, left_out = self._context(look, message, locales)
            return _notice(look.render("push.txt", locales, context)), left_out

        url = message.verify_url or ""
        if url:
            return self._first(Channel.EMERGENCY, self._templates.default, asked)
        return self._first(Channel.EMERGENCY, self._looks(message, locales), made)

    def alert(
        self, group: AlertGroup, *, resolved: bool = False, event_url: str | None = None
    ) -> Notice:
        """A notice for operators: the template's first line is its title.

        Args:
            event_url: of one of the events in the dashboard.
        """
        context = {
            "group": group,
            "event_class": None if group.event_class is None else group.event_class.value,
            "since": group.since.astimezone(UTC),
            "resolved": resolved,
            "event_url": event_url,
        }

        def made(look: Look) -> tuple[Notice, list[str]]:
            return _notice(look.render("alert.txt", self._operators_locales, context)), []

        return self._first(Channel.ALERT, self._templates.default, made)

    def _looks(self, message: Message, locales: list[str]) -> list[Look]:
        """The looks for a message: of its last event's type and class, if it is about one run."""
        last = message.events[-1]
        if len({event.run_id for event in message.events}) > 1:
            return self._templates.default
        return self._templates.looks(last.type, last.event_class.value, locales)

    def _first(
        self, channel: str, looks: list[Look], make: Callable[[Look], tuple[M, list[str]]]
    ) -> M:
        """What the first look makes that can; logs and counts what is not as wished.

        Raises:
            ConfigError: the last look cannot.
        """
        broken: list[str] = []
        for look in looks[:-1]:
            try:
                made, left_out = make(look)
                break
            except ConfigError as error:
                broken.append(one_line(error, MAX_FAULT))
        else:
            made, left_out = make(looks[-1])
        left_out = [one_line(fault, MAX_FAULT) for fault in left_out]
        for kind, faults, what in (
            ("template", broken, "the next look stands in"),
            ("data", left_out, "left out of the message"),
        ):
            if faults:
                metrics.message_faults.inc(len(faults), channel, kind)
            for fault in faults[:MAX_FAULTS]:
                logger.warning("%s: %s; %s", channel, fault, what)
        if isinstance(made, Digest | Text | Notice):
            return replace(made, faults=(*broken, *left_out[:MAX_FAULTS]))
        return made

    def _verify(self, look: Look, url: str, locales: list[str]) -> tuple[Digest, list[str]]:
        """A mail of fixed words: nothing in it comes from the client that named the address."""
        words = look.words(VERIFICATION, locales)
        asker = self._asker(url)
        # An own template of an earlier release says `host`.
        context = {"words": words, "asker": asker, "host": asker, "verify_url": url}
        context |= {"unsubscribe_url": None} | self._frame(words)
        parts = {
            name: look.render(name, locales, context).strip()
            for name in ("verify.txt", "verify.html")
        }
        for name, part in parts.items():
            if url not in part and escape(url) not in part:
                raise ConfigError(f"template {name} leaves out verify_url, which the mail is for")
        text, html = parts.values()
        subject = one_line(words.subject(asker), MAX_SUBJECT)
        return Digest(subject, text + "\n", html + "\n"), []

    def _asker(self, url: str) -> str:
        """What a reader knows this service by: the brand's name, else the host of its links."""
        return self._brand.name or urlsplit(url).hostname or url

    def _frame(self, words: Any) -> dict[str, Any]:
        """What every mail's frame shows: the brand, and the direction of its language."""
        lang = str(getattr(words, "lang", FALLBACK))
        is_rtl = lang.replace("_", "-").partition("-")[0].lower() in RIGHT_TO_LEFT
        return {
            "brand": self._brand,
            "dir": "rtl" if is_rtl else "ltr",
            "start": "right" if is_rtl else "left",
        }

    def _context(
        self, look: Look, message: Message, locales: list[str]
    ) -> tuple[dict[str, Any], list[str]]:
        """What templates of a message see, and what of its events is left out."""
        zone = message.contact.zone
        phrase = look.sentence("words.txt", "phrase", locales)
        words = look.words(SENTENCES, locales)
        runs, faults = runs_of(message.events, phrase, zone, self._brand)
        only = runs[0] if len(runs) == 1 else None
        # A digest over all runs of a user may contain events of only one.
        run_id = message.run_id or (only.run_id if only is not None else None)
        lines = [line for run in runs for line in run.lines]
        context = {
            "words": words,
            "user_id": message.user_id,
            "run_id": run_id,
            "title": only.title if only is not None else None,
            "count": len(message.events),
            "runs": newest(runs, MAX_LINES),
            "hidden": sum(line.count for line in lines[: max(0, len(lines) - MAX_LINES)]),
            "last": lines[-1],
            "event": _seen(message.events[-1]),
            "data": fields(message.events[-1].data),
            "began": message.events[0].at.astimezone(zone),
            "ended": message.events[-1].at.astimezone(zone),
            "zone": zone_name(message.events[-1].at.astimezone(zone)),
            "confirm_url": message.confirm_url,
            "unsubscribe_url": message.unsubscribe_url,
        }
        return context | _leading(runs, lines, self._brand) | self._frame(words), faults


def _leading(runs: list[Run], lines: list[Line], brand: Brand) -> dict[str, Any]:
    """What a message is about, above its lines: its one event, and the newest links and picture."""
    lead = lines[0] if len(lines) == 1 and lines[0].count == 1 else None
    is_lead = lead is not None and bool(lead.title or lead.facts)
    newest_first = sorted(lines, key=lambda line: line.last, reverse=True)
    return {
        "lead": lead if is_lead else None,
        "open_url": next((line.url for line in newest_first if line.url), None) or brand.app_url,
        "image": next((line.image for line in newest_first if line.image), None),
        "actions": next((line.actions for line in newest_first if line.actions), ()),
        "titles": [run.title for run in runs if run.title],
    }


def _seen(event: Any) -> Mapping[str, Any]:
    """An event as templates see it."""
    return {
        "id": event.id,
        "type": event.type,
        "class": event.event_class.value,
        "run_id": event.run_id,
        "user_id": event.user_id,
        "at": event.at,
        "data": fields(event.data),
    }


def _bidi(text: object) -> Markup:
    """Attributes of an element that holds this text: its direction, and the side it begins on."""
    way = direction(str(text))
    return Markup(' dir="{}" align="{}"').format(way, "right" if way == "rtl" else "left")


def _sendable(text: str) -> str:
    text = with_gsm_equivalents(text)
    if (length := units(text, "UCS-2")) > MAX_SMS_CHARS:
        # Cutting would cut the link.
        raise ConfigError(
            f"template sms.txt made {length} characters; at most {MAX_SMS_CHARS} are allowed"
        )
    return text


@contextmanager
def rendering(channel: str) -> Iterator[None]:
    """The block that makes a message; sending it is not part of the block.

    Raises:
        Unrenderable: for every unforeseen error in the block: it is about the message, never about
            the provider.
    """
    try:
        yield
    except (ChannelError, ConfigError):
        raise
    except Exception as error:
        # Only the type: the error's message may quote an event.
        name = type(error).__name__
        logger.error("%s: no message could be made of these events: %s", channel, name)
        raise Unrenderable(f"no message could be made of these events ({name})") from error


def told(faults: Sequence[str]) -> str | None:
    """Faults as one text for the record of an attempt; ``None`` for none."""
    return "; ".join(faults)[:MAX_TOLD] or None


def _notice(text: str) -> Notice:
    title, _, body = text.strip().partition("\n")
    return Notice(one_line(title, MAX_SUBJECT), body.strip())
