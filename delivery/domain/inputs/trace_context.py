"""``traceparent``: where an event's trace comes from.

Source: W3C Trace Context, section 3.2 (https://www.w3.org/TR/trace-context/).
"""

from __future__ import annotations

import re

MAX_TRACEPARENT = 128
_TRACEPARENT = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
    r"(?P<more>-[\x21-\x7e]*)?"
)


def is_traceparent(value: object) -> bool:
    """Whether a value is a valid ``traceparent``; later versions may have more at their end."""
    if not isinstance(value, str) or len(value) > MAX_TRACEPARENT:
        return False
    found = _TRACEPARENT.fullmatch(value)
    return found is not None and (found["more"] is None or found["version"] != "00")
