"""The event, its class and the rules that make one acceptable.

Owns: the shape of an event, what a caller may send, which class a type belongs to.
Never does: make ids, read a clock, look anything up.
"""

from __future__ import annotations

import enum
import re
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec

from delivery.domain.inputs.foreign_text import is_storable
from delivery.errors import InvalidContext, InvalidEvent

MAX_DATA_BYTES = 64 * 1024
MAX_ID_CHARS = 128
MAX_TYPE_CHARS = 128
PLACEHOLDER = "placeholder"
LOOK_ALIKE = "look_alike"
SHORTENED = "shortened"
UNSERIALISABLE = "unserialisable"
MAX_FLAGS = 32

AGENT_TYPES = (
    "agent_started",
    "agent_thinking",
    "tool_executing",
    "tool_completed",
    "agent_completed",
)
AUTH_TYPES = ("auth_started", "auth_validating", "auth_completed", "auth_failed")

CLASS_NAME = re.compile("[a-z][a-z0-9_]{0,15}")

_encode = msgspec.json.Encoder().encode
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CANONICAL = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_ID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_TYPE = re.compile(r"^[A-Za-z][A-Za-z0-9_.:-]*$")
_FLAG = re.compile(rf"({SHORTENED}|{UNSERIALISABLE}):[A-Za-z0-9_.-]{{1,64}}")
_PLACEHOLDERS = frozenset({"undefined", "null", "none", "nan"})
_PLACEHOLDER_MARKS = ("{{", "${")
# Scripts with letters of the same shape; a name is written in one of them.
_SAME_SHAPES = ("LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "COPTIC")
_INVISIBLE = frozenset({"Cf", "Zl", "Zp", "Co", "Cn"})


class EventClass(enum.StrEnum):
    """What an event is owed. The policy file says which types belong to which class.

    The members are the classes that every installation has. ``EventClass("orders")`` is a class of
    an installation's own: a value without a member, equal to any other of its name.
    """

    EPHEMERAL = "ephemeral"
    STANDARD = "standard"
    CRITICAL = "critical"
    AUTH = "auth"

    @property
    def is_durable(self) -> bool:
        """Whether events of this class are stored in the ledger: all but ephemeral ones."""
        return self is not EventClass.EPHEMERAL

    @classmethod
    def _missing_(cls, value: object) -> EventClass | None:
        if not isinstance(value, str) or CLASS_NAME.fullmatch(value) is None:
            return None
        own = str.__new__(cls, value)
        own._name_ = own._value_ = value
        return own


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One event for one user, as accepted. Its JSON is what clients receive; see
    ``docs/protocol.md``, "Receive and acknowledge".

    ``raw_data`` is the caller's object, encoded once when it was checked. Sockets, ledger and queue
    copies take those bytes; only code that reads ``data`` pays for decoding them.

    Attributes:
        id: canonical lower-case UUIDv7, the idempotency key.
        seq: 1-based position within the run; ``None`` for ephemeral events
            and until the ledger has assigned it.
        at: aware UTC instant of acceptance.
        raw_data: the caller's object as compact JSON of at most 64 KiB.
        meta: the caller's annotations; of ``meta["flags"]`` it sets those of ``check_flags``.
    """

    id: str
    type: str
    user_id: str
    run_id: str
    thread_id: str | None = None
    seq: int | None
    at: datetime
    event_class: EventClass = msgspec.field(name="class")
    raw_data: msgspec.Raw = msgspec.field(name="data")
    meta: dict[str, Any] | None = None

    @classmethod
    def of(cls, *, data: Mapping[str, Any] | None = None, **fields: Any) -> Event:
        """Make an event from an object that is not encoded yet; ``fields`` are its other fields.

        Raises:
            TypeError: JSON cannot express ``data``.
        """
        return cls(raw_data=msgspec.Raw(_encode(data or {})), **fields)

    @property
    def data(self) -> dict[str, Any]:
        """The caller's object, decoded anew each time."""
        found: dict[str, Any] = msgspec.json.decode(self.raw_data)
        return found

    def evolve(self, **changes: Any) -> Event:
        """A copy with these fields changed; ``data`` may be given as an object."""
        if "data" in changes:
            changes["raw_data"] = msgspec.Raw(_encode(changes.pop("data")))
        return msgspec.structs.replace(self, **changes)

    def as_wire(self) -> dict[str, Any]:
        """The event as a JSON object; ``thread_id`` and ``meta`` only when present."""
        wire: dict[str, Any] = msgspec.json.decode(_encode(self))
        return wire


def event_from_wire(wire: Mapping[str, Any]) -> Event:
    """Rebuild an event from a decoded JSON object, as ``as_wire`` made it.

    Raises:
        KeyError, TypeError, ValueError: it is not one.
    """
    return Event(
        id=str(wire["id"]),
        type=str(wire["type"]),
        user_id=str(wire["user_id"]),
        run_id=str(wire["run_id"]),
        thread_id=wire.get("thread_id"),
        seq=wire["seq"],
        at=datetime.fromisoformat(wire["at"]),
        event_class=EventClass(wire["class"]),
        raw_data=msgspec.Raw(_encode(dict(wire["data"]))),
        meta=wire.get("meta"),
    )


def decode_event(raw: bytes) -> Event:
    """Decode an event from its JSON.

    Raises:
        ValueError: the bytes are not an encoded event.
    """
    try:
        return _decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"no event: {error}") from error


_decode = msgspec.json.Decoder(Event).decode


