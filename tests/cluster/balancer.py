"""What stands before gateways in production: one address, connections spread over those that live.

Owns: a TCP port. Never does: look into what it carries.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress


class Balancer:
    """Round robin over backends; one that refuses is passed over."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = ports
        self._next = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self._next = (self._next + 1) % len(self._ports)
        for port in (*self._ports[self._next :], *self._ports[: self._next]):
            try:
                up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)
                break
            except OSError:
                continue
        else:
            writer.close()
            return
        there = asyncio.create_task(_pipe(reader, up_writer))
        back = asyncio.create_task(_pipe(up_reader, writer))
        self._tasks |= {there, back}
        try:
            # It is over when the backend is done.
            await asyncio.wait({back})
        finally:
            there.cancel()
            self._tasks -= {there, back}
            for end in (writer, up_writer):
                end.close()

    async def close(self) -> None:
        """Cut everything."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while chunk := await reader.read(65_536):
            writer.write(chunk)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


@asynccontextmanager
async def balancing(ports: Sequence[int]) -> AsyncIterator[Balancer]:
    """A running balancer over ``127.0.0.1``'s ports."""
    balancer = Balancer(ports)
    server = await asyncio.start_server(balancer.accept, "127.0.0.1", 0)
    balancer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield balancer
    finally:
        server.close()
        await balancer.close()
