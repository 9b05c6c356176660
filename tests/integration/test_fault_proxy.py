"""The fault proxy does to connections what it is told, and remembers it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from delivery.bench.faults.proxy import FaultProxy, fault_proxy
from tests.waiting import until

DEADLINE = 10.0


class Answering:
    """A server that answers each line, and keeps what it heard."""

    def __init__(self, name: bytes = b"server") -> None:
        self.name = name
        self.heard: list[bytes] = []

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            self.heard.append(line)
            writer.write(self.name + b" took " + line)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def server(answering: Answering) -> AsyncIterator[int]:
    listening = await asyncio.start_server(answering.accept, "127.0.0.1", 0)
    try:
        yield int(listening.sockets[0].getsockname()[1])
    finally:
        listening.close()


class Caller:
    """One connection through the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def through(cls, proxy: FaultProxy) -> Caller:
        return cls(*await asyncio.open_connection("127.0.0.1", proxy.port))

    def say(self, line: bytes) -> None:
        self.writer.write(line)

    async def ask(self, line: bytes) -> bytes:
        self.say(line)
        return await self.hear()

    async def hear(self) -> bytes:
        async with asyncio.timeout(DEADLINE):
            return await self.reader.readline()


async def test_what_is_said_arrives_both_ways_while_nothing_is_wrong() -> None:
    async with server(Answering()) as port, fault_proxy(port) as proxy:
        caller = await Caller.through(proxy)
        assert await caller.ask(b"one\n") == b"server took one\n"
        assert proxy.connections == [0]
        caller.writer.write_eof()
        assert await caller.hear() == b"", "the end is passed on, and the server's answer to it"
        await until(lambda: not proxy.connections)


async def test_connections_take_turns_and_pass_over_a_server_that_refuses() -> None:
    one, two = Answering(b"one"), Answering(b"two")
    async with (
        server(one) as first,
        server(two) as second,
        fault_proxy(first, second, 1) as proxy,
    ):
        callers = [await Caller.through(proxy) for _ in range(3)]
        answers = [await caller.ask(b"x\n") for caller in callers]
    assert answers == [b"one took x\n", b"two took x\n", b"one took x\n"]


async def test_a_cut_connection_is_reset_or_closed_and_new_ones_work() -> None:
    async with server(Answering()) as port, fault_proxy(port) as proxy:
        caller = await Caller.through(proxy)
        await caller.ask(b"one\n")
        assert proxy.cut() == 1
        with pytest.raises(ConnectionResetError):
            await caller.hear()
        caller = await Caller.through(proxy)
        await caller.ask(b"two\n")
        assert proxy.cut(reset=False) == 1
        assert await caller.hear() == b""
        caller = await Caller.through(proxy)
        assert await caller.ask(b"three\n") == b"server took three\n"
    assert [action.kind for action in proxy.actions if action.kind != "connect"] == ["reset", "cut"]


async def test_a_share_of_the_connections_is_cut_at_random() -> None:
    async with server(Answering()) as port, fault_proxy(port) as proxy:
        callers = [await Caller.through(proxy) for _ in range(4)]
        for caller in callers:
            await caller.ask(b"x\n")
        draws = iter([0.9, 0.1, 0.9, 0.1])
        assert proxy.cut(0.5, uniform=lambda: next(draws)) == 2
        assert proxy.connections == [0, 2]


async def test_a_silenced_connection_stays_open_and_others_hear() -> None:
    answering = Answering()
    async with server(answering) as port, fault_proxy(port) as proxy:
        subscriber, other = await Caller.through(proxy), await Caller.through(proxy)
        await subscriber.ask(b"SUBSCRIBE\n")
        await other.ask(b"PING\n")
        assert proxy.silence(b"SUBSCRIBE") == 1
        subscriber.say(b"lost\n")
        await until(lambda: proxy.count("drop"))
        assert await other.ask(b"PING\n") == b"server took PING\n"
        assert answering.heard == [b"SUBSCRIBE\n", b"PING\n", b"lost\n", b"PING\n"]
        assert proxy.connections == [0, 1]
    (dropped,) = [action for action in proxy.actions if action.kind == "drop"]
    assert (dropped.connection, dropped.size) == (0, len(b"server took lost\n"))


async def test_the_server_does_what_is_asked_and_its_answer_is_lost() -> None:
    answering = Answering()
    async with server(answering) as port, fault_proxy(port) as proxy:
        caller = await Caller.through(proxy)
        proxy.swallow(b"COMMIT")
        assert await caller.ask(b"BEGIN\n") == b"server took BEGIN\n"
        with pytest.raises(ConnectionResetError):
            await caller.ask(b"COMMIT\n")
        assert answering.heard == [b"BEGIN\n", b"COMMIT\n"]
        caller = await Caller.through(proxy)
        assert await caller.ask(b"COMMIT\n") == b"server took COMMIT\n", "once was asked for"
    assert proxy.count("swallow") == 1


async def test_a_closed_proxy_resets_newcomers_until_it_is_healed() -> None:
    async with server(Answering()) as port, fault_proxy(port) as proxy:
        proxy.is_closed = True
        caller = await Caller.through(proxy)
        with pytest.raises(ConnectionResetError):
            await caller.hear()
        proxy.heal()
        caller = await Caller.through(proxy)
        assert await caller.ask(b"one\n") == b"server took one\n"
    assert proxy.count("refuse") == 1


async def test_delay_and_throttle_hold_up_what_the_server_says() -> None:
    async with server(Answering()) as port, fault_proxy(port, delay=0.1) as proxy:
        caller = await Caller.through(proxy)
        begun = time.monotonic()
        await caller.ask(b"one\n")
        assert time.monotonic() - begun >= 0.1
        proxy.heal()
        proxy.throttle = 160.0  # bytes per second; an answer has 16
        begun = time.monotonic()
        for _ in range(3):
            await caller.ask(b"two\n")
        assert time.monotonic() - begun >= 0.15
