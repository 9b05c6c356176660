"""Codes of one use: in one process, and on Redis for several."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from delivery.bus import one_time
from delivery.bus.one_time import LocalOneTime, RedisOneTime
from delivery.domain.ports import OneTime
from delivery.errors import ChannelUnavailable, Overloaded
from tests import servers
from tests.waiting import until


@pytest.fixture(params=["local", "redis"])
async def nodes(request: pytest.FixtureRequest) -> AsyncIterator[Callable[[], OneTime]]:
    """Makes one node's view of the same store, as often as it is called."""
    made: list[OneTime] = []
    if request.param == "local":
        made.append(LocalOneTime())
        yield lambda: made[0]
    else:
        url: str = request.getfixturevalue("redis_url")

        def node() -> OneTime:
            made.append(RedisOneTime(url))
            return made[-1]

        yield node
    for one in made:
        await one.close()


async def test_a_value_is_taken_once_at_any_node(nodes: Callable[[], OneTime]) -> None:
    here, there = nodes(), nodes()
    code = await here.put("ticket", b"value", 30.0)
    taken = await asyncio.gather(*(node.take("ticket", code) for node in (here, there) * 5))
    assert sorted(taken, key=bool) == [None] * 9 + [b"value"]


async def test_a_code_is_of_one_purpose_and_cannot_be_made_up(
    nodes: Callable[[], OneTime],
) -> None:
    node = nodes()
    code = await node.put("ticket", b"value", 30.0)
    assert len(code) >= 32
    for wrong in ("", "x", code + "x", code[:-1], "ü" * 10, "x" * 10_000, "a\x00b"):
        assert await node.take("ticket", wrong) is None
    assert await node.take("link", code) is None
    assert await node.take("ticket", code) == b"value"


async def test_a_value_is_gone_after_its_lifetime(nodes: Callable[[], OneTime]) -> None:
    node = nodes()
    codes = [await node.put("ticket", b"value", 0.01) for _ in range(50)]

    async def is_gone() -> bool:
        return await node.take("ticket", codes.pop()) is None

    await until(is_gone)


async def test_a_store_without_redis_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_time, "MAX_VALUES", 2)
    now = 0.0
    store = LocalOneTime(clock=lambda: now)
    for _ in range(2):
        await store.put("ticket", b"value", 30.0)
    with pytest.raises(Overloaded):
        await store.put("ticket", b"value", 30.0)
    now = 31.0
    await store.put("ticket", b"value", 30.0)


async def test_a_redis_that_is_away_is_an_error_and_no_wrong_code() -> None:
    store = RedisOneTime(f"redis://127.0.0.1:{servers.free_port()}/0", timeout=0.2)
    try:
        with pytest.raises(ChannelUnavailable):
            await store.put("ticket", b"value", 30.0)
        with pytest.raises(ChannelUnavailable):
            await store.take("ticket", "code")
    finally:
        await store.close()
