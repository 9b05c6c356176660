"""Where a block of code may connect to, judged at the moment of the connect.

Owns: the rule in force for a block and for what it starts, and the look at each address. Never
does: resolve names.

A name can lead elsewhere between two look-ups, so a check before a call says nothing about the
call. Here the very address that the system is asked to connect to is checked, whichever library
asks and however it came by it: a second look-up, a redirect, an odd spelling.
"""

from __future__ import annotations

import errno
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

IsAllowed = Callable[[str], bool]

# Source: Python's table of audit events. The address is their second argument.
_EVENTS = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg"})
_rule: ContextVar[IsAllowed | None] = ContextVar("delivery_reach", default=None)
_installing = threading.Lock()
_installed = False


class AddressRefused(PermissionError):
    """The block may not connect there. Libraries take it for a host that cannot be reached."""


@contextmanager
def only_to(is_allowed: IsAllowed) -> Iterator[None]:
    """The block, and threads it starts in its own context, connect to such IP addresses only.

    Args:
        is_allowed: told an address without its port; anything but IP is refused unasked.
    """
    _install()
    token = _rule.set(is_allowed)
    try:
        yield
    finally:
        _rule.reset(token)


def _install() -> None:
    """Effect: one audit hook for the life of the process; it passes everything outside blocks."""
    global _installed
    with _installing:
        if not _installed:
            sys.addaudithook(_look)
            _installed = True


def _look(event: str, args: tuple[Any, ...]) -> None:
    if event not in _EVENTS:
        return
    is_allowed = _rule.get()
    if is_allowed is None:
        return
    address = args[1]
    if address is None:  # on a socket that is connected, and so was checked
        return
    host = address[0] if isinstance(address, tuple) and address else ""
    if not isinstance(host, str) or not is_allowed(host):
        raise AddressRefused(errno.EACCES, "the address is not one that may be called from here")
