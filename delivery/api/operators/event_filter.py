"""The filter of a listing or a replay, from query parameters or a JSON object.

Owns: the names of its fields and what each takes. Never does: decide who may use which.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from delivery.api.problems import Problem
from delivery.api.requests import check_texts, parse_instant
from delivery.domain.channels import DECISION, Channel
from delivery.domain.event import EventClass
from delivery.domain.lifecycle import State
from delivery.domain.records import EventFilter

FILTERS = (
    "user_id",
    "user_prefix",
    "run_id",
    "run_prefix",
    "id_prefix",
    "type",
    "class",
    "state",
    "channel",
    "error",
    "from",
    "to",
)
CHANNELS = (*(channel.value for channel in Channel), DECISION)
MAX_PREFIX, MAX_ERROR = 128, 200
_HEX = "[0-9a-fA-F]"
ID_PREFIX = (
    f"^{_HEX}{{1,8}}$|^{_HEX}{{8}}-{_HEX}{{0,4}}$|^{_HEX}{{8}}(-{_HEX}{{4}}){{1,3}}-{_HEX}{{0,4}}$"
    f"|^{_HEX}{{8}}(-{_HEX}{{4}}){{3}}-{_HEX}{{0,12}}$"
)
"""The beginning of an id."""


def parse_filter(given: Mapping[str, Any]) -> EventFilter:
    """The filter in these parameters or members; others are left alone.

    Raises:
        Problem: 422, names the field.
    """
    texts: dict[str, str | None] = {}
    for name in FILTERS:
        value = given.get(name)
        if value is not None and not isinstance(value, str):
            raise Problem("invalid-request", f"{name} must be a string", field=name)
        check_texts(name, value)
        texts[name] = value
    since, until = _instant(texts, "from"), _instant(texts, "to")
    if since is not None and until is not None and since >= until:
        raise Problem("invalid-request", "from must be before to", field="from")
    return EventFilter(
        user_id=texts["user_id"],
        run_id=texts["run_id"],
        type=texts["type"],
        user_prefix=_short(texts, "user_prefix", MAX_PREFIX),
        run_prefix=_short(texts, "run_prefix", MAX_PREFIX),
        id_prefix=_id_prefix(texts["id_prefix"]),
        event_class=_class(texts["class"]),
        state=_state(texts["state"]),
        channel=_channel(texts["channel"]),
        error=_short(texts, "error", MAX_ERROR),
        since=since,
        until=until,
    )


def _instant(texts: Mapping[str, str | None], name: str) -> datetime | None:
    value = texts[name]
    return None if value is None else parse_instant(value, name)


def _short(texts: Mapping[str, str | None], name: str, longest: int) -> str | None:
    value = texts[name]
    if value is not None and not 1 <= len(value) <= longest:
        raise Problem("invalid-request", f"{name} must have 1 to {longest} characters", field=name)
    return value


def _id_prefix(value: str | None) -> str | None:
    if value is None:
        return None
    if re.fullmatch(ID_PREFIX, value) is None:
        raise Problem(
            "invalid-request", "id_prefix must be the beginning of an event's id", field="id_prefix"
        )
    return value.lower()


def _class(value: str | None) -> EventClass | None:
    try:
        return None if value is None else EventClass(value)
    except ValueError:
        raise Problem("invalid-request", "class must be the name of a class", field="class") from (
            None
        )


def _state(value: str | None) -> State | None:
    try:
        return None if value is None else State(value)
    except ValueError:
        listed = ", ".join(State)
        raise Problem("invalid-request", f"state must be one of {listed}", field="state") from None


def _channel(value: str | None) -> str | None:
    if value is not None and value not in CHANNELS:
        listed = ", ".join(CHANNELS)
        raise Problem("invalid-request", f"channel must be one of {listed}", field="channel")
    return value
