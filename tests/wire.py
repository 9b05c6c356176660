"""A client of the wire contract that shares no code with the product: websockets and JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import websockets
from websockets.asyncio.client import ClientConnection, connect

DEADLINE = 40.0


class Listener:
    """One connection: every event in order of arrival, acknowledged or not as told.

    Attributes:
        events: as they came, repeats included.
        welcome: the ``connected`` frame.
    """

    def __init__(self, socket: ClientConnection, *, acks: bool) -> None:
        self._socket = socket
        self._acks = acks
        self._arrived = asyncio.Condition()
        self.events: list[dict[str, Any]] = []
        self.frames: list[dict[str, Any]] = []
        self.welcome: dict[str, Any] = {}

    @property
    def ids(self) -> list[str]:
        """The events' ids in order of arrival."""
        return [event["id"] for event in self.events]

    @property
    def is_over(self) -> bool:
        """Whether the socket has ended."""
        return self._socket.close_code is not None

    @property
    def close_code(self) -> int | None:
        """What the server said at the end; 1006 when it just went away."""
        return self._socket.close_code

    @property
    def local_port(self) -> int:
        """This end's port."""
        return int(self._socket.local_address[1])

    async def read(self) -> None:
        """Take frames until the socket ends."""
        try:
            async for raw in self._socket:
                await self._on_frame(json.loads(raw))
        except websockets.ConnectionClosed:
            return

    async def _on_frame(self, frame: dict[str, Any]) -> None:
        async with self._arrived:
            self.frames.append(frame)
            if frame["type"] == "events":
                self.events += frame["events"]
                assert frame["n"] == len(self.events)
                if self._acks:
                    await self.send({"type": "ack", "upto": frame["n"]})
            self._arrived.notify_all()

    async def send(self, frame: dict[str, Any]) -> None:
        """Send one frame."""
        await self._socket.send(json.dumps(frame))

    async def until(self, condition: Callable[[], object], timeout: float = DEADLINE) -> None:
        """Wait until a condition on what came is true."""
        async with asyncio.timeout(timeout), self._arrived:
            await self._arrived.wait_for(condition)

    async def receive(self, count: int, timeout: float = DEADLINE) -> list[dict[str, Any]]:
        """The first ``count`` events."""
        await self.until(lambda: len(self.events) >= count, timeout)
        return self.events[:count]


@asynccontextmanager
async def listening(
    url: str, token: str, *, acks: bool = True, cursor: str | None = None, device: str | None = None
) -> AsyncIterator[Listener]:
    """A welcomed connection to the service at ``url``."""
    address = url.replace("http", "ws", 1) + "/v1/ws"
    async with connect(address, subprotocols=["delivery.v1"]) as socket:  # type: ignore[list-item]
        listener = Listener(socket, acks=acks)
        first: dict[str, Any] = {"type": "connect", "token": token}
        first |= {"cursor": cursor} if cursor else {}
        first |= {"device": device} if device else {}
        await listener.send(first)
        reading = asyncio.create_task(listener.read())
        try:
            await listener.until(lambda: listener.frames)
            listener.welcome = listener.frames[0]
            assert listener.welcome["type"] == "connected", listener.welcome
            yield listener
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


async def eventually(
    look: Callable[[], Any], until: Callable[[Any], object], timeout: float = DEADLINE
) -> Any:
    """Look again and again, in a thread, until what is seen passes, or fail with the last sight."""
    deadline = asyncio.get_running_loop().time() + timeout
    while True:
        seen = await asyncio.to_thread(look)
        if until(seen):
            return seen
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"waited {timeout:g} s in vain; the last sight: {seen}")
        await asyncio.sleep(0.05)
