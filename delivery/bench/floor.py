"""The floor: bare aiohttp, one frame and one acknowledgement per event.

A realtime server without promises, to compare with: it validates nothing, stores nothing and knows
no policy. Never does: import the product's live path.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
from aiohttp import web

from delivery.bench.load import Load, Window
from delivery.domain.event import AGENT_TYPES

_encode = msgspec.json.Encoder().encode


class Floor:
    """One server and its users."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._sockets: dict[int, web.WebSocketResponse] = {}
        self._all_connected = asyncio.Event()
        self._seq = [0] * load.users
        self._queue: asyncio.Queue[None] = asyncio.Queue()
        self._window = Window(load, self._emit)
        self._text = "x" * load.payload
        self._outgoing: list[tuple[int, bytes]] = []

    async def serve(self, tell: Any) -> dict[str, Any]:
        """Listen, report the address, run the load once all clients are connected."""
        app = web.Application()
        app.router.add_get("/ws", self._handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=4096)
        await site.start()
        host, port = runner.addresses[0][:2]
        tell(f"http://{host}:{port}/ws")
        async with asyncio.timeout(60):
            await self._all_connected.wait()
        sender = asyncio.create_task(self._send())
        try:
            return await self._window.run()
        finally:
            sender.cancel()

    async def _handle(self, request: web.Request) -> web.WebSocketResponse:
        user = int(request.query["user"])
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        self._sockets[user] = socket
        if len(self._sockets) == self._load.users:
            self._all_connected.set()
        async for message in socket:
            self._window.acked((user, msgspec.json.decode(message.data)["ack"]))
        return socket

    def _emit(self, user: int, number: int) -> tuple[int, int]:
        seq = self._seq[user] = self._seq[user] + 1
        event = {
            "id": f"evt-{number:032x}",
            "type": AGENT_TYPES[number % 5],
            "user_id": f"user-{user}",
            "run_id": f"run-{user}",
            "seq": seq,
            "at": time.time(),
            "data": {"text": self._text},
        }
        self._outgoing.append((user, _encode(event)))
        self._queue.put_nowait(None)
        return user, seq

    async def _send(self) -> None:
        while True:
            await self._queue.get()
            while not self._queue.empty():
                self._queue.get_nowait()
            outgoing, self._outgoing = self._outgoing, []
            for user, encoded in outgoing:
                await self._sockets[user].send_str(encoded.decode())
