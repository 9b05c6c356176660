"""Clients that do not behave: too slow, deaf, mute, restless.

Owns: their ways on the wire. Each runs until it is cancelled, and comes back when it is thrown out.
Never does: count as a handler; what such a client reads, no handler has seen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from urllib.parse import urlsplit

import aiohttp

from delivery.bench.faults.audience import Listener
from delivery.bench.faults.proxy import fault_proxy
from delivery.client.endpoints import parse_url
from delivery.protocol import SUBPROTOCOL, Connect, encode

SLOW = 300.0
"""Bytes per second, less than one event."""
DEAF = 10.0
RESTLESS = 0.3
PAUSE = 0.3
CLOSE_TIMEOUT = 1.0


async def slow(listener: Listener, url: str, session: aiohttp.ClientSession) -> None:
    """Well, but behind a line that is too thin for what it is sent."""
    async with fault_proxy(urlsplit(url).port or 0, throttle=SLOW) as line:
        await listener.listen(f"http://127.0.0.1:{line.port}", session, None)


async def deaf(listener: Listener, url: str, session: aiohttp.ClientSession) -> None:
    """Connects and never reads, so that it answers no ping either."""

    async def wait(_socket: aiohttp.ClientWebSocketResponse) -> None:
        await asyncio.sleep(DEAF)

    await _for_ever(listener, url, session, wait)


async def mute(listener: Listener, url: str, session: aiohttp.ClientSession) -> None:
    """Reads everything and acknowledges nothing."""

    async def read(socket: aiohttp.ClientWebSocketResponse) -> None:
        async for _ in socket:
            pass

    await _for_ever(listener, url, session, read)


async def restless(listener: Listener, url: str, session: aiohttp.ClientSession) -> None:
    """Connects and leaves, again and again, without a word."""

    async def leave(_socket: aiohttp.ClientWebSocketResponse) -> None:
        await asyncio.sleep(RESTLESS)

    await _for_ever(listener, url, session, leave)


async def _for_ever(
    listener: Listener,
    url: str,
    session: aiohttp.ClientSession,
    use: Callable[[aiohttp.ClientWebSocketResponse], Awaitable[None]],
) -> None:
    """Connect, again and again: whatever the network does to such a client is only its end."""
    timeout = aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT)
    while True:
        with suppress(aiohttp.ClientError, OSError, TimeoutError):
            async with session.ws_connect(
                parse_url(url).socket, protocols=(SUBPROTOCOL,), max_msg_size=0, timeout=timeout
            ) as socket:
                await socket.send_str(encode(Connect(listener.token)).decode())
                await use(socket)
        await asyncio.sleep(PAUSE)
