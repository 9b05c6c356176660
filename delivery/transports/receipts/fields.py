"""Fields of a provider's report, which is foreign JSON: read with care, never trusted in kind.

Owns: the reading of texts, instants and lists of any value. Never does: raise for a wrong kind.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from delivery.domain.inputs.foreign_text import is_storable
from delivery.domain.users.receipts import MAX_CODE, MAX_TEXT
from delivery.errors import InvalidReceipt
from delivery.transports.mail.reference import NAME
from delivery.transports.text import provider_text

REFERENCE = NAME
MAX_HEADERS = 200
MAX_NAME = 998  # a Message-ID fits into a line of a mail


def report(body: Any) -> Mapping[str, Any]:
    """The body as an object.

    Raises:
        InvalidReceipt: it is none.
    """
    if not isinstance(body, dict):
        raise InvalidReceipt("the body must be a JSON object")
    return body


def inside(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An object inside; empty if there is none."""
    found = body.get(name)
    return found if isinstance(found, dict) else {}


def required(body: Mapping[str, Any], name: str) -> str:
    """A text that must be there.

    Raises:
        InvalidReceipt: it is not.
    """
    found = body.get(name)
    if not isinstance(found, str) or not found:
        raise InvalidReceipt(f"{name} must be a string", field=name)
    return found


def name_of(message: Any, field: str) -> str:
    """The name of a message, as it is looked for.

    Raises:
        InvalidReceipt: it is missing, or no database takes it.
    """
    if not isinstance(message, str) or not 0 < len(message) <= MAX_NAME:
        raise InvalidReceipt(f"{field} must be a string", field=field)
    if not is_storable(message):
        raise InvalidReceipt(f"{field} contains U+0000 or a lone surrogate", field=field)
    return message


def words(value: Any, length: int = MAX_TEXT) -> str | None:
    """A provider's text or number, fit for the ledger; ``None`` for another kind and for none."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return provider_text(value, length) or None


def code(value: Any) -> str | None:
    """A provider's code; ``None`` for none."""
    return words(value, MAX_CODE)


def first(value: Any) -> Any:
    """The first item of a list, or the value itself."""
    return (value[0] if value else None) if isinstance(value, list) else value


def references(*values: Any) -> tuple[str, ...]:
    """Names of a message among these values, in order, each once."""
    return tuple(dict.fromkeys(value for value in values if isinstance(value, str) and value))


def header(headers: Any, name: str) -> Any:
    """A header's value in a list of ``{"name", "value"}``; ``None`` if it is not there."""
    for item in headers[:MAX_HEADERS] if isinstance(headers, list) else ():
        if isinstance(item, dict) and str(item.get("name", "")).lower() == name.lower():
            return item.get("value")
    return None


def tag(tags: Any, name: str) -> Any:
    """A tag's value: tags are an object or a list of ``{"name", "value"}``."""
    return first(tags.get(name)) if isinstance(tags, dict) else header(tags, name)


def instant(value: Any) -> datetime | None:
    """An instant given as epoch seconds or in RFC 3339; ``None`` for any other value."""
    try:
        if isinstance(value, str):
            found = datetime.fromisoformat(value[:64])
            return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return None
