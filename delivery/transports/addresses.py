"""Hosts that a user's push URL may name: public ones only.

Owns: the check of an address and of all addresses of a name. Never does: connect. A name may
resolve differently a moment later: ``reach`` checks the address at the connect.
"""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable

from delivery.domain.inputs.push_target import is_public
from delivery.errors import ChannelRejected, ChannelUnavailable

Resolve = Callable[[str, float], list[str]]


def resolve(host: str, timeout: float) -> list[str]:
    """All addresses of a name, within ``timeout`` seconds.

    Raises:
        ChannelUnavailable: the name is unknown, or the name server does not answer.
    """
    # getaddrinfo has no timeout, so it runs in a daemon thread.
    answer: queue.Queue[list[str] | OSError | UnicodeError] = queue.Queue(1)

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            answer.put([str(row[4][0]) for row in found])
        except (OSError, UnicodeError) as error:
            answer.put(error)

    threading.Thread(target=ask, name="resolve", daemon=True).start()
    try:
        got = answer.get(timeout=timeout)
    except queue.Empty:
        raise ChannelUnavailable(f"the name {host!r} did not resolve in {timeout:.1f} s") from None
    if isinstance(got, list):
        return got
    raise ChannelUnavailable(f"the name {host!r} does not resolve") from got


def require_public(host: str, timeout: float, *, resolve: Resolve = resolve) -> None:
    """Refuse a host with any private, loopback, link-local or otherwise special address.

    Raises:
        ChannelRejected: it has one.
        ChannelUnavailable: it does not resolve now.
    """
    addresses = resolve(host.strip("[]"), timeout)
    if not addresses or not all(is_public(address) for address in addresses):
        raise ChannelRejected(f"the host {host!r} has an address that is not public")
