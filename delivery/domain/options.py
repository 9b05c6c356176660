"""What a caller may choose for one event: class, time to live, group, earliest instant, trace.

Owns: the values and their bounds. Never does: look a class up (``policy`` does), read a clock.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from delivery.domain.event import MAX_ID_CHARS, EventClass, format_instant, has_control
from delivery.domain.inputs.foreign_text import is_storable
from delivery.domain.inputs.trace_context import is_traceparent
from delivery.domain.policy import ClassPolicy, Policies
from delivery.errors import InvalidEvent

MIN_TTL = 0.001
MAX_AHEAD = timedelta(days=30)
_RFC_3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})"
)


class Options(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What the caller chose for one event beside its type's policy; a part of its content, but for
    the trace.

    Attributes:
        event_class: the class by name, ``None`` for the one that lists the type.
        ttl: seconds, ``None`` for the class's.
        group: events of one group are in one message, like those of one run otherwise.
        not_before: aware UTC instant before which it reaches no one; ``ttl`` counts from it.
        traceparent: the span that caused the event; another attempt to send it may have another.
    """

    event_class: str | None = None
    ttl: float | None = None
    group: str | None = None
    not_before: datetime | None = None
    traceparent: str | None = None

    def holds(self, at: datetime) -> bool:
        """Whether the event is held back at this instant."""
        return self.not_before is not None and self.not_before > at


NOTHING = Options()
FIELDS = frozenset({"class", "ttl", "group", "not_before", "traceparent"})
"""Names of the options in JSON."""
_OF_EPHEMERAL = frozenset({"class", "traceparent"})


def choose_class(policies: Policies, value: object) -> EventClass:
    """The class of this name.

    Raises:
        InvalidEvent: the policies have no such class; names those that they have.
    """
    if isinstance(value, str):
        for known in policies.classes:
            if known == value:
                return known
    known_names = ", ".join(sorted(policies.classes))
    shown = repr(value[:32]) if isinstance(value, str) else type(value).__name__
    raise InvalidEvent(
        f"class {shown} is not in this service's policies; known: {known_names}", field="class"
    )


def read_options(given: Mapping[Any, Any], policy: ClassPolicy, at: datetime) -> Options:
    """Check the options of an event whose class is chosen already.

    Args:
        given: the event as the caller sent it, or its options; other fields do not count.
        policy: of the chosen class, or of the one that lists the type.
        at: the instant of acceptance.

    Raises:
        InvalidEvent: names the option that is out of its bounds.
    """
    if not policy.event_class.is_durable:
        for name in given:
            if name in FIELDS and name not in _OF_EPHEMERAL:
                raise InvalidEvent(
                    f"ephemeral events are not stored and have no {name}", field=name
                )
    return Options(
        event_class=policy.event_class.value if "class" in given else None,
        ttl=check_ttl(given["ttl"], policy) if "ttl" in given else None,
        group=check_group(given["group"]) if "group" in given else None,
        not_before=check_not_before(given["not_before"], at) if "not_before" in given else None,
        traceparent=check_traceparent(given["traceparent"]) if "traceparent" in given else None,
    )


def check_ttl(value: object, policy: ClassPolicy) -> float:
    """A time to live in seconds, to the millisecond; at most the class's."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        value = math.nan
    if not MIN_TTL <= value <= policy.ttl:
        raise InvalidEvent(
            f"ttl must be seconds from {MIN_TTL} to {policy.ttl:g}, "
            f"the time to live of class {policy.event_class}",
            field="ttl",
        )
    return round(float(value), 3)


def check_group(value: object) -> str:
    """A group's name, bounded as an id is."""
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_ID_CHARS:
        raise InvalidEvent(
            f"group must be a non-blank string of at most {MAX_ID_CHARS} characters", field="group"
        )
    if has_control(value) or not is_storable(value):
        raise InvalidEvent("group contains control characters or a lone surrogate", field="group")
    return value


def check_not_before(value: object, at: datetime) -> datetime:
    """An instant in UTC, of an RFC 3339 text or an aware ``datetime``; at most ``MAX_AHEAD`` after
    ``at``."""
    found = value if isinstance(value, datetime) else parse_rfc_3339(value)
    try:
        if found is not None and found.tzinfo is not None:
            instant = found.astimezone(UTC)
            if instant > at + MAX_AHEAD:
                raise InvalidEvent(
                    f"not_before is at most {MAX_AHEAD.days} days ahead", field="not_before"
                )
            return instant
    except OverflowError:
        pass  # an offset leads out of the years that there are
    raise InvalidEvent(
        "not_before must be an RFC 3339 instant with an offset, like 2026-01-31T12:00:00Z",
        field="not_before",
    )


def parse_rfc_3339(value: object) -> datetime | None:
    """An instant with an offset, ``None`` for anything else."""
    # Python's parser takes more than RFC 3339: week dates, instants without an offset.
    if not isinstance(value, str) or _RFC_3339.fullmatch(value) is None:
        return None
    try:
        return datetime.fromisoformat(value.upper())
    except ValueError:
        return None


def check_traceparent(value: object) -> str:
    """A trace's origin."""
    if not isinstance(value, str) or not is_traceparent(value):
        raise InvalidEvent(
            "traceparent must be like 00-<32 hex>-<16 hex>-01, as W3C Trace Context has it",
            field="traceparent",
        )
    return value


def wire_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options as JSON can express them; their bounds are the service's.

    Raises:
        InvalidEvent: JSON cannot express one; names it.
    """
    return {name: _as_json(name, value) for name, value in given.items()}


def _as_json(name: str, value: object) -> object:
    if isinstance(value, datetime) and value.tzinfo is not None:
        return format_instant(value)
    if isinstance(value, str) and is_storable(value):
        return value
    if isinstance(value, int | float) and math.isfinite(value):
        return value
    raise InvalidEvent(f"{name} cannot be {type(value).__name__} {value!r:.64}", field=name)
