"""Renders messages: subject, mail bodies, SMS, push and alert texts, by locale.

Owns: the templates' context, the limits of each kind of message, and the error of a message that
cannot be made. Never does: send, or read more of a contact than language and time zone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from delivery.domain.limits import MAX_SMS_CHARS
from delivery.domain.ports import Message
from delivery.domain.records import AlertGroup
from delivery.errors import ChannelError, ConfigError, Unrenderable
from delivery.transports.content import MAX_LINES, newest, runs_of, zone_name
from delivery.transports.sms_text import units, with_gsm_equivalents
from delivery.transports.templates import (
    FALLBACK,
    SENTENCES,
    VERIFICATION,
    Templates,
    locales_of,
)
from delivery.transports.text import one_line

logger = logging.getLogger(__name__)

MAX_SUBJECT = 180


@dataclass(frozen=True, slots=True)
class Digest:
    """The texts of a mail."""

    subject: str
    text: str
    html: str


@dataclass(frozen=True, slots=True)
class Notice:
    """The texts of a push message or an alert."""

    title: str
    body: str


class Renderer:
    """Renders messages from folders of templates.

    Args:
        templates: a folder whose files win over the packaged ones; ``None`` for those alone.
        operators_locale: the language of alerts.

    Raises:
        ConfigError: the folder is not there, or a template in it cannot be compiled.
    """

    def __init__(
        self, templates: str | Path | None = None, *, operators_locale: str = FALLBACK
    ) -> None:
        self._operators_locales = locales_of(operators_locale)
        self._templates = Templates(templates, {"line": one_line, "zone": zone_name})

    def digest(self, message: Message) -> Digest:
        """The mail of a digest, or the one that asks the owner of an address.

        Raises:
            ConfigError: a template is broken; names the file.
        """
        locales = locales_of(message.contact.locale)
        if message.verify_url is not None:
            return self._verification(message.verify_url, locales)
        context = self._context(message, locales)
        context["words"] = self._templates.words(SENTENCES, locales)
        text, html, subject = (
            self._templates.render(name, locales, context).strip()
            for name in ("digest.txt", "digest.html", "digest.subject")
        )
        return Digest(one_line(subject, MAX_SUBJECT), text + "\n", html + "\n")

    def sms(self, message: Message) -> str:
        """One short text.

        Raises:
            ConfigError: a template is broken, or its text is over ``MAX_SMS_CHARS``.
        """
        text = with_gsm_equivalents(self._text(message).strip())
        if (length := units(text, "UCS-2")) > MAX_SMS_CHARS:
            # Cutting would cut the link.
            raise ConfigError(
                f"template sms.txt made {length} characters; at most {MAX_SMS_CHARS} are allowed"
            )
        return text

    def push(self, message: Message) -> Notice:
        """A notice for push targets: the template's first line is its title."""
        if message.verify_url is not None:
            words = self._templates.words(VERIFICATION, locales_of(message.contact.locale))
            host = _host(message.verify_url)
            return Notice(
                one_line(words.push_title(host), MAX_SUBJECT),
                words.push(host, message.verify_url),
            )
        return _notice(self._render("push.txt", message))

    def alert(self, group: AlertGroup, *, resolved: bool = False) -> Notice:
        """A notice for operators: the template's first line is its title."""
        context = {
            "group": group,
            "event_class": None if group.event_class is None else group.event_class.value,
            "since": group.since.astimezone(UTC),
            "resolved": resolved,
        }
        return _notice(self._templates.render("alert.txt", self._operators_locales, context))

    def _text(self, message: Message) -> str:
        if message.verify_url is None:
            return self._render("sms.txt", message)
        words = self._templates.words(VERIFICATION, locales_of(message.contact.locale))
        return str(words.sms(_host(message.verify_url), message.verify_url))

    def _verification(self, url: str, locales: list[str]) -> Digest:
        """A mail of fixed words: nothing in it comes from the client that named the address."""
        words = self._templates.words(VERIFICATION, locales)
        context = {"words": words, "host": _host(url), "verify_url": url}
        text, html = (
            self._templates.render(name, locales, context).strip()
            for name in ("verify.txt", "verify.html")
        )
        return Digest(one_line(words.subject(_host(url)), MAX_SUBJECT), text + "\n", html + "\n")

    def _render(self, name: str, message: Message) -> str:
        locales = locales_of(message.contact.locale)
        return self._templates.render(name, locales, self._context(message, locales))

    def _context(self, message: Message, locales: list[str]) -> dict[str, Any]:
        zone = message.contact.zone
        phrase = self._templates.sentence("words.txt", "phrase", locales)
        runs = runs_of(message.events, phrase, zone)
        only = runs[0] if len(runs) == 1 else None
        # A digest over all runs of a user may contain events of only one.
        run_id = message.run_id or (only.run_id if only is not None else None)
        lines = [line for run in runs for line in run.lines]
        return {
            "user_id": message.user_id,
            "run_id": run_id,
            "title": only.title if only is not None else None,
            "count": len(message.events),
            "runs": newest(runs, MAX_LINES),
            "hidden": sum(line.count for line in lines[: max(0, len(lines) - MAX_LINES)]),
            "last": lines[-1],
            "began": message.events[0].at.astimezone(zone),
            "ended": message.events[-1].at.astimezone(zone),
            "zone": zone_name(message.events[-1].at.astimezone(zone)),
            "confirm_url": message.confirm_url,
            "unsubscribe_url": message.unsubscribe_url,
        }


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


def _host(url: str) -> str:
    """What a reader knows this service by."""
    return urlsplit(url).hostname or url


def _notice(text: str) -> Notice:
    title, _, body = text.strip().partition("\n")
    return Notice(one_line(title, MAX_SUBJECT), body.strip())
