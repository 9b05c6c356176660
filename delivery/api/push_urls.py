"""The check of a push target that a user wants to store.

Owns: resolving its host and the answer to the caller; the rules are ``domain.push_target``'s.
Never does: send. The address is checked again when a message is sent, because a name may point
elsewhere by then.
"""

from __future__ import annotations

import socket
from collections.abc import Collection
from urllib.parse import unquote, urlsplit

from delivery.domain.push_target import is_public, scheme_of, shape_fault
from delivery.errors import InvalidEvent

# These talk to one address of their own: what stands in the host's place is a key.
_FIXED_HOST = frozenset({"discord", "gchat", "pbul", "pover", "slack", "tgram", "wxteams"})


def check_push_url(url: str, schemes: Collection[str], allow_private: bool = False) -> None:
    """Refuse a push target that is not allowed. Resolves names: call it in a thread.

    Args:
        url: an Apprise URL.
        schemes: the schemes that are allowed.
        allow_private: also take targets in private networks (tests, closed networks).

    Raises:
        InvalidEvent: ``field`` is ``push``; the message never repeats the URL, which holds secrets.
    """
    fault = shape_fault(url, schemes)
    if fault is not None:
        raise InvalidEvent(f"push: {fault}", field="push")
    if scheme_of(url) in _FIXED_HOST:
        return
    addresses = _addresses(_host(url))
    if not allow_private and not all(is_public(address) for address in addresses):
        raise InvalidEvent(
            "push: the host is in a private network; name one that is reachable from outside",
            field="push",
        )


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
