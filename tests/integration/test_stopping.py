"""A gateway that stops behind a proxy takes no request with it."""

from __future__ import annotations

import asyncio
import re
import socket
import sys
from collections.abc import Callable

import pytest
import uvloop

from delivery.api.serving.listening import refuse_newcomers
from tests.fast_path import Node, serve
from tests.waiting import until

REQUEST = b"GET /client.js HTTP/1.1\r\nHost: a\r\n\r\n"


async def head_of(reader: asyncio.StreamReader) -> str:
    """Status and headers of the next answer, whose body is read too."""
    async with asyncio.timeout(15):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        [length] = re.findall(r"Content-Length: (\d+)", head)
        await reader.readexactly(int(length))
    return head


async def is_refused(port: int) -> bool:
    """Whether nothing listens there any more."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionError:
        return True
    writer.close()
    return False


async def test_the_last_answer_on_a_connection_says_that_it_is_the_last() -> None:
    """A proxy that is not told would send its next request into the closing connection."""
    node = Node()
    async with serve(node):
        reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
        writer.write(REQUEST)
        assert "Connection: close" not in await head_of(reader)
        stopping = asyncio.create_task(node.gateway.stop())
        await until(lambda: is_refused(node.port))
        writer.write(REQUEST)
        head = await head_of(reader)
        assert head.startswith("HTTP/1.1 200")
        assert "Connection: close" in head
        assert await reader.read() == b""
        writer.close()
        await stopping


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_what_connected_before_the_gateway_stopped_is_served(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """The kernel has taken the connections already, and would reset them with the listener."""

    async def stop_with_callers() -> None:
        node = Node()
        async with serve(node):
            here = ("127.0.0.1", node.port)
            peers = [socket.create_connection(here, timeout=15) for _ in range(20)]
            for peer in peers:
                peer.sendall(REQUEST)
            stopping = asyncio.create_task(node.gateway.stop())  # before the loop has seen them
            for peer in peers:
                peer.setblocking(False)
                reader, writer = await asyncio.open_connection(sock=peer)
                assert (await head_of(reader)).startswith("HTTP/1.1 200")
                writer.close()
            await stopping

    with asyncio.Runner(loop_factory=new_loop) as loop:
        loop.run(stop_with_callers())


@pytest.mark.skipif(sys.platform != "linux", reason="a filter of Linux")
@pytest.mark.parametrize(
    ("version", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_while_a_listener_closes_newcomers_are_left_to_try_elsewhere(
    version: socket.AddressFamily, host: str
) -> None:
    """Their connection does not come about; one that stands is not touched."""

    def connect() -> tuple[socket.socket, int]:
        peer = socket.socket(version)
        peer.setblocking(False)
        peer.connect_ex(listener.getsockname())
        return peer, peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]

    with socket.socket(version) as listener:
        try:
            listener.bind((host, 0))
        except OSError:
            pytest.skip(f"no {host} here")
        listener.listen(5)
        standing, state = connect()
        assert state == 1  # established
        refuse_newcomers(listener)
        newcomer, state = connect()
        assert state == 2  # it has asked, and is not answered
        standing.sendall(b"a request")
        accepted, _ = listener.accept()
        with standing, newcomer, accepted:
            assert accepted.recv(9) == b"a request"
