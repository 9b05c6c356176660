"""How the ``direct`` channel asks the sockets: in one process, and over Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack

import pytest

from delivery.bus.redis_bus import RedisBus
from delivery.bus.resend import BusResend, LoopResend
from delivery.domain.node_messages import NodeMessage, ResendAnswer, ResendRequest, Wake
from delivery.errors import ChannelUnavailable, LedgerUnavailable
from tests import servers

DEADLINE = 10.0


class Gateways:
    """Gateways on one bus, each with a number of connections of every user."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self._url = url
        self._stack = stack
        self.asked: list[tuple[str, NodeMessage]] = []
        self.woken = asyncio.Event()

    async def start(self, name: str, connections: int | None) -> None:
        """``None`` connections: a gateway that never answers."""
        bus = RedisBus(self._url, name)

        def on_message(message: NodeMessage) -> None:
            self.asked.append((name, message))
            if isinstance(message, Wake):
                self.woken.set()
            if isinstance(message, ResendRequest) and connections is not None:
                request = message.request
                bus.publish(ResendAnswer(node=name, request=request, count=connections))

        await bus.start(on_message)
        self._stack.push_async_callback(bus.stop)


@pytest.fixture
async def gateways(redis_url: str) -> AsyncIterator[Gateways]:
    async with AsyncExitStack() as stack:
        yield Gateways(redis_url, stack)


async def test_the_answers_of_all_gateways_are_added_up_without_waiting_out_the_time(
    gateways: Gateways, redis_url: str
) -> None:
    await gateways.start("one", 2)
    await gateways.start("two", 0)
    await gateways.start("three", 1)
    worker = BusResend(redis_url)
    begun = time.monotonic()
    assert await asyncio.to_thread(worker.resend, "ada", ["id-1", "id-2"], 8.0) == 3
    assert time.monotonic() - begun < 6.0
    assert {name for name, _ in gateways.asked} == {"one", "two", "three"}
    message = gateways.asked[0][1]
    assert isinstance(message, ResendRequest)
    assert (message.user, message.ids, message.timeout) == ("ada", ["id-1", "id-2"], 8.0)
    worker.close()


async def test_a_gateway_that_does_not_answer_costs_the_time_and_no_more(
    gateways: Gateways, redis_url: str
) -> None:
    await gateways.start("one", 1)
    await gateways.start("mute", None)
    begun = time.monotonic()
    assert await asyncio.to_thread(BusResend(redis_url).resend, "ada", ["id-1"], 0.3) == 1
    assert 0.3 <= time.monotonic() - begun < 4.0


async def test_answers_go_to_the_worker_that_asked_and_not_to_the_gateways(
    gateways: Gateways, redis_url: str
) -> None:
    await gateways.start("one", 1)
    await gateways.start("two", 2)
    workers = [BusResend(redis_url) for _ in range(8)]
    answers = await asyncio.gather(
        *(asyncio.to_thread(worker.resend, "ada", ["id-1"], 5.0) for worker in workers)
    )
    assert answers == [3] * 8
    assert {type(message) for _, message in gateways.asked} == {ResendRequest}


async def test_without_any_gateway_no_connection_took_it(redis_url: str) -> None:
    begun = time.monotonic()
    assert await asyncio.to_thread(BusResend(redis_url).resend, "ada", ["id-1"], 8.0) == 0
    assert time.monotonic() - begun < 5.0


async def test_waking_reaches_every_gateway(gateways: Gateways, redis_url: str) -> None:
    await gateways.start("one", 1)
    await asyncio.to_thread(BusResend(redis_url).wake, ["ada", "bob"])
    async with asyncio.timeout(DEADLINE):
        await gateways.woken.wait()
    woken = gateways.asked[0][1]
    assert isinstance(woken, Wake)
    assert woken.users == ["ada", "bob"]


@pytest.mark.parametrize("fault", ["kill", "stop"])
def test_a_redis_that_is_away_or_frozen_is_unavailable_in_time(fault: str) -> None:
    with servers.redis_server() as server:
        worker = BusResend(server.url, connect_timeout=0.5)
        getattr(server, fault)()
        begun = time.monotonic()
        with pytest.raises(ChannelUnavailable):
            worker.resend("ada", ["id-1"], 2.0)
        with pytest.raises(ChannelUnavailable):
            worker.wake(["ada"])
        assert time.monotonic() - begun < 6.0


async def test_the_gateway_in_this_process_is_asked_on_its_loop() -> None:
    loop = asyncio.get_running_loop()
    asked: list[tuple[object, ...]] = []
    woken = asyncio.Event()

    async def resend(user_id: str, ids: Sequence[str], timeout: float) -> int:
        asked.append((asyncio.get_running_loop(), user_id, list(ids), timeout))
        return 2

    direct = LoopResend(loop, resend, lambda users: woken.set())
    assert await asyncio.to_thread(direct.resend, "ada", ["id-1"], 1.0) == 2
    assert asked == [(loop, "ada", ["id-1"], 1.0)]
    await asyncio.to_thread(direct.wake, ["ada"])
    async with asyncio.timeout(DEADLINE):
        await woken.wait()


async def test_a_loop_that_does_not_answer_is_unavailable_and_the_question_withdrawn() -> None:
    withdrawn = asyncio.Event()

    async def hang(user_id: str, ids: Sequence[str], timeout: float) -> int:
        try:
            await asyncio.Event().wait()
        finally:
            withdrawn.set()
        return 0

    direct = LoopResend(asyncio.get_running_loop(), hang, lambda users: None)
    with pytest.raises(ChannelUnavailable, match="did not answer"):
        await asyncio.to_thread(direct.resend, "ada", ["id-1"], 0.05)
    async with asyncio.timeout(DEADLINE):
        await withdrawn.wait()


def test_a_loop_that_is_over_is_unavailable() -> None:
    loop = asyncio.new_event_loop()
    loop.close()

    async def resend(user_id: str, ids: Sequence[str], timeout: float) -> int:
        return 1

    direct = LoopResend(loop, resend, lambda users: None)
    with pytest.raises(ChannelUnavailable):
        direct.resend("ada", ["id-1"], 1.0)
    direct.wake(["ada"])


async def test_an_error_of_the_sockets_is_the_askers_too() -> None:
    async def fail(user_id: str, ids: Sequence[str], timeout: float) -> int:
        raise ValueError("a bug")

    direct = LoopResend(asyncio.get_running_loop(), fail, lambda users: None)
    with pytest.raises(ValueError, match="a bug"):
        await asyncio.to_thread(direct.resend, "ada", ["id-1"], 1.0)


async def test_a_ledger_that_is_away_makes_the_resend_unavailable() -> None:
    async def fail(user_id: str, ids: Sequence[str], timeout: float) -> int:
        raise LedgerUnavailable("locked")

    direct = LoopResend(asyncio.get_running_loop(), fail, lambda users: None)
    with pytest.raises(ChannelUnavailable, match="locked"):
        await asyncio.to_thread(direct.resend, "ada", ["id-1"], 1.0)
