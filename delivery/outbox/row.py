"""One row of the outbox: what a caller may put in, and the event that a gateway takes of it.

Owns: the checks of a new row, the version of its format, the JSON that is posted. Never does: SQL.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from uuid_utils import uuid7

from delivery.domain.event import (
    AUTH_TYPES,
    PLACEHOLDER,
    check_context_id,
    check_event_id,
    check_event_type,
    check_flags,
    format_instant,
    id_flags,
)
from delivery.domain.inputs.foreign_text import is_storable
from delivery.domain.options import FIELDS as OPTIONS
from delivery.domain.payload import encode_object
from delivery.errors import InvalidContext, InvalidEvent, InvalidFrame
from delivery.protocol import decode_json, encode_json

VERSION = 1
"""Of the format of a row; a relay carries rows of the versions that it knows."""
COLUMNS = (
    "version",
    "id",
    "user_id",
    "run_id",
    "thread_id",
    "type",
    "data",
    "meta",
    "options",
)
"""What ``add`` writes; the database fills the rest."""
_OF_COLUMNS = frozenset(COLUMNS)


class Added(str):
    """The id of an event added in asynchronous code: awaiting it gives the id.

    A connection writes when it is awaited. A session writes at its next flush, as it does for any
    object, so that awaiting is optional there.
    """

    __slots__ = ("_work",)

    def __new__(cls, id: str, work: Coroutine[Any, Any, object] | None = None) -> Added:
        """An id, and what is left to do."""
        made = super().__new__(cls, id)
        made._work = work
        return made

    _work: Coroutine[Any, Any, object] | None

    def __await__(self) -> Generator[Any, None, str]:
        """Write, if that is left to do."""
        work, self._work = self._work, None
        if work is not None:
            yield from work.__await__()
        return str.__str__(self)


@dataclass(frozen=True, slots=True)
class NewRow:
    """A checked row, its objects as JSON text."""

    version: int
    id: str
    user_id: str
    run_id: str
    thread_id: str | None
    type: str
    data: str
    meta: str | None
    options: str | None

    def values(self) -> tuple[Any, ...]:
        """Values of ``COLUMNS``."""
        return tuple(getattr(self, name) for name in COLUMNS)


def new_row(
    *,
    user_id: object,
    run_id: object,
    type: object,
    data: object,
    thread_id: object,
    id: object,
    meta: object,
    options: Mapping[str, Any],
) -> NewRow:
    """Check an event as the gateway will.

    Raises:
        InvalidEvent: (or ``InvalidContext``, ``PayloadTooLarge``) names the field.
    """
    user = check_context_id("user_id", user_id)
    run = check_context_id("run_id", run_id)
    thread = None if thread_id is None else check_context_id("thread_id", thread_id)
    name = check_event_type(type)
    _check_sign_in(name, id_flags(user, run, thread))
    encoded = encode_object("data", {} if data is None else data).decode()
    if meta is not None and isinstance(meta, Mapping) and "flags" in meta:
        check_flags(meta["flags"])
    return NewRow(
        version=VERSION,
        id=str(uuid7()) if id is None else check_event_id(id),
        user_id=user,
        run_id=run,
        thread_id=thread,
        type=name,
        data=encoded,
        meta=None if meta is None else encode_object("meta", meta).decode(),
        options=_encode_options(options),
    )


def _check_sign_in(type: str, flags: list[str]) -> None:
    if type not in AUTH_TYPES:
        return
    for flag in flags:
        what, _, name = flag.partition(":")
        if what == PLACEHOLDER:
            raise InvalidContext(
                f"{name} looks like an unfilled template; auth events need real ids", field=name
            )


def _encode_options(given: Mapping[str, Any]) -> str | None:
    found: dict[str, Any] = {}
    for name, value in given.items():
        field = name.rstrip("_")  # `class` is a word of Python
        if field not in OPTIONS:
            raise InvalidEvent(
                f"unknown field {name[:64]!r}; known: {', '.join(sorted(OPTIONS))}",
                field=name[:64],
            )
        if value is not None:
            found[field] = format_instant(value) if isinstance(value, datetime) else value
    return encode_object("options", found).decode() if found else None


def event_json(row: Mapping[str, Any]) -> bytes:
    """The event of a row as it is posted.

    Args:
        row: the columns as the database has them; rows of other programs were not checked before.

    Raises:
        InvalidEvent: no event can be made of it; the gateway checks the rest.
    """
    version = row["version"]
    if not isinstance(version, int):
        raise InvalidEvent("version must be a number", field="version")
    if version != VERSION:
        raise InvalidEvent(
            f"the row has version {version}, and this relay knows version {VERSION}; update it",
            field="version",
        )
    event: dict[str, Any] = {}
    options = _decoded("options", row["options"])
    if options is not None:
        if not isinstance(options, dict) or not _OF_COLUMNS.isdisjoint(options):
            raise InvalidEvent(
                "options must be an object of what has no column of its own, like ttl",
                field="options",
            )
        event.update(options)
    for name in ("id", "type", "user_id", "run_id", "thread_id"):
        if row[name] is not None:
            event[name] = _text(name, row[name])
    event["data"] = _raw("data", row["data"])
    if row["meta"] is not None:
        event["meta"] = _raw("meta", row["meta"])
    try:
        return encode_json(event)
    except UnicodeEncodeError as error:
        raise InvalidEvent("the row holds a text that JSON cannot express") from error


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not is_storable(value):
        raise InvalidEvent(f"{name} must be text that a database takes", field=name)
    return value


def _raw(name: str, value: object) -> msgspec.Raw:
    """A column's JSON as it stands, once it is known to be JSON."""
    _decoded(name, value)
    return msgspec.Raw(value.encode() if isinstance(value, str) else b"null")


def _decoded(name: str, value: object) -> Any:
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidEvent(f"{name} must be JSON text", field=name)
    try:
        return decode_json(value)
    except InvalidFrame as error:
        raise InvalidEvent(f"{name}: {error}", field=name) from error
    except UnicodeEncodeError as error:
        raise InvalidEvent(f"{name} is no text that JSON can express", field=name) from error
