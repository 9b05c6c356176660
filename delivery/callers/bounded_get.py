"""A document from another server: read once, within limits, from an address that was checked.

Owns: limits of time and size, and the check of each address at the connect, so that a name that
changes between two look-ups leads nowhere. Never does: follow a redirect, or parse.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Mapping

import aiohttp


async def bounded_get(
    url: str,
    *,
    is_allowed: Callable[[str], bool],
    timeout: float,
    max_bytes: int,
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """Read a URL.

    Args:
        is_allowed: called with the address of each connection.
        timeout: seconds for all of it.
        max_bytes: of the answer.

    Raises:
        aiohttp.ClientError, OSError: it cannot be read.
        TimeoutError: it took too long.
        ValueError: the answer is not 200, or too large.
    """

    def checked(address: aiohttp.AddrInfoType) -> socket.socket:
        address_family, kind, proto, _, place = address
        if not is_allowed(str(place[0])):
            raise OSError(errno.EACCES, "the host has an address that may not be called")
        made = socket.socket(address_family, kind, proto)
        made.setblocking(False)
        return made

    async with (
        aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=timeout),
            connector=aiohttp.TCPConnector(socket_factory=checked),
        ) as session,
        session.get(
            url,
            allow_redirects=False,
            headers={"Accept-Encoding": "identity", **(headers or {})},
        ) as answer,
    ):
        if answer.status != 200:
            raise ValueError(f"answered {answer.status}; a redirect is not followed")
        body = bytearray()
        async for chunk in answer.content.iter_chunked(65_536):
            body += chunk
            if len(body) > max_bytes:
                raise ValueError(f"the answer is over {max_bytes} bytes")
        return bytes(body)
