"""Listening sockets, and how they close without cutting off a caller.

Owns: what happens to connections that the kernel took and this process has not accepted yet. Never
does: speak to them; the runner's connections do.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import selectors
import socket
import struct
import sys
from asyncio.trsock import TransportSocket

from aiohttp import web

Listener = socket.socket | TransportSocket
logger = logging.getLogger(__name__)

ACCEPT_WAIT = 1.0
"""Seconds in which the connections that wait at a closing listener are accepted."""
_SO_ATTACH_FILTER = 26
# A classic BPF program over the TCP header: drop what has SYN without ACK, pass the rest.
# Source: linux/filter.h, and RFC 9293, section 3.1 (byte 13 holds the flags).
_NO_SYN = (
    (0x30, 0, 0, 13),  # ldb [13]
    (0x54, 0, 0, 0x12),  # and #(SYN | ACK)
    (0x15, 0, 1, 0x02),  # jeq #SYN, the next one, or that behind it
    (0x06, 0, 0, 0),  # ret #0
    (0x06, 0, 0, 0xFFFFFFFF),  # ret #-1
)


class Site(web.TCPSite):
    """A listener on one address."""

    async def stop(self) -> None:
        """Listen no more. Connections that stood before are accepted first.

        A listener that closes resets those, and a proxy does not repeat the ``POST`` that it sent
        on one of them. Callers that connect meanwhile are not answered, and try elsewhere.
        """
        for listener in getattr(self._server, "sockets", ()):
            refuse_newcomers(listener)
            await _accept_all(listener)
        await super().stop()


def refuse_newcomers(listener: Listener) -> None:
    """Let no new connection come about; those that stand, accepted or not, are left alone.

    Effect: on Linux; elsewhere none, and a connection is reset that comes about in the moment
    between the last one's acceptance and the close.
    """
    if sys.platform != "linux":
        return
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _NO_SYN))
    try:
        listener.setsockopt(
            socket.SOL_SOCKET,
            _SO_ATTACH_FILTER,
            struct.pack("HP", len(_NO_SYN), ctypes.addressof(program)),
        )
    except OSError as error:  # a sandbox that knows no filters
        logger.info("a closing listener cannot refuse newcomers: %s", error)


async def _accept_all(listener: Listener) -> None:
    """Wait until the loop has accepted what waits at a listener."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + ACCEPT_WAIT
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        while selector.select(0):
            if loop.time() >= ends:
                break
            await asyncio.sleep(0)
    # What was accepted last is a connection of the server after two turns of asyncio's own loop.
    await asyncio.sleep(0)
    await asyncio.sleep(0)
