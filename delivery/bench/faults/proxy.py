"""A TCP proxy that injects faults on command, and records them.

Owns: the connections through it: cut (FIN or RST), delayed, throttled, silenced, or reset
before the answer to a request that the server has carried out. It stands between any two parts,
before one port or several. Never does: parse the bytes it carries, beyond looking for given ones.
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
FIRST_BYTES = 4_096
CONNECT_TIMEOUT = 5.0
MAX_ACTIONS = 10_000
_NO_LINGER = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Action:
    """One thing that the proxy did to a connection.

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
class _Connection:
    """One connection: the caller's end and the server's."""

    number: int
    caller: asyncio.StreamWriter
    server: asyncio.StreamWriter
    first_bytes: bytearray = field(default_factory=bytearray)
    is_silent: bool = False
    loses_answer: bool = False


class FaultProxy:
    """Forwards to the first of its ports that answers, taking turns.

    Attributes:
        port: where it listens; ``actions`` are recorded oldest first.
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
        self.actions: list[Action] = []
        self._connections: dict[int, _Connection] = {}
        self._made = 0
        self._losing: tuple[bytes, int] = (b"", 0)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def connections(self) -> list[int]:
        """Numbers of the open connections."""
        return sorted(self._connections)

    def count(self, kind: str) -> int:
        """Count of actions of one kind."""
        return sum(deed.kind == kind for deed in self.actions)

    # Commands

    def cut(
        self,
        share: float = 1.0,
        *,
        reset: bool = True,
        uniform: Callable[[], float] = random.random,
    ) -> int:
        """End a random share of the connections; how many.

        Args:
            reset: with RST to the caller, as a crash or a NAT that forgot does; else with FIN.
        """
        chosen = [connection for connection in self._connections.values() if uniform() < share]
        for connection in chosen:
            self._end(connection, reset=reset)
        return len(chosen)

    def silence(self, *words: bytes) -> int:
        """From now on nothing from the server comes through on the present connections; how many.

        They stay open, and new ones hear everything.

        Args:
            words: only connections whose caller has said one of these.
        """
        chosen = [
            w
            for w in self._connections.values()
            if not words or any(x in w.first_bytes for x in words)
        ]
        for connection in chosen:
            connection.is_silent = True
            self._note("silence", connection)
        return len(chosen)

    def swallow(self, request: bytes, times: int = 1) -> None:
        """Let the server do what is asked, drop its answer, and reset the connection.

        Args:
            request: bytes of the request, such as ``COMMIT``.
            times: how many answers; 0 to stop.
        """
        self._losing = (request, times)

    def heal(self) -> None:
        """Stop injecting; connections that were cut or silenced stay so."""
        self.delay, self.throttle, self.is_closed, self._losing = 0.0, None, False, (b"", 0)

    # Forwarding

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        number, self._made = self._made, self._made + 1
        reached = None if self.is_closed else await self._reach(number)
        if reached is None:
            self._remember(Action("refuse", number, 0, time.monotonic()))
            _abort(writer)
            return
        up_reader, up_writer = reached
        connection = self._connections[number] = _Connection(number, writer, up_writer)
        self._note("connect", connection)
        to_server = asyncio.create_task(self._carry_to_server(connection, reader))
        to_caller = asyncio.create_task(self._carry_to_caller(connection, up_reader))
        self._tasks |= {to_server, to_caller}
        try:
            # A caller may have sent all and still read: it ends when the server's side does.
            await asyncio.wait({to_caller})
        finally:
            to_server.cancel()
            self._tasks -= {to_server, to_caller}
            self._connections.pop(number, None)
            for end in (writer, up_writer):
                end.close()

    async def _reach(self, number: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        first = number % len(self.targets)
        for port in (*self.targets[first:], *self.targets[:first]):
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(CONNECT_TIMEOUT):
                    return await asyncio.open_connection("127.0.0.1", port)
        return None

    async def _carry_to_server(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        try:
            while chunk := await reader.read(CHUNK):
                self._inspect(connection, chunk)
                if connection.server.is_closing():
                    return
                connection.server.write(chunk)
                await connection.server.drain()
            if connection.server.can_write_eof():
                connection.server.write_eof()
        except OSError:
            _abort(connection.server)  # the caller was reset, and so is the server

    async def _carry_to_caller(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        with suppress(OSError):
            while chunk := await reader.read(CHUNK):
                if self.delay:
                    await asyncio.sleep(self.delay)
                if connection.loses_answer:
                    self._note("swallow", connection, len(chunk))
                    self._end(connection, reset=True)
                    return
                if connection.is_silent:
                    self._note("drop", connection, len(chunk))
                    continue
                if connection.caller.is_closing():
                    return  # cut meanwhile; uvloop raises RuntimeError for a write
                connection.caller.write(chunk)
                await connection.caller.drain()
                if self.throttle:
                    await asyncio.sleep(len(chunk) / self.throttle)

    def _inspect(self, connection: _Connection, chunk: bytes) -> None:
        """Keep a connection's first bytes, and find the request whose answer is to be lost."""
        if len(connection.first_bytes) < FIRST_BYTES:
            connection.first_bytes += chunk[:FIRST_BYTES]
        request, left = self._losing
        if left and request in chunk:
            self._losing = (request, left - 1)
            connection.loses_answer = True

    def _end(self, connection: _Connection, *, reset: bool) -> None:
        self._note("reset" if reset else "cut", connection)
        self._connections.pop(connection.number, None)
        if reset:
            _abort(connection.caller)
        else:
            connection.caller.close()
        connection.server.close()

    def _note(self, kind: str, connection: _Connection, size: int = 0) -> None:
        self._remember(Action(kind, connection.number, size, time.monotonic()))

    def _remember(self, deed: Action) -> None:
        self.actions.append(deed)
        if len(self.actions) > MAX_ACTIONS:
            del self.actions[: MAX_ACTIONS // 2]

    async def close(self) -> None:
        """End every connection."""
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
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0, backlog=4096)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
