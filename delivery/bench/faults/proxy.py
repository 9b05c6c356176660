"""A TCP proxy that misbehaves on command, and remembers what it did.

Owns: the connections through it: cut (FIN or RST), delayed, throttled, silenced, or robbed of the
answer to something that the server has done. It stands between any two parts, before one port or
several. Never does: understand what it carries, beyond looking for given bytes.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

CHUNK = 65_536
FIRST_WORDS = 4_096
CONNECT_TIMEOUT = 5.0
MAX_DEEDS = 10_000
_NO_LINGER = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Deed:
    """Something that the proxy did to a connection.

    Attributes:
        kind: ``connect``, ``refuse``, ``cut``, ``reset``, ``silence``, ``drop``, ``swallow``.
        connection: its number, from 0.
        size: the bytes that never arrived.
        at: monotonic seconds.
    """

    kind: str
    connection: int
    size: int
    at: float


@dataclass(slots=True, eq=False)
class _Way:
    """One connection: the caller's end and the server's."""

    number: int
    caller: asyncio.StreamWriter
    server: asyncio.StreamWriter
    words: bytearray = field(default_factory=bytearray)
    is_silent: bool = False
    robs: bool = False


class FaultProxy:
    """Forwards to the first of its ports that answers, taking turns.

    Attributes:
        port: where it listens; ``deeds`` is what it did, oldest first.
        delay: seconds by which every chunk from the server is late.
        throttle: bytes per second and connection from the server; ``None`` for no limit.
        is_closed: whether new connections are reset at once.
    """

    def __init__(self, *targets: int, delay: float = 0.0, throttle: float | None = None) -> None:
        self.targets: Sequence[int] = targets
        self.port = 0
        self.delay = delay
        self.throttle = throttle
        self.is_closed = False
        self.deeds: list[Deed] = []
        self._ways: dict[int, _Way] = {}
        self._made = 0
        self._rob: tuple[bytes, int] = (b"", 0)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def connections(self) -> list[int]:
        """The numbers of those that stand."""
        return sorted(self._ways)

    def count(self, kind: str) -> int:
        """How often it did one kind of thing."""
        return sum(deed.kind == kind for deed in self.deeds)

    # Commands

    def cut(
        self, share: float = 1.0, *, reset: bool = True, dice: Callable[[], float] = random.random
    ) -> int:
        """End a random share of the connections; how many.

        Args:
            reset: with RST to the caller, as a crash or a NAT that forgot does; else with FIN.
        """
        chosen = [way for way in self._ways.values() if dice() < share]
        for way in chosen:
            self._end(way, reset=reset)
        return len(chosen)

    def silence(self, *words: bytes) -> int:
        """From now on nothing from the server comes through on the present connections; how many.

        They stay open, and new ones hear everything.

        Args:
            words: only connections whose caller has said one of these.
        """
        chosen = [w for w in self._ways.values() if not words or any(x in w.words for x in words)]
        for way in chosen:
            way.is_silent = True
            self._note("silence", way)
        return len(chosen)

    def swallow(self, request: bytes, times: int = 1) -> None:
        """Let the server do what is asked, drop its answer, and reset the connection.

        Args:
            request: what the caller's bytes hold, such as ``COMMIT``.
            times: how many answers; 0 to stop.
        """
        self._rob = (request, times)

    def heal(self) -> None:
        """Stop every misbehaviour; what was cut or silenced stays so."""
        self.delay, self.throttle, self.is_closed, self._rob = 0.0, None, False, (b"", 0)

    # Forwarding

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        number, self._made = self._made, self._made + 1
        reached = None if self.is_closed else await self._reach(number)
        if reached is None:
            self._remember(Deed("refuse", number, 0, time.monotonic()))
            _abort(writer)
            return
        up_reader, up_writer = reached
        way = self._ways[number] = _Way(number, writer, up_writer)
        self._note("connect", way)
        there = asyncio.create_task(self._carry_there(way, reader))
        back = asyncio.create_task(self._carry_back(way, up_reader))
        self._tasks |= {there, back}
        try:
            # The caller may have said all and still listen: it is over when the server is done.
            await asyncio.wait({back})
        finally:
            there.cancel()
            self._tasks -= {there, back}
            self._ways.pop(number, None)
            for end in (writer, up_writer):
                end.close()

    async def _reach(self, number: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        first = number % len(self.targets)
        for port in (*self.targets[first:], *self.targets[:first]):
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(CONNECT_TIMEOUT):
                    return await asyncio.open_connection("127.0.0.1", port)
        return None

    async def _carry_there(self, way: _Way, reader: asyncio.StreamReader) -> None:
        try:
            while chunk := await reader.read(CHUNK):
                self._listen(way, chunk)
                way.server.write(chunk)
                await way.server.drain()
            if way.server.can_write_eof():
                way.server.write_eof()
        except OSError:
            _abort(way.server)  # the caller was reset, and so is the server

    async def _carry_back(self, way: _Way, reader: asyncio.StreamReader) -> None:
        with suppress(OSError):
            while chunk := await reader.read(CHUNK):
                if self.delay:
                    await asyncio.sleep(self.delay)
                if way.robs:
                    self._note("swallow", way, len(chunk))
                    self._end(way, reset=True)
                    return
                if way.is_silent:
                    self._note("drop", way, len(chunk))
                    continue
                way.caller.write(chunk)
                await way.caller.drain()
                if self.throttle:
                    await asyncio.sleep(len(chunk) / self.throttle)

    def _listen(self, way: _Way, chunk: bytes) -> None:
        """Keep what a connection says first, and watch for the request that is to be robbed."""
        if len(way.words) < FIRST_WORDS:
            way.words += chunk[:FIRST_WORDS]
        request, left = self._rob
        if left and request in chunk:
            self._rob = (request, left - 1)
            way.robs = True

    def _end(self, way: _Way, *, reset: bool) -> None:
        self._note("reset" if reset else "cut", way)
        self._ways.pop(way.number, None)
        if reset:
            _abort(way.caller)
        else:
            way.caller.close()
        way.server.close()

    def _note(self, kind: str, way: _Way, size: int = 0) -> None:
        self._remember(Deed(kind, way.number, size, time.monotonic()))

    def _remember(self, deed: Deed) -> None:
        self.deeds.append(deed)
        if len(self.deeds) > MAX_DEEDS:
            del self.deeds[: MAX_DEEDS // 2]

    async def close(self) -> None:
        """End everything that still stands."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _abort(writer: asyncio.StreamWriter) -> None:
    """RST instead of FIN. Source: socket(7), SO_LINGER with a timeout of zero."""
    connection = writer.get_extra_info("socket")
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    writer.transport.abort()


@asynccontextmanager
async def fault_proxy(
    *targets: int, delay: float = 0.0, throttle: float | None = None
) -> AsyncIterator[FaultProxy]:
    """A running proxy to these ports of this machine."""
    proxy = FaultProxy(*targets, delay=delay, throttle=throttle)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0, backlog=1024)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