def format_instant(instant: datetime) -> str:
    """RFC 3339 in UTC with ``Z``, just as an event's ``at`` is encoded: no fraction for a whole
    second. Source: RFC 3339, section 5.6."""
    return instant.astimezone(UTC).isoformat().removesuffix("+00:00") + "Z"


def check_event_id(value: object) -> str:
    """Return the canonical form of a caller's id.

    Raises:
        InvalidEvent: not a UUID of version 7. Source: RFC 9562, section 5.7.
    """
    if not isinstance(value, str):
        raise InvalidEvent("id must be a UUIDv7 string, or left out to have one made", field="id")
    if _CANONICAL.fullmatch(value) is not None:  # the common case, without parsing
        return value
    # Python's parser also takes braces, "urn:uuid:" and hyphens anywhere: the stored id would then
    # differ from the one that the caller sent.
    if _ID.fullmatch(value) is None:
        raise InvalidEvent(
            f"id {value[:64]!r} is not a UUID; send a UUIDv7 or leave it out", field="id"
        )
    parsed = UUID(value)
    if parsed.version != 7 or parsed.variant != "specified in RFC 4122":
        raise InvalidEvent(f"id {value!r} is not a UUID of version 7", field="id")
    return str(parsed)


def check_event_type(value: object) -> str:
    """Return the type if a policy can name it.

    Raises:
        InvalidEvent: empty, too long, or with characters outside ``A-Za-z0-9_.:-``.
    """
    if not isinstance(value, str) or not value or len(value) > MAX_TYPE_CHARS:
        raise InvalidEvent(
            f"type must be a string of 1 to {MAX_TYPE_CHARS} characters", field="type"
        )
    if not _TYPE.fullmatch(value):
        raise InvalidEvent(
            f"type {value!r} must start with a letter and hold only letters, digits and _ . : -",
            field="type",
        )
    return value


def has_control(value: str) -> bool:
    """Whether a text has control characters."""
    return _CONTROL.search(value) is not None


def check_context_id(name: str, value: object) -> str:
    """Return a ``user_id``, ``run_id`` or ``thread_id`` that can address something.

    Raises:
        InvalidContext: not a string, empty, over 128 characters, with control characters or lone
            surrogates; a ``run_id`` named ``registry``, which is reserved.
    """
    if not isinstance(value, str) or not value.strip():
        raise InvalidContext(f"{name} must be a non-empty string", field=name)
    if len(value) > MAX_ID_CHARS:
        raise InvalidContext(f"{name} is over {MAX_ID_CHARS} characters", field=name)
    if has_control(value):
        raise InvalidContext(f"{name} contains control characters", field=name)
    if not is_storable(value):
        raise InvalidContext(f"{name} contains a lone surrogate", field=name)
    if name == "run_id" and value == "registry":
        raise InvalidContext("run_id 'registry' is reserved; name the run itself", field=name)
    return value


def id_flags(user_id: str, run_id: str, thread_id: str | None = None) -> list[str]:
    """Flags on suspicious ids, for ``meta["flags"]``.

    Ids are compared as given, character by character: two that look alike are different ids.

    Returns:
        ``placeholder:<name>`` for an id that looks like an unfilled template,
        ``look_alike:<name>`` for an id that can be mistaken for another one.
    """
    flags = []
    for name, value in (("user_id", user_id), ("run_id", run_id), ("thread_id", thread_id)):
        if not value:
            continue
        if is_placeholder(value):
            flags.append(f"{PLACEHOLDER}:{name}")
        elif is_look_alike(value):
            flags.append(f"{LOOK_ALIKE}:{name}")
    return flags


def check_flags(value: object) -> list[str]:
    """Return the flags that a producer set in ``meta["flags"]``: what it left out of ``data``.

    ``shortened:<field>`` says that a field of ``data`` holds less than the producer had,
    ``unserialisable:<field>`` that JSON was the reason. Other flags are the service's to set.

    Raises:
        InvalidEvent: anything else.
    """
    flags = list(value) if isinstance(value, list | tuple) else []
    is_known = all(isinstance(one, str) and _FLAG.fullmatch(one) for one in flags)
    if not is_known or not 0 < len(flags) <= MAX_FLAGS:
        raise InvalidEvent(
            f"meta.flags may hold {SHORTENED}:<field> and {UNSERIALISABLE}:<field>, at most "
            f"{MAX_FLAGS}; other flags are set by the service: leave them out",
            field="meta",
        )
    return flags


def is_placeholder(value: str) -> bool:
    """Whether an id looks like an unfilled template: ``null``, ``{{user}}``."""
    if not value.isascii():
        shown = unicodedata.normalize("NFKC", value)
        value = "".join(c for c in shown if unicodedata.category(c) not in _INVISIBLE)
    return value.strip().lower() in _PLACEHOLDERS or any(m in value for m in _PLACEHOLDER_MARKS)


def is_look_alike(value: str) -> bool:
    """Whether an id can be mistaken for another one: surrounding spaces, characters with another
    normal form, invisible characters, or letters of several scripts that share shapes.

    Source: Unicode Standard Annex 15 (NFKC) and Technical Standard 39, section 5 (mixed scripts).
    """
    if value != value.strip():
        return True
    if value.isascii():
        return False
    if unicodedata.normalize("NFKC", value) != value:
        return True
    if any(unicodedata.category(char) in _INVISIBLE for char in value):
        return True
    names = [unicodedata.name(char, "") for char in value if char.isalpha()]
    return sum(any(name.startswith(script) for name in names) for script in _SAME_SHAPES) > 1
