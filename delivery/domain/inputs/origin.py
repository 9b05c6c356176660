"""Origins of web pages, as browsers name them in the header ``Origin``. Pure.

Source: RFC 6454, sections 4 and 6.2.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

ANY = "*"
_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?\Z"
)
_PORTS = {"http": "80", "https": "443"}


def parse_origin(text: str) -> str:
    """Return an origin as browsers write it: in lower case, without the scheme's own port.

    Raises:
        ValueError: no origin: says what to write.
    """
    found = _ORIGIN.match(text.strip().lower())
    if found is None or int(found["port"] or 0) > 65_535:
        raise ValueError(
            f"{text[:100]!r} is no origin: write https://app.example.org, with the port where it "
            "has one, without a path; a name of other letters as xn--…; or * for any"
        )
    port = found["port"]
    if port is None or port == _PORTS.get(found["scheme"]):
        return f"{found['scheme']}://{found['host']}"
    return f"{found['scheme']}://{found['host']}:{int(port)}"


def origin_of(url: str) -> str | None:
    """The origin of a URL; ``None`` for what has none."""
    parts = urlsplit(url)
    try:
        return parse_origin(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}")
    except ValueError:
        return None
