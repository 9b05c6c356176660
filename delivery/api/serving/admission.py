"""Admission of TCP connections, before a caller is known.

Owns: the number of connections per address, and the file descriptors that are reserved for the
ledger, the spool and the log. Never does: read a request; a refused connection is reset at once.
"""

from __future__ import annotations

import ipaddress
import os
import resource
from collections.abc import Sequence

from delivery.domain.inputs.counted_addresses import counted_address

RESERVE = 64
"""File descriptors reserved for database connections, files and pipes."""
BACKLOG = (128, 4_096)
"""Connections that the kernel may queue for the listener: least, most. A crowd that comes back at
once connects within milliseconds. What finds no place is not answered, and its kernel asks again
after 1, 3, 7, 15 and 31 seconds. Linux takes at most ``net.core.somaxconn``, 4,096 by default."""
BACKLOG_SHARE = 8
"""One in so many of the process's descriptors: all queued connections are accepted in one turn of
the loop, before any is refused."""


class Admission:
    """Counts the connections of each address.

    Args:
        per_address: open connections of one address (with IPv6: of one /64), at most; 0: no
            limit.
        exempt: addresses or networks without that limit: proxies, whose connections are those of
            all their clients.
        room: open connections of all addresses, at most; ``None``: no limit.
    """

    def __init__(
        self, per_address: int = 0, exempt: Sequence[str] = (), room: int | None = None
    ) -> None:
        self._per_address = per_address
        self._exempt = tuple(ipaddress.ip_network(one, strict=False) for one in exempt)
        self._room = room
        self._open: dict[str, int] = {}
        self._total = 0
        self.refused = 0

    def enter(self, address: str) -> bool:
        """Count a new connection; ``False``: refuse it."""
        counted = counted_address(address)
        count = self._open.get(counted, 0)
        is_full = self._room is not None and self._total >= self._room
        is_over = 0 < self._per_address <= count and not self._is_exempt(address)
        if is_full or is_over:
            self.refused += 1
            return False
        self._open[counted] = count + 1
        self._total += 1
        return True

    def leave(self, address: str) -> None:
        """Stop counting an admitted connection, which has ended."""
        self._total -= 1
        counted = counted_address(address)
        left = self._open[counted] - 1
        if left:
            self._open[counted] = left
        else:
            del self._open[counted]

    def _is_exempt(self, address: str) -> bool:
        if not self._exempt:
            return False
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(ip in network for network in self._exempt)


def room_for_clients() -> int | None:
    """Connections for which this process has descriptors beside ``RESERVE`` and those that the
    kernel may queue; ``None``: no limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        used = len(os.listdir("/proc/self/fd"))
    except OSError:  # not Linux
        used = RESERVE
    return max(1, limit - used - min(RESERVE + listen_backlog(), limit // 2))


def listen_backlog() -> int:
    """Connections that the kernel may queue for one listener of this process."""
    least, most = BACKLOG
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return most
    return max(least, min(most, limit // BACKLOG_SHARE))
