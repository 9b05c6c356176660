"""From what a caller sends to a draft that can be recorded, or an error naming the field.

Owns: contract 4.1 as seen from the caller's side. Never does: I/O, recording, pushing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from delivery.domain.event import (
    Event,
    EventClass,
    check_context_id,
    check_event_id,
    check_event_type,
    placeholder_flags,
)
from delivery.domain.payload import encode_object
from delivery.domain.policy import Policies
from delivery.errors import InvalidContext, InvalidEvent
from delivery.protocol import decode_json, encode_json

FIELDS = frozenset({"id", "type", "user_id", "run_id", "thread_id", "data", "meta"})
_OURS = frozenset({"seq", "at", "class"})


@dataclass(frozen=True, slots=True)
class Context:
    """To whom and about what; checked. ``flags`` names ids that look like unfilled templates."""

    user_id: str
    run_id: str
    thread_id: str | None
    flags: tuple[str, ...] = ()


@dataclass(slots=True)
class Draft:
    """A valid event that still lacks its place in the run and its instant.

    ``data`` is a copy: what the caller does with the own object afterwards changes nothing here.
    """

    id: str
    own_id: bool
    type: str
    event_class: EventClass
    context: Context
    data: Mapping[str, Any]
    raw_data: bytes
    meta: Mapping[str, Any] | None

    def event(self, seq: int | None, at: datetime) -> Event:
        """The event with its number and its instant of acceptance."""
        context = self.context
        return Event(
            id=self.id,
            type=self.type,
            user_id=context.user_id,
            run_id=context.run_id,
            seq=seq,
            at=at,
            event_class=self.event_class,
            data=self.data,
            thread_id=context.thread_id,
            meta=self.meta,
        )

    def encode(self, event: Event) -> bytes:
        """The event's wire form, reusing the data that was encoded to be checked."""
        wire = event.as_wire()
        wire["data"] = msgspec.Raw(self.raw_data)
        return encode_json(wire)


def check_context(user_id: object, run_id: object, thread_id: object = None) -> Context:
    """Check the ids that address a user and a run.

    Raises:
        InvalidContext: names the field.
    """
    user = _addressable("user_id", user_id)
    run = _addressable("run_id", run_id)
    thread = None if thread_id is None else _addressable("thread_id", thread_id)
    return Context(user, run, thread, tuple(placeholder_flags(user, run, thread)))


def _addressable(name: str, value: object) -> str:
    text = check_context_id(name, value)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidContext(f"{name} is not valid Unicode", field=name) from None
    return text


def make_draft(
    context: Context,
    event_type: object,
    data: object,
    *,
    event_id: object,
    meta: object,
    policies: Policies,
    new_id: Callable[[], str],
) -> Draft:
    """Check one event of a checked context.

    Args:
        data: ``None`` means an empty object.
        event_id: the caller's id, ``None`` to have one made.

    Raises:
        InvalidEvent: (or a subclass) names the field.
    """
    name = check_event_type(event_type)
    event_class = policies.class_of(name)
    if context.flags and event_class is EventClass.AUTH:
        raise InvalidContext(
            f"{context.flags[0].partition(':')[2]} looks like a template nobody filled in; "
            "auth events need real ids",
            field=context.flags[0].partition(":")[2],
        )
    raw = encode_object("data", {} if data is None else data, encode_json)
    return Draft(
        id=new_id() if event_id is None else check_event_id(event_id),
        own_id=event_id is None,
        type=name,
        event_class=event_class,
        context=context,
        data=decode_json(raw),
        raw_data=raw,
        meta=_meta(meta, context.flags),
    )


def _meta(meta: object, flags: tuple[str, ...]) -> Mapping[str, Any] | None:
    if meta is None:
        return {"flags": list(flags)} if flags else None
    copy: dict[str, Any] = decode_json(encode_object("meta", meta, encode_json))
    if "flags" in copy:
        raise InvalidEvent("meta.flags is set by the service; leave it out", field="meta")
    if flags:
        copy["flags"] = list(flags)
    return copy


def parse_item(item: object, *, policies: Policies, new_id: Callable[[], str]) -> Draft:
    """Check one event that came as a JSON object.

    Raises:
        InvalidEvent: not an object, a field missing, unknown or wrong; names the field.
    """
    if not isinstance(item, Mapping):
        raise InvalidEvent(f"an event must be an object, not {type(item).__name__}")
    for name in item:
        if name in _OURS:
            raise InvalidEvent(f"{name} is set by the service; leave it out", field=str(name))
        if name not in FIELDS:
            raise InvalidEvent(
                f"unknown field {str(name)[:64]!r}; known: {', '.join(sorted(FIELDS))}",
                field=str(name)[:64],
            )
    if "data" in item and item["data"] is None:
        raise InvalidEvent("data must be an object, not null; or leave it out", field="data")
    context = check_context(item.get("user_id"), item.get("run_id"), item.get("thread_id"))
    return make_draft(
        context,
        item.get("type"),
        item.get("data"),
        event_id=item.get("id"),
        meta=item.get("meta"),
        policies=policies,
        new_id=new_id,
    )
