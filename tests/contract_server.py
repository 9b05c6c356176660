"""A tiny real server that speaks the contract, for tests of the clients.

It shares no code with the gateway, keeps its events in lists, and misbehaves when a test says so.
"""

import asyncio
import json
from collections.abc import Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

_UNAUTHORIZED = {"type": "error", "code": "unauthorized", "message": "bad token"}


class ContractServer:
    """Attributes that tests set or read.

    Attributes:
        events: wire events; unconfirmed ones are sent to each client that connects.
        confirmed: ids in the order in which acks confirmed them.
        frames: every client frame, in order, of all connections.
        reads: frames wait in the network until it is set.
        is_mute: pings get no answer.
        blocks: how a proxy before it treats sockets: an HTTP status, ``cut`` (no answer),
            ``silent`` (the upgrade works, nothing comes through) or ``None``.
        holds: the welcome waits until it is set; ``signs``: frames that were sent meanwhile.
        refuse_stream: answers ``GET /v1/stream`` if set.
        streams: the ``Last-Event-ID`` of every stream that began.
        posts: the ids of every ``POST /v1/acks``.
        ack_replies: statuses used up first by ``POST /v1/acks``.
        refuse: a close code for the next connections instead of a welcome.
        refuses: close codes used up first, one by one.
        refuse_refresh: refreshes are answered by an error, and the connection stays.
        replies: used up first by ``POST /v1/events``: functions of the body that answer it.
        bodies: the ids of every POST, in order.
    """

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.confirmed: list[str] = []
        self.frames: list[dict[str, Any]] = []
        self.connects: list[dict[str, Any]] = []
        self.nacks: list[str] = []
        self.refuse: int | None = None
        self.refuses: list[int] = []
        self.refuse_refresh = False
        self.blocks: int | str | None = None
        self.holds = asyncio.Event()
        self.holds.set()
        self.signs = 0
        self.upgrades = 0
        self.refuse_stream: Callable[[], web.Response] | None = None
        self.streams: list[str | None] = []
        self.stream_tokens: list[str] = []
        self.live_streams: list[web.StreamResponse] = []
        self.posts: list[list[str]] = []
        self.ack_replies: list[int] = []
        self.max_in_flight = 1000
        self._stream_ends: list[asyncio.Event] = []
        self.recovered = True
        self.expires: str | None = None
        self.heartbeat = 25.0
        self.is_mute = False
        self.reads = asyncio.Event()
        self.reads.set()
        self.sockets: list[web.WebSocketResponse] = []
        self.sent: dict[int, list[str]] = {}
        self.replies: list[Callable[[list[dict[str, Any]]], web.Response]] = []
        self.bodies: list[list[str]] = []
        self.tokens: list[str] = []
        self.accepted: dict[str, dict[str, Any]] = {}
        self.states: dict[str, str] = {}
        self.url = ""

    @asynccontextmanager
    async def running(self):
        """Serve on a free port of the loopback."""
        app = web.Application(client_max_size=16 << 20)
        app.add_routes(
            [
                web.get("/v1/ws", self._websocket),
                web.get("/v1/stream", self._stream),
                web.post("/v1/acks", self._acks),
                web.post("/v1/events", self._post),
                web.get("/v1/events/{id}", self._get),
            ]
        )
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            for socket in self.sockets:
                await socket.close(code=WSCloseCode.GOING_AWAY)
            self.end_streams()
            await runner.cleanup()

    async def emit(self, *events: dict[str, Any]) -> None:
        """Record events and send them, as one frame, to every connection."""
        self.events += events
        for socket in self.sockets:
            if not socket.closed:
                await self.send(socket, *events)
        for stream in list(self.live_streams):
            with suppress(ConnectionError):  # its client may have left a moment ago
                await self.tell(stream, *(("event", event) for event in events))

    async def tell(self, stream: web.StreamResponse, *messages: tuple[str, dict[str, Any]]) -> None:
        """Messages on one stream, in one piece."""
        text = "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in messages)
        await stream.write(text.encode())

    def end_streams(self) -> None:
        """Cut every stream."""
        for ended in self._stream_ends:
            ended.set()

    async def send(self, socket: web.WebSocketResponse, *events: dict[str, Any]) -> None:
        """One ``events`` frame on one connection."""
        sent = self.sent[id(socket)]
        sent += [event["id"] for event in events]
        await socket.send_json({"type": "events", "n": len(sent), "events": list(events)})

    async def drop(self, code: int) -> None:
        """Close every connection."""
        for socket in list(self.sockets):
            await socket.close(code=code)

    async def _websocket(self, request: web.Request) -> web.StreamResponse:
        self.upgrades += 1
        if isinstance(self.blocks, int):
            return web.Response(status=self.blocks, text="no")
        if self.blocks == "cut":
            request.transport.abort()
            return web.Response()
        socket = web.WebSocketResponse(protocols=("delivery.v1",), compress=False)
        await socket.prepare(request)
        if self.blocks == "silent":
            await socket.receive_json()
            request.transport.abort()
            return socket
        first = await socket.receive_json()
        self.connects.append(first)
        refusal = self.refuses.pop(0) if self.refuses else self.refuse
        if refusal is not None:
            await socket.send_json(_UNAUTHORIZED)
            await socket.close(code=refusal)
            return socket
        while not self.holds.is_set():
            await socket.send_json({"type": "pong"})
            self.signs += 1
            with suppress(TimeoutError):
                await asyncio.wait_for(self.holds.wait(), 0.05)
        await socket.send_json(self._welcome(len(self.connects)))
        self.sent[id(socket)] = []
        self.sockets.append(socket)
        pending = self._pending()
        if pending:
            await self.send(socket, *pending)
        try:
            await self.reads.wait()
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    await self._on_frame(socket, json.loads(message.data))
        finally:
            self.sockets.remove(socket)
        return socket

    def _pending(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event["id"] not in self.confirmed]

    def _welcome(self, number: int) -> dict[str, Any]:
        welcome = {
            "type": "connected",
            "connection_id": f"c{number}",
            "user_id": "u1",
            "node": "n1",
            "heartbeat": self.heartbeat,
            "recovered": self.recovered,
            "max_in_flight": self.max_in_flight,
        }
        return welcome | ({"expires": self.expires} if self.expires else {})

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        if self.refuse_stream is not None:
            return self.refuse_stream()
        self.streams.append(request.headers.get("Last-Event-ID"))
        self.stream_tokens.append(request.headers["Authorization"].removeprefix("Bearer "))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        ended = asyncio.Event()
        self._stream_ends.append(ended)
        await self.tell(response, ("connected", self._welcome(len(self.streams))))
        await self.tell(response, *(("event", event) for event in self._pending()))
        self.live_streams.append(response)
        try:
            await ended.wait()
        finally:
            self.live_streams.remove(response)
        return response

    async def _acks(self, request: web.Request) -> web.Response:
        if self.ack_replies and (status := self.ack_replies.pop(0)) != 200:
            return web.Response(status=status, text="no")
        ids = (await request.json())["ids"]
        self.posts.append(ids)
        known = {event["id"] for event in self.events}
        fresh = [one for one in ids if one in known and one not in self.confirmed]
        self.confirmed += fresh
        return web.json_response({"confirmed": fresh, "unknown": []})

    async def _on_frame(self, socket: web.WebSocketResponse, frame: dict[str, Any]) -> None:
        self.frames.append(frame)
        if frame["type"] == "ping" and not self.is_mute:
            await socket.send_json({"type": "pong"})
        elif frame["type"] == "refresh" and self.refuse_refresh:
            await socket.send_json(_UNAUTHORIZED)
        elif frame["type"] == "nack":
            self.nacks.append(frame["id"])
        elif frame["type"] == "ack":
            ids = [*self.sent[id(socket)][: frame.get("upto", 0)], *frame.get("ids", [])]
            self.confirmed += [one for one in ids if one not in self.confirmed]

    async def _post(self, request: web.Request) -> web.Response:
        self.tokens.append(request.headers["Authorization"].removeprefix("Bearer "))
        items = (await request.json())["events"]
        self.bodies.append([item["id"] for item in items])
        if self.replies:
            return self.replies.pop(0)(items)
        return self.take(items)

    def take(self, items: list[dict[str, Any]]) -> web.Response:
        """Accept all of them."""
        rows = []
        for index, item in enumerate(items):
            is_new = item["id"] not in self.accepted
            self.accepted.setdefault(item["id"], item | {"seq": len(self.accepted) + 1})
            rows.append(
                {
                    "index": index,
                    "id": item["id"],
                    "seq": self.accepted[item["id"]]["seq"],
                    "duplicate": not is_new,
                    "durable": True,
                }
            )
        return web.json_response({"accepted": rows, "rejected": []}, status=202)

    async def _get(self, request: web.Request) -> web.Response:
        event = self.accepted.get(request.match_info["id"])
        if event is None:
            return web.json_response({"title": "not found"}, status=404)
        return web.json_response(event | {"state": self.states.get(event["id"], "accepted")})
