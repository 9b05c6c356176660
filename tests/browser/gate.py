"""A TCP proxy that tells WebSocket upgrades from other requests, as a proxy in an office does."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

UPGRADE = b"upgrade: websocket"


class Gate:
    """Forwards to a port on loopback.

    Attributes:
        passes_sockets: whether upgrades get through; others are cut without an answer.
        upgrades: upgrades that were asked for.
    """

    def __init__(self, target: int) -> None:
        self.passes_sockets = True
        self.upgrades = 0
        self._target = target
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._swallowed: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """Drop every connection, as a broken line does."""
        for writer in self._writers:
            writer.transport.abort()

    def swallow(self) -> None:
        """Pass nothing on for the connections that stand, and end none: a line that died unseen."""
        self._swallowed |= self._writers

    async def __aenter__(self) -> "Gate":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._spawn(self._forward(reader, writer))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(65_536)
        is_upgrade = UPGRADE in first.lower()
        self.upgrades += is_upgrade
        if not first or (is_upgrade and not self.passes_sockets):
            writer.transport.abort()
            return
        back, forth = await asyncio.open_connection("127.0.0.1", self._target)
        forth.write(first)
        self._writers |= {writer, forth}
        await asyncio.gather(self._pump(reader, forth), self._pump(back, writer))
        self._writers -= {writer, forth}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                if writer not in self._swallowed:
                    writer.write(data)
                    await writer.drain()
        writer.transport.abort()
