"""Text from outside, and what the ledger can hold of it: one rule for every border.

Owns: which characters no database, header or log takes, and what happens to them. U+0000 is refused
by PostgreSQL, and a surrogate without its pair has no UTF-8 form. Ids, names and filters with one
are refused (``check_text``), because another text is another id; reasons, providers' texts and
other prose get U+FFFD in its place (``storable``), because no text may keep an event or an outcome
from being recorded. Never does: know where a text came from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from delivery.errors import InvalidEvent

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_LONE = re.compile("[\ud800-\udfff]")
_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
MAX_INTEGER_DIGITS = 400


def is_storable(text: str) -> bool:
    """Whether both databases take the text as it is."""
    return text.isprintable() or _UNSTORABLE.search(text) is None


def storable(text: str, length: int | None = None) -> str:
    """The text with U+FFFD for each character that no database takes.

    Args:
        length: characters that are kept.
    """
    if length is not None:
        text = text[:length]
    return text if text.isprintable() else _UNSTORABLE.sub(REPLACEMENT, text)


def check_text(name: str, value: str) -> str:
    """Return an id, name or filter that both databases take.

    Raises:
        InvalidEvent: U+0000 or a lone surrogate is in it; names the field.
    """
    if not is_storable(value):
        raise InvalidEvent(f"{name} contains U+0000 or a lone surrogate", field=name)
    return value


def without_surrogates(value: Any) -> Any:
    """A JSON value with U+FFFD for each lone surrogate, which no encoding can express, in its
    texts and keys. U+0000 stays: JSON writes it as an escape."""
    if isinstance(value, str):
        return value if value.isprintable() else _LONE.sub(REPLACEMENT, value)
    if isinstance(value, Mapping):
        return {without_surrogates(name): without_surrogates(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_surrogates(item) for item in value]
    return value


def decode_surrogates(raw: bytes | str) -> Any:
    """Decode JSON that a strict decoder refused for an escape of a lone surrogate, as JavaScript
    and Python write a text that was cut inside a pair. The texts keep the surrogates.

    Source: RFC 8259, section 8.2.

    Raises:
        ValueError: it has no such escape, or is no JSON all the same.
    """
    text = raw.encode("utf-8", "surrogatepass") if isinstance(raw, str) else raw
    if _ESCAPED_SURROGATE.search(text) is None:
        raise ValueError("no lone surrogate")
    return json.loads(text.decode(), parse_constant=_no_constant, parse_int=_integer)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _integer(digits: str) -> int:
    if len(digits) > MAX_INTEGER_DIGITS:
        raise ValueError("a number is too long")
    return int(digits)
