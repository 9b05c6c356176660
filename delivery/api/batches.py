"""The body of ``POST /v1/events``: one event, a list of events, or one event per line.

Owns: its limits, which are checked before anything is decoded. Never does: look into an event.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from delivery.api.problems import Problem
from delivery.api.requests import check_known, parse_json
from delivery.domain.event import MAX_DATA_BYTES
from delivery.domain.inputs import json_limits
from delivery.domain.inputs.foreign_text import decode_surrogates
from delivery.domain.limits import MAX_EVENTS
from delivery.errors import InvalidFrame

MAX_LINES = 10 * MAX_EVENTS
MAX_ITEM = 1 << 20
"""Bytes of one encoded event: escapes may make 64 KiB of data six times as long."""
MAX_VALUES = 3 * MAX_DATA_BYTES
NDJSON = ("application/x-ndjson", "application/jsonl")


@dataclass(frozen=True, slots=True)
class Batch:
    """Events of one request.

    Attributes:
        items: events as a caller sends them; an error in place of one that cannot be one.
        is_single: the body was one event, without a list.
        keys: of CloudEvents, (source, id) of each item, ``None`` for an error.
    """

    items: Sequence[Any]
    is_single: bool
    keys: Sequence[tuple[str, str] | None] = ()


def parse_batch(content_type: str, raw: bytes) -> Batch:
    """Parse a body: one event, a list of events, or one event per line.

    Raises:
        Problem: 400 not JSON, 413 too many, 422 another shape.
    """
    if content_type in NDJSON:
        return Batch(
            [decode_item(line, line=number) for number, line in _lines(raw)], is_single=False
        )
    check_shape(raw)
    try:
        body = _members(raw)
    except Problem:
        found = _with_surrogates(raw)
        if found is None:
            raise
        return found
    if "events" not in body:
        return Batch([decode_item(raw)], is_single=True)
    check_known(body, {"events"})
    try:
        items = msgspec.json.decode(body["events"], type=list[msgspec.Raw])
    except msgspec.ValidationError:
        raise Problem(
            "invalid-request", "events must be a list of events", field="events"
        ) from None
    _check_count(len(items))
    return Batch([decode_item(bytes(item)) for item in items], is_single=False)


def _lines(raw: bytes) -> list[tuple[int, bytes]]:
    if raw.count(b"\n") > MAX_LINES:
        raise Problem("payload-too-large", f"over {MAX_LINES} lines in one request")
    lines = [(n, line) for n, line in enumerate(raw.split(b"\n"), 1) if line.strip()]
    _check_count(len(lines))
    return lines


def check_shape(raw: bytes) -> None:
    """Refuse a body with too many levels, members or events, before it is decoded.

    Raises:
        Problem: 400 or 413.
    """
    try:
        json_limits.check_shape(raw, most_items=MAX_EVENTS)
    except json_limits.TooManyItems as error:
        detail = f"{error}; at most {MAX_EVENTS} events go in one request"
        raise Problem("payload-too-large", detail, field="events") from error
    except InvalidFrame as error:
        raise Problem("not-json", str(error)) from error


def _members(raw: bytes) -> dict[str, msgspec.Raw]:
    """Decode the outermost object; its members stay encoded."""
    if not raw.strip():
        raise Problem("not-json", "the body is empty; send JSON")
    try:
        return msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:
        raise Problem(
            "invalid-request", 'the body must be one event, or {"events": [...]}, as a JSON object'
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Problem("not-json", f"not JSON: {error}") from error


def _with_surrogates(raw: bytes) -> Batch | None:
    """Decode a body whose texts hold lone surrogates, which the fast decoder refuses; ``None``
    for any other body."""
    if _count_values(raw) > MAX_VALUES:
        return None
    try:
        body = decode_surrogates(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict) or "events" not in body:
        return Batch([body], is_single=True) if isinstance(body, dict) else None
    check_known(body, {"events"})
    items = body["events"]
    if not isinstance(items, list):
        raise Problem("invalid-request", "events must be a list of events", field="events")
    _check_count(len(items))
    return Batch(items, is_single=False)


def check_list(raw: bytes) -> None:
    """Refuse what is no list by itself. Inside another text it could end that text's own object,
    and begin members of it.

    Args:
        raw: within the limits of a body.

    Raises:
        Problem: 400.
    """
    try:
        msgspec.json.decode(raw, type=list[msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        fault = Problem("not-json", f"not a JSON list: {error}")
        if _count_values(raw) > MAX_VALUES:
            raise fault from error
        try:
            decode_surrogates(raw)
        except (ValueError, RecursionError):
            raise fault from error


def _count_values(raw: bytes) -> int:
    return raw.count(b",") + raw.count(b"[") + raw.count(b"{")


def decode_item(raw: bytes, *, line: int | None = None) -> Any:
    """Decode one event. Its data and meta have 64 KiB each: an event with more text or more values
    than fit is refused before it is decoded.

    Raises:
        Problem: 400 or 413.
    """
    if len(raw) > MAX_ITEM or _count_values(raw) > MAX_VALUES:
        raise Problem("payload-too-large", "an event has at most 64 KiB of data", field="data")
    return parse_json(raw, line=line)


def _check_count(count: int) -> None:
    if count == 0:
        raise Problem("invalid-request", "there is no event in the body", field="events")
    if count > MAX_EVENTS:
        raise Problem(
            "payload-too-large",
            f"{count} events in one request; at most {MAX_EVENTS}",
            field="events",
        )
