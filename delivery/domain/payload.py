"""The check on a caller's objects, ``data`` and ``meta``.

Owns: which values JSON can express, and the size limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

import msgspec

from delivery.domain.event import MAX_DATA_BYTES
from delivery.domain.inputs.foreign_text import without_surrogates
from delivery.domain.inputs.json_limits import check_depth
from delivery.errors import InvalidEvent, InvalidFrame, PayloadTooLarge

_encode = msgspec.json.Encoder().encode


def encode_object(name: str, value: object) -> bytes:
    """Encode a caller's object once: the bytes that were checked are sent and stored.

    Args:
        name: the field, for errors.
        value: must be a mapping that JSON can express.

    Raises:
        InvalidEvent: not an object, nested over 64 levels, or it holds a value that JSON cannot
            express.
        PayloadTooLarge: over 64 KiB encoded.
    """
    # The common type first: isinstance() with an abstract class takes longer than the encoding.
    if type(value) is not dict and not isinstance(value, Mapping):
        raise InvalidEvent(f"{name} must be an object, not {type(value).__name__}", field=name)
    try:
        raw = _encoded(value)
    except RecursionError:
        raise InvalidEvent(f"{name} is nested too deeply, or contains itself", field=name) from None
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidEvent(f"{name} cannot be encoded as JSON: {error}", field=name) from error
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
    # The encoder writes NaN and the infinities as null: without a null there is nothing to look
    # for. (find() takes half the time of "in".)
    if raw.find(b"null") >= 0 and _has_non_finite(value):
        raise InvalidEvent(
            f"{name} contains NaN or an infinity, which JSON does not have", field=name
        )
    return raw


def _encoded(value: object) -> bytes:
    try:
        return _encode(value)
    except UnicodeEncodeError:
        # A text that was cut inside a surrogate pair, as streams of tokens are, costs no event: the
        # half becomes U+FFFD.
        return _encode(without_surrogates(msgspec.to_builtins(value)))


def _has_non_finite(value: Any) -> bool:
    """Whether a value contains a NaN or an infinity at any depth."""
    if isinstance(value, float):
        return not isfinite(value)
    if isinstance(value, Mapping):
        return any(_has_non_finite(item) for item in value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return any(_has_non_finite(item) for item in value)
    return False
