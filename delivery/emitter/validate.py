"""Validation of events: from the caller's values to a draft, or an error that names the field.

Owns: the fields of an event as a caller may send them (``EventIn`` in the OpenAPI document). Never
does: I/O, recording, pushing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

import msgspec
from uuid_utils import uuid7

from delivery.domain.event import (
    PLACEHOLDER,
    Event,
    EventClass,
    check_context_id,
    check_event_id,
    check_event_type,
    check_flags,
    id_flags,
)
from delivery.domain.options import FIELDS as OPTIONS
from delivery.domain.options import Options, choose_class, read_options
from delivery.domain.payload import encode_object
from delivery.domain.policy import ClassPolicy, Policies
from delivery.errors import InvalidContext, InvalidEvent
from delivery.protocol import decode_json

logger = logging.getLogger(__name__)

MAX_NOTED = 100
"""Unlisted types that a process names in its log, each once."""


def new_event_id() -> str:
    """A canonical lower-case UUIDv7."""
    return str(uuid7())


PLAIN = frozenset({"id", "type", "user_id", "run_id", "thread_id", "data", "meta"})
FIELDS = PLAIN | OPTIONS
_SET_BY_SERVICE = frozenset({"seq", "at"})
_META_SET_BY_SERVICE = ("conflicts_with",)


@dataclass(frozen=True, slots=True)
class Context:
    """Checked ids of a user, run and thread. ``flags`` names suspicious ids, see ``id_flags``."""

    user_id: str
    run_id: str
    thread_id: str | None
    flags: tuple[str, ...] = ()


class Kind(msgspec.Struct, frozen=True, gc=False):
    """Class and policy of an event type."""

    type: str
    event_class: EventClass
    policy: ClassPolicy
    is_durable: bool


class Kinds:
    """Cache of event types: each is checked and looked up in the policies once. Bounded."""

    def __init__(self, policies: Policies, capacity: int = 4_096) -> None:
        self._policies = policies
        self._capacity = capacity
        self._known: dict[object, Kind] = {}
        self._noted: set[str] = set()

    def of(self, event_type: object) -> Kind:
        """The kind of a type.

        Raises:
            InvalidEvent: the type is malformed.
        """
        try:
            found = self._known.get(event_type)
        except TypeError:  # unhashable: the check raises the error
            found = None
        return found if found is not None else self._learn(event_type)

    def forget(self) -> None:
        """Look each type up anew: the policies have changed."""
        self._known.clear()

    def chosen(
        self, event_type: object, given: Mapping[Any, Any], at: datetime
    ) -> tuple[Kind, Options]:
        """The kind of a type for an event with options: in the class that its caller chose.

        Args:
            given: the options by their names in JSON; other fields do not count.
            at: the instant of acceptance.

        Raises:
            InvalidEvent: the type or an option is wrong; names it.
        """
        if "class" not in given:
            kind = self.of(event_type)
        else:
            event_class = choose_class(self._policies, given["class"])
            policy = self._policies.of(event_class)
            name = check_event_type(event_type)
            kind = Kind(name, event_class, policy, event_class.is_durable)
        return kind, read_options(given, kind.policy, at)

    def _learn(self, event_type: object) -> Kind:
        name = check_event_type(event_type)
        event_class = self._policies.class_of(name)
        if name not in self._policies.by_type:
            self._note(name)
        kind = Kind(name, event_class, self._policies.of(event_class), event_class.is_durable)
        if len(self._known) >= self._capacity:
            self._known.clear()  # types are the caller's choice; a forgotten one is checked again
        self._known[name] = kind
        return kind

    def _note(self, name: str) -> None:
        if name in self._noted or len(self._noted) > MAX_NOTED:
            return
        self._noted.add(name)
        if len(self._noted) > MAX_NOTED:
            logger.info("over %d event types without a class; no further one is named", MAX_NOTED)
        else:
            logger.info("event type %s is in no class of the policies: it is standard", name)


class Draft(msgspec.Struct, frozen=True, gc=False):
    """A valid event that has no number yet, the policy of its class, and what its caller chose."""

    event: Event
    policy: ClassPolicy
    options: Options | None = None


def check_context(user_id: object, run_id: object, thread_id: object = None) -> Context:
    """Check the ids that address a user and a run.

    Raises:
        InvalidContext: names the field.
    """
    if type(user_id) is type(run_id) is str and (thread_id is None or type(thread_id) is str):
        return _known_context(user_id, run_id, thread_id)
    return _context(user_id, run_id, thread_id)


def _context(user_id: object, run_id: object, thread_id: object) -> Context:
    user = check_context_id("user_id", user_id)
    run = check_context_id("run_id", run_id)
    thread = None if thread_id is None else check_context_id("thread_id", thread_id)
    return Context(user, run, thread, tuple(id_flags(user, run, thread)))


# Cached, since all events of a run have the same ids.
_known_context = lru_cache(maxsize=4_096)(_context)


def check_kind(kind: Kind, context: Context) -> None:
    """Refuse a sign-in event without real ids.

    Raises:
        InvalidContext: an id looks like an unfilled template.
    """
    if not context.flags or kind.event_class is not EventClass.AUTH:
        return
    for flag in context.flags:
        what, _, name = flag.partition(":")
        if what != PLACEHOLDER:
            continue
        raise InvalidContext(
            f"{name} looks like an unfilled template; auth events need real ids", field=name
        )


def check_data(data: object) -> msgspec.Raw:
    """Encode the caller's object as it is now; ``None`` means ``{}``. See ``encode_object``."""
    return msgspec.Raw(encode_object("data", {} if data is None else data))


