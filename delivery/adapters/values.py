"""What tools and agents hand around, as JSON that an event can carry.

Owns: the limits, and the flags that say what was left out. A value that JSON cannot express becomes
a shortened text of it, and a field that is too large is cut; ``meta.flags`` names the field. Never
does: fail, whatever a framework or a tool hands over, nor keep a reference to it.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import PurePath
from typing import Any
from uuid import UUID

from delivery.domain.event import SHORTENED, UNSERIALISABLE
from delivery.domain.inputs.foreign_text import without_surrogates
from delivery.protocol import encode_json

MAX_TEXT = 16_384
"""Characters of one text."""
MAX_FOREIGN = 500
"""Characters of the text that stands for what JSON cannot express."""
MAX_ITEMS = 2_000
"""Values of one field, on all levels together."""
MAX_LEVELS = 24
MAX_FIELD = 40_000
"""Bytes of one encoded field."""
MAX_FIELDS = 56_000
"""Bytes of all fields of an event; ``data`` has 64 KiB."""
ELLIPSIS = "…"
_MAX_INTEGER = 1 << 63
_AS_TEXT = (UUID, PurePath, Decimal, timedelta)


def fitted(fields: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The fields of an event's ``data`` as JSON, and the flags of those that lost something.

    Args:
        fields: name -> any value; ``None`` is left out.

    Returns:
        New objects only, so that what a tool changes later does not change the event; and
        ``shortened:<field>``, with ``unserialisable:<field>`` where JSON was the reason.
    """
    data: dict[str, Any] = {}
    flags: list[str] = []
    sizes: dict[str, int] = {}
    for name, value in fields.items():
        if value is None:
            continue
        walk = _Walk()
        found = walk.value(value, 0)
        raw = encode_json(found)
        if len(raw) > MAX_FIELD:
            found, raw = _cut(raw, MAX_FIELD)
            walk.is_cut = True
        data[name], sizes[name] = found, len(raw)
        flags += walk.flags(name)
    _fit_all(data, flags, sizes)
    return data, flags


def _fit_all(data: dict[str, Any], flags: list[str], sizes: dict[str, int]) -> None:
    """Halve the largest field until all of them fit together."""
    while sum(sizes.values()) > MAX_FIELDS:
        name = max(sizes, key=lambda field: sizes[field])
        data[name], raw = _cut(encode_json(data[name]), sizes[name] // 2)
        sizes[name] = len(raw)
        if f"{SHORTENED}:{name}" not in flags:
            flags.append(f"{SHORTENED}:{name}")


def _cut(raw: bytes, size: int) -> tuple[str, bytes]:
    """The first bytes of encoded JSON as a text, and that text encoded, of at most ``size``."""
    # Quotes and backslashes are escaped once more: each byte may become two, controls six.
    text = raw[:size].decode(errors="ignore")
    while len(found := encode_json(text + ELLIPSIS)) > size:
        text = text[: len(text) * size // (len(found) + 1) - 1]
    return text + ELLIPSIS, found


def shortened(text: str, length: int = MAX_TEXT) -> str:
    """The text, cut to a number of characters."""
    return text if len(text) <= length else text[: length - 1] + ELLIPSIS


def foreign(value: object) -> str:
    """A short text for what JSON cannot express, as ``repr`` has it where it works."""
    try:
        text = repr(value)
    except Exception as error:  # a tool's own class may do anything
        text = f"<{type(value).__name__}, whose repr fails: {type(error).__name__}>"
    return str(without_surrogates(shortened(text, MAX_FOREIGN)))


class _Walk:
    """Copies one field's value; notes what it had to leave out."""

    def __init__(self) -> None:
        self.is_cut = False
        self.is_foreign = False
        self._items = 0
        self._open: set[int] = set()  # containers around the value: one inside itself ends there

    def flags(self, name: str) -> list[str]:
        """The flags of the field."""
        found = [f"{SHORTENED}:{name}"] if self.is_cut or self.is_foreign else []
        return [*found, f"{UNSERIALISABLE}:{name}"] if self.is_foreign else found

    def value(self, value: Any, level: int) -> Any:
        """The value as JSON."""
        self._items += 1
        if value is None or value is True or value is False:
            return value
        if isinstance(value, enum.Enum):
            return self.value(value.value, level)
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, int | float):
            return self._number(value)
        if isinstance(value, datetime | date | time):
            return value.isoformat()
        if isinstance(value, _AS_TEXT):
            return str(value)
        members = _members(value)
        if members is None and not isinstance(value, list | tuple | set | frozenset):
            return self._foreign(value)
        if level >= MAX_LEVELS or id(value) in self._open:
            return self._foreign(value)
        self._open.add(id(value))
        try:
            if members is None:
                return self._list(value, level)
            return self._object(members, level)
        except Exception:  # a container that changes meanwhile, or fails in its own way
            return self._foreign(value)
        finally:
            self._open.discard(id(value))

    def _object(self, members: Iterator[tuple[Any, Any]], level: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, item in members:
            if self._is_full():
                break
            found[self._key(name)] = self.value(item, level + 1)
        return found

    def _list(self, items: Any, level: int) -> list[Any]:
        found: list[Any] = []
        for item in items:
            if self._is_full():
                break
            found.append(self.value(item, level + 1))
        return found

    def _is_full(self) -> bool:
        if self._items >= MAX_ITEMS:
            self.is_cut = True
            return True
        return False

    def _key(self, name: object) -> str:
        if isinstance(name, str):
            return shortened(without_surrogates(str(name)), MAX_FOREIGN)
        if name is None or isinstance(name, int | float | UUID | date):
            return str(name)
        return self._foreign(name)

    def _text(self, text: str) -> str:
        if len(text) > MAX_TEXT:
            self.is_cut = True
        return str(without_surrogates(shortened(str(text))))

    def _number(self, number: float) -> Any:
        if isinstance(number, int):
            return int(number) if -_MAX_INTEGER <= number < _MAX_INTEGER else self._foreign(number)
        return float(number) if math.isfinite(number) else self._foreign(number)

    def _foreign(self, value: object) -> str:
        self.is_foreign = True
        return foreign(value)


def _members(value: Any) -> Iterator[tuple[Any, Any]] | None:
    """Names and values of a mapping, a dataclass or a pydantic model; ``None`` for anything else.
    Attributes are read one by one: no method of the value's own makes a copy first."""
    if isinstance(value, Mapping):
        return iter(value.items())
    if isinstance(value, type):
        return None
    if dataclasses.is_dataclass(value):
        return ((one.name, getattr(value, one.name)) for one in dataclasses.fields(value))
    fields = getattr(type(value), "__pydantic_fields__", None)
    if isinstance(fields, dict):
        return ((name, getattr(value, name, None)) for name in fields)
    return None
