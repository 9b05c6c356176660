"""Contacts: a user's addresses, language, quiet hours and opt-outs.

Owns: the checks on a contact and the quiet-hours arithmetic. The time zone database comes with
the standard library; the instant is passed in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from delivery.domain.channels import Channel
from delivery.domain.inputs.foreign_text import check_text
from delivery.domain.policy import CHANNELS
from delivery.errors import InvalidEvent

# An address that fits into a header and an SMTP envelope; the mail server decides in the end.
# The domain may be of any script; its ASCII form is made when a mail is sent.
_EMAIL = re.compile(
    r"^[^\s@<>(),;:\"\\\[\]\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,64}"
    r"@([A-Za-z0-9.-]|[^\s\x00-\xa0\ud800-\udfff]){1,253}$"
)
_PHONE = re.compile(r"^\+[1-9][0-9]{6,14}$")  # Source: ITU-T E.164
_LOCALE = re.compile(r"^[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*$")  # Source: RFC 5646, loosely
_CLOCK = re.compile(r"^([01][0-9]|2[0-3]):[0-5][0-9]$")
MAX_PUSH = 10
_FIELDS = {"email", "phone", "push", "locale", "time_zone", "quiet_hours", "opt_out"}


@dataclass(frozen=True, slots=True)
class Contact:
    """One user's contact data.

    Attributes:
        push: Apprise URLs.
        quiet_hours: ``("22:00", "07:00")`` in ``time_zone``; may pass midnight.
        opt_out: channels the user does not want.
    """

    user_id: str
    email: str | None = None
    phone: str | None = None
    push: tuple[str, ...] = ()
    locale: str | None = None
    time_zone: str | None = None
    quiet_hours: tuple[str, str] | None = None
    opt_out: tuple[str, ...] = ()

    def as_wire(self) -> dict[str, Any]:
        """The JSON object of the contacts API, only the fields that are set."""
        quiet = self.quiet_hours
        wire: dict[str, Any] = {
            "email": self.email,
            "phone": self.phone,
            "push": list(self.push) or None,
            "locale": self.locale,
            "time_zone": self.time_zone,
            "quiet_hours": {"from": quiet[0], "to": quiet[1]} if quiet else None,
            "opt_out": list(self.opt_out) or None,
        }
        return {name: value for name, value in wire.items() if value is not None}

    def address_on(self, channel: str) -> str | None:
        """The address on a channel with one address; ``None`` for none."""
        return {Channel.EMAIL: self.email, Channel.SMS: self.phone}.get(Channel(channel))

    @property
    def zone(self) -> tzinfo:
        """The user's time zone; UTC for none, and for one that is unknown here: it may have been
        stored with another zone database, and a mail in UTC is better than none."""
        try:
            return ZoneInfo(self.time_zone) if self.time_zone else UTC
        except (ZoneInfoNotFoundError, ValueError, OSError):
            return UTC

    def quiet_until(self, now: datetime) -> datetime | None:
        """The end of the quiet hours in force at an instant.

        Quiet hours are local times. A local time that occurs twice begins them at its first, and
        ends them at its second occurrence; one that is skipped moves forward by the skip.
        Source: RFC 5545, section 3.3.5 (the skip); PEP 495 (``fold``).

        Args:
            now: aware.

        Returns:
            A UTC instant after ``now``; ``None`` outside of quiet hours, and for stored ones that
            cannot be read: a message at night is better than none.
        """
        hours = _clock_times(self.quiet_hours)
        if hours is None:
            return None
        begins, ends = hours
        zone, now = self.zone, now.astimezone(UTC)
        wall = now.astimezone(zone).replace(tzinfo=None)
        found = None
        for day in range(-1, 2):
            start = datetime.combine(wall.date() + timedelta(days=day), begins)
            end = datetime.combine(start.date(), ends) + timedelta(days=0 if begins < ends else 1)
            # A clock that skipped the beginning already shows a later time.
            has_begun = wall >= start or now >= _instant(start, zone, fold=0)
            until = max(_instant(end, zone, fold=0), _instant(end, zone, fold=1))
            if has_begun and now < until:
                found = until if found is None else max(found, until)
        return found


def parse_contact(user_id: str, body: Mapping[str, Any]) -> Contact:
    """Check the body of a PUT of a contact.

    Raises:
        InvalidEvent: names the field and what to send.
    """
    unknown = sorted(set(body) - _FIELDS)
    if unknown:
        raise InvalidEvent(
            f"unknown field {unknown[0]!r}; known: {', '.join(sorted(_FIELDS))}", field=unknown[0]
        )
    return Contact(
        user_id=user_id,
        email=_text(body, "email", _EMAIL, "an address like name@example.org"),
        phone=_text(body, "phone", _PHONE, "an E.164 number like +491701234567"),
        push=_words(body, "push", None),
        locale=_text(body, "locale", _LOCALE, "a language tag like de or en-GB"),
        time_zone=_zone(body.get("time_zone")),
        quiet_hours=_quiet(body.get("quiet_hours")),
        opt_out=_words(body, "opt_out", CHANNELS),
    )


def _clock_times(quiet_hours: tuple[str, str] | None) -> tuple[time, time] | None:
    """Stored quiet hours as times, ``None`` for none and for ones that the check refuses."""
    if quiet_hours is None or quiet_hours[0] == quiet_hours[1]:
        return None
    if not all(_CLOCK.fullmatch(text) for text in quiet_hours):
        return None
    begins, ends = (time.fromisoformat(text) for text in quiet_hours)
    return begins, ends


def _instant(wall: datetime, zone: tzinfo, *, fold: int) -> datetime:
    return wall.replace(tzinfo=zone, fold=fold).astimezone(UTC)


def _text(body: Mapping[str, Any], name: str, shape: re.Pattern[str], like: str) -> str | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > 320 or not shape.fullmatch(value):
        raise InvalidEvent(f"{name} must be {like}", field=name)
    return value


def _words(body: Mapping[str, Any], name: str, known: tuple[str, ...] | None) -> tuple[str, ...]:
    value = body.get(name)
    if value is None:
        return ()
    if (
        not isinstance(value, list)
        or len(value) > MAX_PUSH
        or not all(isinstance(item, str) and 0 < len(item) <= 2048 for item in value)
    ):
        raise InvalidEvent(f"{name} must be a list of at most {MAX_PUSH} strings", field=name)
    for item in value:
        check_text(name, item)
    for item in value:
        if known is not None and item not in known:
            raise InvalidEvent(f"{name}: {item!r} is not one of {', '.join(known)}", field=name)
    return tuple(value)


def _zone(value: Any) -> str | None:
    if value is None:
        return None
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError):
        raise InvalidEvent(
            "time_zone must be an IANA name like Europe/Berlin", field="time_zone"
        ) from None
    return str(value)


def _quiet(value: Any) -> tuple[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping) or set(value) != {"from", "to"}:
        raise InvalidEvent(
            'quiet_hours must be {"from": "22:00", "to": "07:00"}', field="quiet_hours"
        )
    begins, ends = value["from"], value["to"]
    for text in (begins, ends):
        if not isinstance(text, str) or not _CLOCK.fullmatch(text):
            raise InvalidEvent("quiet_hours are HH:MM, 00:00 to 23:59", field="quiet_hours")
    if begins == ends:
        raise InvalidEvent("quiet_hours: from and to are the same", field="quiet_hours")
    return (begins, ends)
