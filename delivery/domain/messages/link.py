"""Links that messages may carry: to the application's own origins, and nowhere else.

Owns: the check of an address that an event names. An event's text may come from a model, or from
what a model read: a mail of ours must not lead its reader to a stranger. Never does: fetch one.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from urllib.parse import quote, urlsplit

from delivery.domain.inputs.origin import origin_of

MAX_URL = 2_048
_SCHEMES = ("http", "https")
# Browsers read a backslash as a slash, and drop tabs and line ends; the others end an attribute, a
# header or the address itself in some reader.
_NEVER = re.compile(r"[\x00-\x20\x7f-\xa0\\\"<>`{}|^]")
_KEPT = "!#$%&'()*+,/:;=?@[]~-._"


def read_link(value: object, origins: Collection[str], base: str | None = None) -> str:
    """Return an address in ASCII that leads to one of ``origins``.

    Args:
        origins: in the form of ``parse_origin``.
        base: where a path (``/orders/7``) is meant; ``None`` if there is no such place.

    Raises:
        ValueError: the address is not used; says why, without quoting it.
    """
    if not isinstance(value, str) or not value:
        raise ValueError("is no text")
    if len(value) > MAX_URL:
        raise ValueError(f"has more than {MAX_URL} characters")
    if _NEVER.search(value) or not value.isprintable():
        raise ValueError("has a character that no address has")
    if base is not None and value.startswith("/") and not value.startswith("//"):
        parts = urlsplit(base)
        value = f"{parts.scheme}://{parts.netloc}{value}"
    try:
        found = urlsplit(value)
        origin = origin_of(value)
    except ValueError:
        raise ValueError("is no address") from None
    if found.scheme not in _SCHEMES or not found.netloc:
        raise ValueError("is no https:// address")
    if "@" in found.netloc:
        raise ValueError("names a user before its host")
    if origin is None or not found.netloc.isascii():
        raise ValueError("names a host that cannot be read")
    if origin not in origins:
        raise ValueError(f"leads to {origin[:100]}, which is not listed")
    address = quote(value, safe=_KEPT)
    if len(address) > MAX_URL:
        raise ValueError(f"has more than {MAX_URL} characters")
    return address


def own_link(value: str) -> str:
    """Return an address that a setting names, in ASCII.

    Raises:
        ValueError: says what to write.
    """
    try:
        return read_link(value, (origin_of(value) or "",))
    except ValueError as error:
        raise ValueError(f"{error}: write a URL like https://app.example.org") from None
