"""Waiting for acceptance and confirmation, and not for ever."""

import asyncio

import pytest

from delivery.emitter import receipts as module
from delivery.emitter.receipts import Receipts
from delivery.errors import LedgerUnavailable, Overloaded


def desk(ledger: set[str], **options) -> Receipts:
    async def is_confirmed(event_id: str) -> bool:
        return event_id in ledger

    receipts = Receipts(is_confirmed, **options)
    receipts.start(asyncio.get_running_loop())
    return receipts


async def test_a_confirmation_wakes_its_waiters():
    receipts = desk(set())
    waits = [asyncio.create_task(receipts.wait_confirmed("a", 5.0)) for _ in range(2)]
    await asyncio.sleep(0)
    receipts.confirmed(["b", "a"])
    assert await asyncio.gather(*waits) == [True, True]
    assert receipts.waiting == 0


async def test_a_confirmation_that_came_before_the_wait_counts():
    receipts = desk(set())
    receipts.confirmed(["a"])
    assert await receipts.wait_confirmed("a", 0.0)


async def test_a_confirmation_that_the_bus_lost_is_found_in_the_ledger(monkeypatch):
    monkeypatch.setattr(module, "FIRST_SLICE", 0.001)
    assert await desk({"a"}).wait_confirmed("a", 5.0)


async def test_the_ledger_has_the_last_word_at_the_deadline():
    ledger: set[str] = set()
    receipts = desk(ledger)
    wait = asyncio.create_task(receipts.wait_confirmed("a", 0.02))
    await asyncio.sleep(0)
    ledger.add("a")
    assert await wait


async def test_without_confirmation_the_wait_ends_and_leaves_nothing_behind():
    receipts = desk(set())
    assert await receipts.wait_confirmed("a", 0.01) is False
    assert receipts.waiting == 0
    assert receipts._waiting == {}


async def test_a_ledger_that_is_away_is_not_a_confirmation_and_not_an_error():
    async def is_confirmed(event_id: str) -> bool:
        raise LedgerUnavailable("away")

    receipts = Receipts(is_confirmed)
    receipts.start(asyncio.get_running_loop())
    assert await receipts.wait_confirmed("a", 0.01) is False


async def test_a_cancelled_wait_leaves_nothing_behind():
    receipts = desk(set())
    wait = asyncio.create_task(receipts.wait_confirmed("a", 5.0))
    await asyncio.sleep(0)
    wait.cancel()
    with pytest.raises(asyncio.CancelledError):
        await wait
    assert receipts._waiting == {}


async def test_too_many_waits_are_refused():
    receipts = desk(set(), capacity=1)
    wait = asyncio.create_task(receipts.wait_confirmed("a", 5.0))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await receipts.wait_confirmed("b", 5.0)
    receipts.confirmed(["a"])
    assert await wait


async def test_a_journal_that_never_answers_is_an_error_in_time():
    receipts = desk(set(), accept_timeout=0.01)
    waiters = [receipts.waiter() for _ in range(3)]
    waiters[0].set_result(None)
    for waiter in waiters[1:]:
        with pytest.raises(LedgerUnavailable):
            await asyncio.wait_for(waiter, 2.0)


async def test_answered_waits_are_not_kept():
    receipts = desk(set())
    for _ in range(100):
        receipts.waiter().set_result(None)
    assert len(receipts._accepting) == 1
    receipts.close()
