"""A TCP proxy whose connections can go deaf: open, but nothing from the server comes through."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Proxy:
    """Forwards to one port; ``deafen`` silences the connections that exist now."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._deaf: set[int] = set()
        self._next = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    def deafen(self) -> None:
        """From now on the present connections hear nothing; new ones do."""
        self._deaf.update(range(self._next))

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        number, self._next = self._next, self._next + 1
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        ways = [
            asyncio.create_task(self._pipe(reader, up_writer, None)),
            asyncio.create_task(self._pipe(up_reader, writer, number)),
        ]
        self._tasks.update(ways)
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        for end in (writer, up_writer):
            end.close()

    async def _pipe(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int | None
    ) -> None:
        with suppress(OSError):
            while chunk := await reader.read(65_536):
                if number not in self._deaf:
                    writer.write(chunk)
                    await writer.drain()


@asynccontextmanager
async def tcp_proxy(target: int) -> AsyncIterator[Proxy]:
    """A running proxy to ``127.0.0.1:target``."""
    proxy = Proxy(target)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for task in proxy._tasks:
            task.cancel()
        await asyncio.gather(*proxy._tasks, return_exceptions=True)
