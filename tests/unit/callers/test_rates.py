"""Rate limits of one node, and of several that share leases."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from delivery.callers.rates import AWAY_FOR, LEASE_FOR, Rates
from delivery.domain.rates import Lease, Rate
from delivery.errors import ChannelUnavailable, RateLimited


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Shared:
    """The shared buckets, without a refill; counts how often they are asked."""

    def __init__(self, tokens: float) -> None:
        self.tokens = tokens
        self.asked = 0
        self.is_away = False

    async def lease(self, name: str, caller: str, rate: Rate, cost: int, wanted: int) -> Lease:
        self.asked += 1
        await asyncio.sleep(0)
        if self.is_away:
            raise ChannelUnavailable("away")
        granted = max(cost, min(wanted, int(self.tokens))) if self.tokens >= 1.0 else 0
        self.tokens -= granted
        return Lease(granted, self.tokens)


async def admitted(rates: Rates, tries: int, *, caller: str = "a", cost: int = 1) -> int:
    """How many of so many requests pass."""
    passed = 0
    for _ in range(tries):
        try:
            await rates.take("emit", caller, cost)
        except RateLimited:
            continue
        passed += 1
    return passed


async def test_a_burst_passes_then_the_rate() -> None:
    clock = Clock()
    rates = Rates({"emit": 5.0}, clock=clock)
    assert await admitted(rates, 100) == 50
    clock.now += 2.0
    assert await admitted(rates, 100) == 10
    clock.now += 1_000.0
    assert await admitted(rates, 100) == 50


async def test_callers_and_limits_do_not_share() -> None:
    rates = Rates({"emit": 5.0, "acks": 5.0}, clock=Clock())
    assert await admitted(rates, 100) == 50
    assert await admitted(rates, 100, caller="b") == 50
    await rates.take("acks", "a")


async def test_a_refusal_tells_when_to_come_back_and_then_it_passes() -> None:
    clock = Clock()
    rates = Rates({"emit": 5.0}, clock=clock)
    await admitted(rates, 50)
    with pytest.raises(RateLimited) as caught:
        await rates.take("emit", "a")
    with pytest.raises(RateLimited):
        rates.check("emit", "a")
    assert caught.value.headers == {
        "RateLimit-Policy": '"emit";q=50;w=10',
        "RateLimit": '"emit";r=0;t=10',
    }
    clock.now += caught.value.retry_after
    rates.check("emit", "a")
    await rates.take("emit", "a")


async def test_a_batch_counts_its_events_and_is_paid_for_afterwards() -> None:
    clock = Clock()
    rates = Rates({"emit": 5.0}, clock=clock)
    standing = await rates.take("emit", "a", 1_000)
    assert standing is not None
    assert standing.left == 0
    with pytest.raises(RateLimited) as caught:
        await rates.take("emit", "a")
    assert 180.0 < caught.value.retry_after < 200.0


@pytest.mark.parametrize("per_second", [0.0, None])
async def test_no_rate_is_no_limit(per_second: float | None) -> None:
    rates = Rates({} if per_second is None else {"emit": per_second})
    assert await admitted(rates, 10_000) == 10_000
    assert rates.buckets == 0


async def test_buckets_are_bounded_and_the_busy_ones_stay() -> None:
    rates = Rates({"emit": 5.0}, clock=Clock(), max_buckets=100)
    await admitted(rates, 50, caller="busy")
    for number in range(1_000):
        await rates.take("emit", f"stranger-{number}")
        with pytest.raises(RateLimited):
            await rates.take("emit", "busy")
    assert rates.buckets == 100


def nodes(shared: Shared, clock: Clock, count: int) -> Sequence[Rates]:
    return [Rates({"emit": 100.0}, shared, clock=clock) for _ in range(count)]


async def test_nodes_share_a_limit_and_ask_for_leases_not_for_events() -> None:
    shared = Shared(1_000.0)
    passed = 0
    for node in nodes(shared, Clock(), 4):
        passed += await admitted(node, 2_000)
    assert passed == 1_000
    assert shared.asked < 40


async def test_requests_at_the_same_time_wait_for_one_lease() -> None:
    shared = Shared(1_000.0)
    [node] = nodes(shared, Clock(), 1)
    await asyncio.gather(*(node.take("emit", "a") for _ in range(50)))
    assert shared.asked == 1


async def test_a_caller_who_is_refused_does_not_make_the_node_ask_each_time() -> None:
    shared = Shared(0.0)
    [node] = nodes(shared, Clock(), 1)
    assert await admitted(node, 1_000) == 0
    assert shared.asked == 1


async def test_an_unused_lease_is_void_after_a_while() -> None:
    shared, clock = Shared(1_000.0), Clock()
    [node] = nodes(shared, clock, 1)
    await node.take("emit", "a")
    clock.now += LEASE_FOR
    await node.take("emit", "a")
    assert shared.asked == 2


async def test_without_the_shared_buckets_each_node_holds_the_limit_alone() -> None:
    shared, clock = Shared(1_000.0), Clock()
    shared.is_away = True
    one, other = nodes(shared, clock, 2)
    assert await admitted(one, 2_000) == 1_000
    assert await admitted(other, 2_000) == 1_000
    assert shared.asked == 2
    shared.is_away = False
    clock.now += AWAY_FOR
    assert await admitted(one, 2_000) == 1_000
    assert shared.tokens == 0.0


async def test_what_was_leased_counts_when_the_shared_buckets_go_away() -> None:
    shared, clock = Shared(1_000.0), Clock()
    [node] = nodes(shared, clock, 1)
    assert await admitted(node, 900) == 900
    shared.is_away = True
    clock.now += LEASE_FOR  # 200 more of its own
    assert await admitted(node, 2_000) == 300
