"""The check on an object that a caller wants carried: ``data`` and ``meta``.

Owns: what JSON can say, and how much of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

import msgspec

from delivery.domain.event import MAX_DATA_BYTES
from delivery.domain.json_limits import check_depth
from delivery.errors import InvalidEvent, InvalidFrame, PayloadTooLarge

_encode = msgspec.json.Encoder().encode


def encode_object(name: str, value: object) -> bytes:
    """Encode a caller's object once, for good: what was checked is what is sent and stored.

    Args:
        name: the field, for errors.
        value: must be a mapping that JSON can say.

    Raises:
        InvalidEvent: not an object, nested over 64 levels, or it holds something that JSON has no
            word for.
        PayloadTooLarge: over 64 KiB encoded.
    """
    # The everyday type first: asking an abstract class takes longer than the encoding.
    if type(value) is not dict and not isinstance(value, Mapping):
        raise InvalidEvent(f"{name} must be an object, not {type(value).__name__}", field=name)
    try:
        raw = _encode(value)
    except RecursionError:
        raise InvalidEvent(f"{name} is nested too deeply, or contains itself", field=name) from None
    except (TypeError, ValueError, OverflowError) as error:
        # UnicodeEncodeError (a lone surrogate) is a ValueError.
        raise InvalidEvent(f"{name} cannot be said in JSON: {error}", field=name) from error
    if len(raw) > MAX_DATA_BYTES:
        raise PayloadTooLarge(
            f"{name} is {len(raw)} bytes encoded; at most {MAX_DATA_BYTES} are carried: "
            "store it elsewhere and send a link",
            field=name,
        )
    try:
        check_depth(raw)
    except InvalidFrame as error:
        raise InvalidEvent(f"{name}: {error}", field=name) from error
    # The encoder writes NaN and the infinities as null; only then is the walk worth its time.
    # (find() takes half of what "in" takes.)
    if raw.find(b"null") >= 0 and _holds_no_number(value):
        raise InvalidEvent(f"{name} contains NaN or an infinity, which JSON cannot say", field=name)
    return raw


def _holds_no_number(value: Any) -> bool:
    """Whether a float without a JSON form hides anywhere inside."""
    if isinstance(value, float):
        return not isfinite(value)
    if isinstance(value, Mapping):
        return any(_holds_no_number(item) for item in value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return any(_holds_no_number(item) for item in value)
    return False
