"""Which push targets users may name: services of a list, and nothing inside our network.

Users write these URLs and our workers call them. Owns: the rules on a URL's shape and on an
address. Never does: resolve names; the resolver asks here about each address.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from urllib.parse import unquote

MAX_URL_CHARS = 2_048

# Services over TLS that need nothing but the URL.
SCHEMES = frozenset(
    {
        "discord",
        "gchat",
        "gotifys",
        "jsons",
        "mmosts",
        "ntfys",
        "pbul",
        "pover",
        "rockets",
        "slack",
        "tgram",
        "workflows",
        "wxteams",
    }
)
# Parameters allowed after the "?": none names a file, another host, a header, or a limit.
PARAMETERS = frozenset(
    {
        "avatar",
        "botname",
        "channel",
        "click",
        "device",
        "footer",
        "format",
        "image",
        "mode",
        "overflow",
        "ping",
        "preview",
        "priority",
        "silent",
        "sound",
        "tags",
        "thread",
        "to",
        "topic",
        "version",
    }
)
# A shape that all parsers read alike: one user part, one host, one port, no escapes in them.
_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://"
    r"(?:[A-Za-z0-9._~%!$*'()-]*(?::[A-Za-z0-9._~%!$*'()-]*)?@)?"
    r"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[A-Za-z0-9_-]+)?"
    r"(?:/(?P<path>[^?;\\]*))?"
    r"(?:\?(?P<query>[^?;#]*))?"
)
_PAIR = re.compile(r"(?P<name>[A-Za-z]+)=(?P<value>[^&]*)")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # Source: RFC 6052
_LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")  # Source: RFC 8215
_METADATA = frozenset(
    ipaddress.ip_address(address)
    for address in ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200")
)
"""Where clouds serve machine credentials beside the link-local addresses: Amazon and Google over
IPv6, Alibaba. Source: the documents of their metadata services."""


def scheme_of(url: str) -> str:
    """The lower-case scheme, ``""`` if there is none."""
    return url.partition("://")[0].strip().lower()[:32] if "://" in url else ""


def shape_fault(url: str, schemes: Collection[str] = SCHEMES) -> str | None:
    """Why a URL's shape is not allowed as a push target, ``None`` if it is.

    The answer never repeats the URL, which holds secrets.
    """
    if len(url) > MAX_URL_CHARS or not all(" " < char <= "~" for char in url):
        return (
            "a push URL has no spaces and at most 2,048 characters of ASCII; escape others with %"
        )
    scheme, mark, rest = url.partition("://")
    if not mark or not rest.strip("/"):
        return "write an Apprise URL like ntfys://host/topic"
    if scheme.lower() not in schemes:
        listed = ", ".join(sorted(schemes)) or "none"
        return f"push scheme {scheme.lower()[:32]!r} is not allowed; known: {listed}"
    found = _URL.fullmatch(url)
    if found is None or "#" in (found["path"] or "").replace("/#", "/").removeprefix("#"):
        return "a push URL is scheme://user:password@host:port/path?name=value&name=value"
    if _has_controls(url):
        return "a push URL holds no control characters, however they are escaped"
    return parameter_fault(found["query"] or "")


def parameter_fault(query: str) -> str | None:
    """Why a push URL's query is not allowed, ``None`` if it is."""
    names: set[str] = set()
    for pair in query.split("&") if query else ():
        name = pair.partition("=")[0].lower()
        found = _PAIR.fullmatch(pair)
        if name not in PARAMETERS or found is None or name in names:
            return f"a push URL may not have {name[:32]!r} after its '?', and no name twice"
        if name == "format" and found["value"] != "text":
            return "a push URL's format must be text: events contain no markup"
        names.add(name)
    return None


def _has_controls(text: str) -> bool:
    """Whether a text has a control character after any number of percent-decodings."""
    for _ in range(8):
        if any(ord(char) < 32 or 127 <= ord(char) < 160 for char in text):
            return True
        text, before = unquote(text), text
        if text == before:
            return False
    return True


def is_public(address: str) -> bool:
    """Whether an IP address is public; an IPv4 address inside an IPv6 one is judged as IPv4."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and (inner := _inner(ip)) is not None:
        return ip not in _LOCAL_NAT64 and is_public(str(inner))
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def is_callable(address: str) -> bool:
    """Whether an installation's own URL may lead to an IP address: private networks are allowed;
    multicast is not, and neither is where clouds serve machine credentials (link-local, and a few
    addresses more)."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and (inner := _inner(ip)) is not None:
        ip = inner
    return not (ip.is_link_local or ip.is_multicast or ip in _METADATA)


def _inner(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address embeds, if any."""
    inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo or (None, None))[1]
    if inner is None and (ip in _NAT64 or ip in _LOCAL_NAT64):
        inner = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
    return inner
