"""Which addresses a block of code may connect to, checked at the connect.

Owns: the rule in force for a block and for threads in its context, and the check of each address.
Never does: resolve names.

A name can resolve differently between two look-ups, so a check before a call says nothing about the
call. Here the address of the system call is checked, for every library and however it got the
address: a second look-up, a redirect, an uncommon notation.
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

# The address is their second argument. Source: Python's table of audit events.
_EVENTS = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg"})
_rule: ContextVar[IsAllowed | None] = ContextVar("delivery_reach", default=None)
_installing = threading.Lock()
_installed = False


class AddressRefused(PermissionError):
    """The block may not connect to an address. To libraries the host is unreachable."""


@contextmanager
def only_to(is_allowed: IsAllowed) -> Iterator[None]:
    """Let the block, and threads in its context, connect to allowed IP addresses only.

    Args:
        is_allowed: called with an address without its port; other address families are refused.
    """
    _install()
    token = _rule.set(is_allowed)
    try:
        yield
    finally:
        _rule.reset(token)


def _install() -> None:
    """Install the audit hook, once and for good; outside of blocks it allows everything."""
    global _installed
    with _installing:
        if not _installed:
            sys.addaudithook(_check)
            _installed = True


def _check(event: str, args: tuple[Any, ...]) -> None:
    if event not in _EVENTS:
        return
    is_allowed = _rule.get()
    if is_allowed is None:
        return
    address = args[1]
    if address is None:  # a connected socket: checked before
        return
    host = address[0] if isinstance(address, tuple) and address else ""
    if not isinstance(host, str) or not is_allowed(host):
        raise AddressRefused(errno.EACCES, "the address is not one that may be called from here")
