"""Which push targets users may name: services of a list, nothing that reaches into our network.

Users write these URLs and our workers call them. Owns: the rules on a URL's shape and on an
address. Never does: resolve names; who does asks here about each address.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import parse_qsl

MAX_URL_CHARS = 2_048

# Services over TLS that take everything they need from the URL itself.
SCHEMES = frozenset({
    "discord", "gchat", "gotifys", "jsons", "mmosts", "ntfys", "pbul", "pover", "rockets",
    "slack", "tgram", "workflows", "wxteams",
})  # fmt: skip
# What may stand after the "?": nothing that names a file, another host, a header, or a limit.
_PARAMETERS = frozenset({
    "avatar", "botname", "channel", "click", "device", "footer", "format", "image", "mode",
    "overflow", "ping", "preview", "priority", "silent", "sound", "tags", "thread", "to", "topic",
    "version",
})  # fmt: skip
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # Source: RFC 6052


def scheme_of(url: str) -> str:
    """The lower-case scheme, ``""`` if there is none."""
    return url.partition("://")[0].strip().lower()[:32] if "://" in url else ""


def shape_fault(url: str, schemes: Collection[str] = SCHEMES) -> str | None:
    """Why a URL of this shape is no push target, ``None`` if it may be one.

    The answer never repeats the URL, which holds secrets.
    """
    if len(url) > MAX_URL_CHARS or any(ord(char) <= 32 or char in "\\\x7f" for char in url):
        return "a push URL has no spaces and at most 2,048 characters"
    scheme, mark, rest = url.partition("://")
    if not mark or not rest.strip("/"):
        return "write an Apprise URL like ntfys://host/topic"
    if scheme.lower() not in schemes:
        listed = ", ".join(sorted(schemes)) or "none"
        return f"push scheme {scheme.lower()[:32]!r} is not allowed; known: {listed}"
    query = parse_qsl(url.partition("?")[2], keep_blank_values=True)
    if unknown := sorted({name.lower() for name, _ in query} - _PARAMETERS):
        return f"a push URL may not say {unknown[0][:32]!r} after its '?'"
    return None


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open internet, whatever it is wrapped in."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        # An IPv4 address in an IPv6 coat is judged as what it is.
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo or (None, None))[1]
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast and not ip.is_reserved
