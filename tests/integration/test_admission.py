"""Half requests and idle sockets against a real gateway: bounded, and neighbours are served."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import aiohttp
import pytest
import uvloop

from delivery.api.serving import runner
from delivery.api.serving.admission import Admission
from tests.fast_path import Node, make_event, serve
from tests.waiting import until


@pytest.fixture(
    params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy], ids=["asyncio", "uvloop"]
)
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    """Both loops on which the service runs: their transports have no class in common."""
    policy: asyncio.AbstractEventLoopPolicy = request.param()
    return policy


async def is_open(reader: asyncio.StreamReader) -> bool:
    """Whether the server still holds the connection a moment later."""
    try:
        async with asyncio.timeout(0.3):
            return await reader.read(1) != b""
    except TimeoutError:
        return True
    except ConnectionError:
        return False


async def test_one_address_holds_no_more_than_its_share() -> None:
    node = Node(admission=Admission(per_address=5))
    async with serve(node):
        opened = [await asyncio.open_connection("127.0.0.1", node.port) for _ in range(8)]
        for _, writer in opened:
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")  # never ends
        held = await asyncio.gather(*(is_open(reader) for reader, _ in opened))
        assert sum(held) == 5
        for _, writer in opened:
            writer.close()


async def test_a_crowd_that_connects_in_one_moment_is_queued() -> None:
    node = Node()
    crowd = []
    async with serve(node):
        for _ in range(400):  # the loop, which accepts, does not run meanwhile
            crowd.append(socket.create_connection(("127.0.0.1", node.port), timeout=0.9))
        reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(10):
            assert (await reader.read()).startswith(b"HTTP/1.1 ")
        writer.close()
        for one in crowd:
            one.close()


async def test_a_connection_that_ends_makes_room_for_another() -> None:
    admission = Admission(per_address=1)
    node = Node(admission=admission)
    async with serve(node):
        _, first = await asyncio.open_connection("127.0.0.1", node.port)
        await until(lambda: not admission.enter("127.0.0.1"))
        first.close()

        async def is_served() -> bool:
            reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
            try:
                return await is_open(reader)
            finally:
                writer.close()

        async with asyncio.timeout(5):
            while not await is_served():
                await asyncio.sleep(0.01)


async def test_headers_that_do_not_come_end_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner, "HEADER_TIMEOUT", 0.1)
    node = Node()
    async with serve(node):
        reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
        writer.write(b"GET / HTTP/1.1\r\nX-Slow: ")
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        # A request that has come is not ended, however long its connection lasts.
        async with aiohttp.ClientSession() as session:
            headers = {"Authorization": "Bearer token-ada"}
            async with session.get(f"{node.url}/v1/stream", headers=headers) as stream:
                await stream.content.readline()
                node.emit(make_event())
                while b"agent_thinking" not in await stream.content.readline():
                    pass
        writer.close()
