"""Contacts: a user's addresses, language, quiet hours and opt-outs.

Owns: the checks on a contact and the quiet-hours arithmetic. The time zone database comes with
the standard library; the instant is passed in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta, tzinfo
from hashlib import sha256
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from delivery.domain.channels import Channel
from delivery.domain.inputs.foreign_text import check_text
from delivery.domain.policy import CHANNELS
from delivery.domain.users.web_push import WebPush
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
_OPT_OUT = re.compile(r"([a-z]+)(:[a-z][a-z0-9_]{0,15})?")
MAX_PUSH = 10
MAX_OPT_OUT = 100
UNVERIFIED = "the address is not verified"
_FIELDS = {"email", "phone", "push", "locale", "time_zone", "quiet_hours", "opt_out", "verified"}
_FIELD_OF = {Channel.EMAIL: "email", Channel.SMS: "phone", Channel.EMERGENCY: "push"}


@dataclass(frozen=True, slots=True)
class Contact:
    """One user's contact data.

    Attributes:
        push: Apprise URLs.
        quiet_hours: ``("22:00", "07:00")`` in ``time_zone``; may pass midnight.
        opt_out: channels the user does not want, ``"email"``, or not for a class of events,
            ``"email:orders"``.
        verified: the addresses, push URLs included, whose owner agreed to messages, or for which a
            service vouches; ``None``: all of them. The others get one message that asks for it.
        web_push: subscriptions of the user's browsers; each browser asked its user.
    """

    user_id: str
    email: str | None = None
    phone: str | None = None
    push: tuple[str, ...] = ()
    locale: str | None = None
    time_zone: str | None = None
    quiet_hours: tuple[str, str] | None = None
    opt_out: tuple[str, ...] = ()
    verified: tuple[str, ...] | None = None
    web_push: tuple[WebPush, ...] = ()

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
            "verified": self._verified_fields(),
        }
        return {name: value for name, value in wire.items() if value is not None}

    def _verified_fields(self) -> list[str] | None:
        """The fields all of whose addresses are verified, and single push URLs of the others;
        ``None`` where that goes without saying."""
        if self.verified is None or not self.addresses():
            return None
        found: dict[str, None] = {}
        open_ones = {channel for channel, _ in self.unverified()}
        for channel, address in self.addresses():
            if channel not in open_ones:
                found[_FIELD_OF[channel]] = None
            elif self.is_verified(address):
                found[address] = None
        return list(found)

    def addresses(self) -> list[tuple[Channel, str]]:
        """Each address with its channel."""
        single = [(Channel.EMAIL, self.email), (Channel.SMS, self.phone)]
        found = [(channel, address) for channel, address in single if address]
        return found + [(Channel.EMERGENCY, url) for url in self.push]

    def unverified(self) -> list[tuple[Channel, str]]:
        """The addresses that get no message but the one that asks for their owner's agreement."""
        if self.verified is None:
            return []
        known = set(self.verified)
        return [(channel, address) for channel, address in self.addresses() if address not in known]

    def is_verified(self, address: str) -> bool:
        """Whether an address may get messages: one of this contact."""
        return self.verified is None or address in self.verified

    def only_verified(self) -> Contact:
        """The contact as far as messages may be sent to it."""
        left_out = {address for _, address in self.unverified()}
        if not left_out:
            return self
        return replace(
            self,
            email=None if self.email in left_out else self.email,
            phone=None if self.phone in left_out else self.phone,
            push=tuple(url for url in self.push if url not in left_out),
        )

    def unverified_channels(self) -> dict[str, str]:
        """Channels that have an address and no verified one, each with the reason to skip it."""
        usable = {channel for channel, _ in self.only_verified().addresses()}
        if self.web_push:
            usable.add(Channel.EMERGENCY)
        return {
            channel.value: UNVERIFIED for channel, _ in self.unverified() if channel not in usable
        }

    def refuses(self, channel: str, event_class: str) -> bool:
        """Whether the user does not want events of a class on a channel."""
        channel = Channel(channel).value
        return channel in self.opt_out or f"{channel}:{event_class}" in self.opt_out

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


def fingerprint(channel: str, address: str) -> str:
    """A short name of an address on a channel, from which it cannot be read."""
    text = f"{Channel(channel).value}\n{address}"
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def contact_fields(contact: Mapping[str, Any] | None, more: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON object of a contact that is given as one, field by field, or both. Tuples become
    lists, and ``None`` leaves a field out."""
    given = {**(contact or {}), **more}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in given.items()
        if value is not None
    }


def parse_contact(user_id: str, body: Mapping[str, Any]) -> Contact:
    """Check the body of a PUT of a contact.

    ``verified`` is ``true`` (also when it is left out), ``false``, or a list of fields, of channels
    or of addresses of this contact.

    Raises:
        InvalidEvent: names the field and what to send.
    """
    unknown = sorted(set(body) - _FIELDS)
    if unknown:
        raise InvalidEvent(
            f"unknown field {unknown[0]!r}; known: {', '.join(sorted(_FIELDS))}", field=unknown[0]
        )
    contact = Contact(
        user_id=user_id,
        email=_text(body, "email", _EMAIL, "an address like name@example.org"),
        phone=_text(body, "phone", _PHONE, "an E.164 number like +491701234567"),
        push=_words(body, "push", MAX_PUSH),
        locale=_text(body, "locale", _LOCALE, "a language tag like de or en-GB"),
        time_zone=_zone(body.get("time_zone")),
        quiet_hours=_quiet(body.get("quiet_hours")),
        opt_out=_opt_out(body),
    )
    return replace(contact, verified=_verified(contact, body.get("verified")))


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


def _words(body: Mapping[str, Any], name: str, limit: int) -> tuple[str, ...]:
    value = body.get(name)
    if value is None:
        return ()
    if (
        not isinstance(value, list)
        or len(value) > limit
        or not all(isinstance(item, str) and 0 < len(item) <= 2048 for item in value)
    ):
        raise InvalidEvent(f"{name} must be a list of at most {limit} strings", field=name)
    for item in value:
        check_text(name, item)
    return tuple(dict.fromkeys(value))


def _opt_out(body: Mapping[str, Any]) -> tuple[str, ...]:
    found = _words(body, "opt_out", MAX_OPT_OUT)
    for item in found:
        parts = _OPT_OUT.fullmatch(item)
        if parts is None or parts[1] not in CHANNELS:
            known = ", ".join(CHANNELS)
            raise InvalidEvent(
                f"opt_out: {item[:64]!r} is not one of {known}, alone or with a class like "
                "email:orders",
                field="opt_out",
            )
    return found


def _verified(contact: Contact, value: Any) -> tuple[str, ...] | None:
    if value is None or value is True:
        return None
    if value is False:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidEvent("verified must be true, false or a list of fields", field="verified")
    named: dict[str, list[str]] = {name: [] for name in _FIELD_OF.values()}
    named |= {channel.value: [] for channel in _FIELD_OF}
    for channel, address in contact.addresses():
        for name in {_FIELD_OF[channel], channel.value}:
            named[name].append(address)
        named.setdefault(address, [address])
    unknown = [item for item in value if item not in named]
    if unknown:
        # Not quoted: it may be a push URL, which holds secrets.
        raise InvalidEvent(
            "verified lists email, phone, push, or addresses of this contact", field="verified"
        )
    return tuple(dict.fromkeys(address for item in value for address in named[item]))


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
