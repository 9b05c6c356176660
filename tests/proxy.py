"""A reverse proxy that treats the stream and the upgrade as proxies in the field do.

One behaviour per attribute; all are off at first, and then it only passes bytes on.
"""

import asyncio
import contextlib
import zlib
from collections.abc import AsyncIterator, Callable

import aiohttp
from aiohttp import web

_HOP = frozenset(
    {"connection", "content-length", "keep-alive", "transfer-encoding", "upgrade", "host", "date"}
)  # these belong to one hop. Source: RFC 9110, section 7.6.1


class Proxy:
    """Attributes that tests set or read.

    Attributes:
        line_end: what every LF of a stream becomes.
        drops_comments: lines of a stream that begin with a colon are left out.
        buffers: a stream is held until so many bytes have gathered, then it flows.
        compresses: streams leave through gzip without a flush, unless ``no-transform`` forbids it.
        piece: a stream's bytes leave so many at a time.
        cuts_after: seconds after which any response or socket is cut.
        upgrades: ``pass``; an HTTP status; ``cut`` (no answer), ``hang`` (no answer, kept open) or
            ``silent`` (101, then nothing passes).
        prefix: a path under which the service lives; it is cut off, and nothing else passes.
        asked: upgrades that were asked for.
        streams: streams that began.
    """

    def __init__(self, target: str) -> None:
        self.line_end = b"\n"
        self.drops_comments = False
        self.buffers = 0
        self.compresses = False
        self.piece: int | None = None
        self.cuts_after: float | None = None
        self.upgrades: str | int = "pass"
        self.prefix = ""
        self.asked = 0
        self.streams = 0
        self.url = ""
        self._target = target.rstrip("/")

    async def __aenter__(self) -> "Proxy":
        self._session = aiohttp.ClientSession(auto_decompress=False)
        app = web.Application(client_max_size=16 << 20)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._session.close()
        await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if not request.path.startswith(f"{self.prefix}/"):
            return web.Response(status=404, text="not under this path")
        try:
            async with asyncio.timeout(self.cuts_after):
                if request.headers.get("Upgrade", "").lower() == "websocket":
                    return await self._upgrade(request)
                return await self._pass(request)
        except (TimeoutError, aiohttp.ClientError, ConnectionError):
            if request.transport is not None:
                request.transport.abort()
            return web.Response()

    async def _upgrade(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        if isinstance(self.upgrades, int):
            return web.Response(status=self.upgrades, text="no upgrades here")
        if self.upgrades == "cut":
            raise ConnectionError
        if self.upgrades == "hang":
            await asyncio.Event().wait()  # until the client gives up, which cancels this
        socket = web.WebSocketResponse(protocols=("delivery.v1",), autoping=False)
        await socket.prepare(request)
        if self.upgrades == "silent":
            await asyncio.Event().wait()
        async with self._session.ws_connect(
            self._target + request.path_qs.removeprefix(self.prefix),
            protocols=("delivery.v1",),
            autoping=False,
        ) as upstream:
            await _either(_relay(socket, upstream), _relay(upstream, socket))
            await socket.close(code=upstream.close_code or 1000)
        return socket

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _HOP}
        async with self._session.request(
            request.method,
            self._target + request.path_qs.removeprefix(self.prefix),
            headers=headers,
            data=await request.read(),
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=None),
        ) as upstream:
            kept = {k: v for k, v in upstream.headers.items() if k.lower() not in _HOP}
            body: AsyncIterator[bytes] = upstream.content.iter_any()
            if upstream.content_type == "text/event-stream":
                self.streams += 1
                body = self._mangle(body)
                if self.compresses and "no-transform" not in kept.get("Cache-Control", ""):
                    kept["Content-Encoding"] = "gzip"
                    body = _gzip(body)
            response = web.StreamResponse(status=upstream.status, headers=kept)
            await response.prepare(request)
            async for piece in body:
                await response.write(piece)
            await response.write_eof()
            return response

    async def _mangle(self, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        if self.drops_comments:
            body = _without_comments(body)
        held, passed = bytearray(), 0
        async for chunk in body:
            held += chunk.replace(b"\n", self.line_end)
            passed += len(chunk)
            if passed < self.buffers:
                continue
            size = self.piece or len(held) or 1
            for start in range(0, len(held), size):
                yield bytes(held[start : start + size])
                if self.piece:
                    await asyncio.sleep(0)
            held.clear()
        yield bytes(held)


async def _without_comments(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Whole lines only; a comment takes the empty line behind it along."""
    rest, was_comment = b"", False
    async for chunk in body:
        *lines, rest = (rest + chunk).split(b"\n")
        kept = []
        for line in lines:
            is_comment = line.startswith(b":")
            if not is_comment and not (was_comment and not line):
                kept.append(line + b"\n")
            was_comment = is_comment
        if kept:
            yield b"".join(kept)


async def _gzip(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    packer = zlib.compressobj(wbits=31)
    async for chunk in body:
        if packed := packer.compress(chunk):
            yield packed
    yield packer.flush()


async def _relay(
    source: web.WebSocketResponse | aiohttp.ClientWebSocketResponse,
    sink: web.WebSocketResponse | aiohttp.ClientWebSocketResponse,
) -> None:
    send: dict[aiohttp.WSMsgType, Callable[..., object]] = {
        aiohttp.WSMsgType.TEXT: sink.send_str,
        aiohttp.WSMsgType.PING: sink.ping,
        aiohttp.WSMsgType.PONG: sink.pong,
    }
    while (message := await source.receive()).type in send:
        await send[message.type](message.data)  # type: ignore[misc]


async def _either(*works: object) -> None:
    tasks = [asyncio.ensure_future(work) for work in works]  # type: ignore[arg-type]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
