"""Which push targets a user may store: listed services only, nothing inside our own network.

Owns: the check of one Apprise URL. Never does: send. The address is checked again when a message
is sent, because a name may point elsewhere by then.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection
from urllib.parse import parse_qsl, unquote, urlsplit

from delivery.errors import InvalidEvent

# Services over TLS that take everything they need from the URL itself. The channel that sends
# knows the same ones: what is stored here must be usable there.
DEFAULT_SCHEMES = frozenset({
    "discord", "gchat", "gotifys", "jsons", "mmosts", "ntfys", "pbul", "pover", "rockets",
    "slack", "tgram", "workflows", "wxteams",
})  # fmt: skip
# What may stand after the "?": nothing that names a file, another host, a header, or a limit.
_PARAMETERS = frozenset({
    "avatar", "botname", "channel", "click", "device", "footer", "format", "image", "mode",
    "overflow", "ping", "preview", "priority", "silent", "sound", "tags", "thread", "to", "topic",
    "version",
})  # fmt: skip
# These talk to one address of their own: what stands in the host's place is a key.
_FIXED_HOST = frozenset({"discord", "gchat", "pbul", "pover", "slack", "tgram", "wxteams"})
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # Source: RFC 6052
MAX_URL_CHARS = 2_048


def check_push_url(url: str, schemes: Collection[str], allow_private: bool = False) -> None:
    """Refuse a push target that is not allowed. Resolves names: call it in a thread.

    Args:
        url: an Apprise URL.
        schemes: the schemes that are allowed.
        allow_private: also take targets in private networks (tests, closed networks).

    Raises:
        InvalidEvent: ``field`` is ``push``; the message never repeats the URL, which holds secrets.
    """
    scheme = _scheme(url)
    if scheme not in schemes:
        listed = ", ".join(sorted(schemes)) or "none"
        raise InvalidEvent(
            f"push: scheme {scheme[:32]!r} is not allowed; known: {listed}", field="push"
        )
    query = parse_qsl(url.partition("?")[2], keep_blank_values=True)
    if unknown := sorted({name.lower() for name, _ in query} - _PARAMETERS):
        raise InvalidEvent(f"push: parameter {unknown[0][:32]!r} is not allowed", field="push")
    if scheme in _FIXED_HOST:
        return
    addresses = _addresses(_host(url))
    if not allow_private and not all(_is_public(address) for address in addresses):
        raise InvalidEvent(
            "push: the host is in a private network; name one that is reachable from outside",
            field="push",
        )


def _scheme(url: str) -> str:
    if len(url) > MAX_URL_CHARS or any(ord(char) <= 32 or char in "\\\x7f" for char in url):
        raise InvalidEvent("push: a URL has no spaces and at most 2,048 characters", field="push")
    scheme, mark, rest = url.partition("://")
    if not mark or not rest.strip("/"):
        raise InvalidEvent("push: write an Apprise URL like ntfys://host/topic", field="push")
    return scheme.lower()


def _host(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host:
        raise InvalidEvent("push: the URL's host or port is malformed", field="push")
    # Apprise decodes %-escapes in the host, so that is what must be looked at.
    return unquote(host).strip(".")


def _addresses(host: str) -> list[str]:
    """Every address the host stands for; none for a word that is no host (a token, a topic)."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [str(entry[4][0]) for entry in found]


def _is_public(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        # An IPv4 address in an IPv6 coat is judged as what it is.
        inner = parsed.ipv4_mapped or parsed.sixtofour or (parsed.teredo or (None, None))[1]
        if inner is None and parsed in _NAT64:
            inner = ipaddress.IPv4Address(int(parsed) & 0xFFFF_FFFF)
        parsed = inner or parsed
    return parsed.is_global and not parsed.is_multicast and not parsed.is_reserved