def check_meta(meta: object, flags: tuple[str, ...]) -> dict[str, Any] | None:
    """The caller's ``meta`` with the flags of suspicious ids behind its own.

    Raises:
        InvalidEvent: not an object, or it sets a name or a flag that the service sets.
    """
    if meta is None:
        return {"flags": list(flags)} if flags else None
    copy: dict[str, Any] = decode_json(encode_object("meta", meta))
    for name in _META_SET_BY_SERVICE:
        if name in copy:
            raise InvalidEvent(f"meta.{name} is set by the service; leave it out", field="meta")
    given = check_flags(copy["flags"]) if "flags" in copy else []
    if given or flags:
        copy["flags"] = [*given, *flags]
    return copy


def parse_item(item: object, *, kinds: Kinds, new_id: Callable[[], str], at: datetime) -> Draft:
    """Check one event that arrived as a JSON object.

    Args:
        at: the instant of acceptance.

    Raises:
        InvalidEvent: not an object, a field missing, unknown or wrong; names the field.
    """
    if not isinstance(item, Mapping):
        raise InvalidEvent(f"an event must be an object, not {type(item).__name__}")
    options = None
    if PLAIN.issuperset(item):
        kind = kinds.of(item.get("type"))
    else:
        _check_fields(item)
        kind, options = kinds.chosen(item.get("type"), item, at)
    if "data" in item and item["data"] is None:
        raise InvalidEvent("data must be an object, not null; or leave it out", field="data")
    context = check_context(item.get("user_id"), item.get("run_id"), item.get("thread_id"))
    check_kind(kind, context)
    event_id = item.get("id")
    event = Event(
        id=new_id() if event_id is None else check_event_id(event_id),
        type=kind.type,
        user_id=context.user_id,
        run_id=context.run_id,
        thread_id=context.thread_id,
        seq=None,
        at=at,
        event_class=kind.event_class,
        raw_data=check_data(item.get("data")),
        meta=check_meta(item.get("meta"), context.flags),
    )
    return Draft(event, kind.policy, options)


def _check_fields(item: Mapping[Any, Any]) -> None:
    for name in item:
        if name in _SET_BY_SERVICE:
            raise InvalidEvent(f"{name} is set by the service; leave it out", field=str(name))
        if name not in FIELDS:
            raise InvalidEvent(
                f"unknown field {str(name)[:64]!r}; known: {', '.join(sorted(FIELDS))}",
                field=str(name)[:64],
            )
