"""Turns a message into words: subject, mail bodies, SMS, push and alert texts, by locale.

Owns: the templates' environment (sandboxed, strict) and what they are given. A folder of the
operator's own is asked before the packaged one, file by file. Never does: send, or look at
contacts beyond language and time zone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from jinja2 import FileSystemLoader, StrictUndefined, Template, TemplateError, TemplateNotFound
from jinja2.sandbox import ImmutableSandboxedEnvironment

from delivery import resources
from delivery.domain.contact import Contact
from delivery.domain.event import Event
from delivery.domain.ports import Message
from delivery.domain.records import AlertGroup
from delivery.errors import ConfigError

FALLBACK = "en"
NAMES = ("words.txt", "digest.subject", "digest.txt", "digest.html", "sms.txt", "push.txt",
         "alert.txt")  # fmt: skip
MAX_LINES = 200
MAX_SUBJECT = 180
MAX_SMS = 1_600  # Source: Twilio, error 21617

_LOCALE = re.compile(r"^[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*$")
# Controls, and the marks that reorder or hide text: a name must not disguise a line.
_UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]+"
)


@dataclass(frozen=True, slots=True)
class Digest:
    """A mail in words."""

    subject: str
    text: str
    html: str


@dataclass(frozen=True, slots=True)
class Notice:
    """A short message in words."""

    title: str
    body: str


@dataclass(frozen=True, slots=True)
class Line:
    """What happened once, or several times in a row; ``last`` equals ``first`` for once."""

    text: str
    type: str
    first: datetime
    last: datetime
    count: int


@dataclass(frozen=True, slots=True)
class Run:
    """One run's lines, in order."""

    run_id: str
    lines: tuple[Line, ...]


def one_line(value: object, length: int = 120) -> str:
    """Any value as one printable line of at most ``length`` characters."""
    text = " ".join(_UNPRINTABLE.sub(" ", str(value)).split())
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


class Renderer:
    """Renders messages from a folder of templates, ``<locale>/<name>`` each.

    Args:
        templates: a folder whose files win over the packaged ones; ``None`` for those alone.
        operators_locale: the language of alerts.

    Raises:
        ConfigError: the folder is not there, or a template in it cannot be compiled.
    """

    def __init__(
        self, templates: str | Path | None = None, *, operators_locale: str = FALLBACK
    ) -> None:
        self._operators_locales = _locales(operators_locale)
        self._folders = [resources.folder("config") / "templates"]
        if templates is not None:
            own = Path(templates)
            if not own.is_dir():
                raise ConfigError(
                    f"DELIVERY_TEMPLATES: {own} is not a folder; name one with files like "
                    f"{FALLBACK}/digest.txt, or leave it out"
                )
            self._folders.insert(0, own)
        self._env = ImmutableSandboxedEnvironment(
            loader=FileSystemLoader(self._folders),
            autoescape=lambda name: name is not None and name.endswith(".html"),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._env.filters["line"] = one_line
        self._check()

    def digest(self, message: Message) -> Digest:
        """The mail that tells what happened.

        Raises:
            ConfigError: a template is broken; names the file.
        """
        context = self._context(message)
        locales = _locales(message.contact.locale)
        subject = self._render("digest.subject", locales, context)
        return Digest(
            subject=one_line(subject, MAX_SUBJECT),
            text=self._render("digest.txt", locales, context).strip() + "\n",
            html=self._render("digest.html", locales, context).strip() + "\n",
        )

    def sms(self, message: Message) -> str:
        """One short text; raises ``ConfigError`` as ``digest`` does, also for one over 1,600."""
        locales = _locales(message.contact.locale)
        text = self._render("sms.txt", locales, self._context(message)).strip()
        if len(text) > MAX_SMS:
            # Cutting would cut the link.
            raise ConfigError(f"template sms.txt made {len(text)} characters, at most {MAX_SMS} go")
        return text

    def push(self, message: Message) -> Notice:
        """A notice for push targets: the template's first line is its title."""
        locales = _locales(message.contact.locale)
        return _notice(self._render("push.txt", locales, self._context(message)))

    def alert(self, group: AlertGroup, *, resolved: bool = False) -> Notice:
        """A notice for operators: the template's first line is its title."""
        context = {
            "group": group,
            "event_class": None if group.event_class is None else group.event_class.value,
            "since": group.since.astimezone(UTC),
            "resolved": resolved,
        }
        return _notice(self._render("alert.txt", self._operators_locales, context))

    def _context(self, message: Message) -> dict[str, Any]:
        zone = _zone(message.contact)
        runs = self._runs(message.events, zone, _locales(message.contact.locale))
        lines = [line for run in runs for line in run.lines]
        hidden = max(0, len(lines) - MAX_LINES)
        last = message.events[-1]
        return {
            "user_id": message.user_id,
            "run_id": message.run_id,
            "count": len(message.events),
            "runs": _newest(runs, MAX_LINES),
            "hidden": sum(line.count for line in lines[:hidden]),
            "last": lines[-1],
            "began": message.events[0].at.astimezone(zone),
            "ended": last.at.astimezone(zone),
            "zone": last.at.astimezone(zone).tzname() or "UTC",
            "confirm_url": message.confirm_url,
            "unsubscribe_url": message.unsubscribe_url,
        }

    def _runs(self, events: Iterable[Event], zone: tzinfo, locales: list[str]) -> list[Run]:
        template, path = self._template("words.txt", locales)
        by_run: dict[str, list[Line]] = {}
        try:
            phrase = template.make_module({}).phrase  # type: ignore[attr-defined]
            for event in events:
                lines = by_run.setdefault(one_line(event.run_id), [])
                _append(lines, one_line(phrase(event), 300), event.type, event.at.astimezone(zone))
        except (TemplateError, TypeError, ValueError, AttributeError, LookupError) as error:
            raise _broken(path, error) from error
        return [Run(run_id, tuple(lines)) for run_id, lines in by_run.items()]

    def _render(self, name: str, locales: list[str], context: dict[str, Any]) -> str:
        template, path = self._template(name, locales)
        try:
            return template.render(context)
        except (TemplateError, TypeError, ValueError, AttributeError, LookupError,
                ArithmeticError) as error:  # fmt: skip
            raise _broken(path, error) from error

    def _template(self, name: str, locales: list[str]) -> tuple[Template, str]:
        for locale in locales:
            try:
                template = self._env.get_template(f"{locale}/{name}")
            except TemplateNotFound:
                continue
            except TemplateError as error:
                raise _broken(getattr(error, "filename", None) or name, error) from error
            return template, template.filename or name
        raise ConfigError(f"no template {FALLBACK}/{name} in {', '.join(map(str, self._folders))}")

    def _check(self) -> None:
        for name in NAMES:
            self._template(name, [FALLBACK])
        for folder in self._folders:
            for path in sorted(folder.glob("*/*")):
                if path.name in NAMES:
                    self._template(path.name, [path.parent.name])


def _broken(path: str, error: Exception) -> ConfigError:
    line = getattr(error, "lineno", None)
    where = f"{path}, line {line}" if line else path
    return ConfigError(f"template {where} is broken: {error}")


def _locales(locale: str | None) -> list[str]:
    """``de-AT`` -> ``["de-at", "de", "en"]``; the pattern keeps a locale from being a path."""
    wanted: list[str] = []
    if locale is not None and _LOCALE.match(locale):
        parts = locale.replace("_", "-").lower().split("-")
        wanted = ["-".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return [*wanted, FALLBACK] if FALLBACK not in wanted else wanted


def _zone(contact: Contact) -> tzinfo:
    try:
        return ZoneInfo(contact.time_zone) if contact.time_zone else UTC
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return UTC  # stored by an older zone database; a mail in UTC beats none


def _append(lines: list[Line], text: str, event_type: str, at: datetime) -> None:
    if lines and lines[-1].text == text:
        before = lines.pop()
        lines.append(Line(text, event_type, before.first, at, before.count + 1))
    else:
        lines.append(Line(text, event_type, at, at, 1))


def _newest(runs: list[Run], limit: int) -> list[Run]:
    kept: list[Run] = []
    for run in reversed(runs):
        if limit <= 0:
            break
        lines = run.lines[-limit:]
        kept.append(Run(run.run_id, lines))
        limit -= len(lines)
    return kept[::-1]


def _notice(text: str) -> Notice:
    title, _, body = text.strip().partition("\n")
    return Notice(one_line(title, MAX_SUBJECT), body.strip())
