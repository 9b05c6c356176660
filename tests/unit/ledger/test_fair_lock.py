"""The lock of SQLite's writers."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from delivery.ledger.sql.fair_lock import FairLock
from tests.waiting import until_blocking

TIMEOUT = 10.0


def started(target: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=target)
    thread.start()
    return thread


def test_a_thread_that_wants_it_back_at_once_comes_after_those_who_wait() -> None:
    lock = FairLock()
    assert lock.acquire()
    has_it, may_go_on = threading.Event(), threading.Event()

    def wait() -> None:
        assert lock.acquire(TIMEOUT)
        has_it.set()
        may_go_on.wait(TIMEOUT)
        lock.release()

    waiter = started(wait)
    until_blocking(lambda: lock.waiting == 1)
    lock.release()
    assert not lock.acquire(), "it is the waiter's, whether it is awake or not"
    assert has_it.wait(TIMEOUT)
    may_go_on.set()
    waiter.join(TIMEOUT)
    assert lock.acquire()


def test_waiters_get_it_in_their_order() -> None:
    lock = FairLock()
    order: list[int] = []
    assert lock.acquire()

    def wait(number: int) -> None:
        assert lock.acquire(TIMEOUT)
        order.append(number)
        lock.release()

    threads = []
    for number in range(5):
        threads.append(started(lambda number=number: wait(number)))  # type: ignore[misc]
        until_blocking(lambda number=number: lock.waiting == number + 1)  # type: ignore[misc]
    lock.release()
    for thread in threads:
        thread.join(TIMEOUT)
    assert order == [0, 1, 2, 3, 4]


def test_it_is_taken_twice_by_one_thread_and_given_back_twice() -> None:
    lock = FairLock()
    assert lock.acquire()
    assert lock.acquire()
    lock.release()
    found: list[bool] = []
    started(lambda: found.append(lock.acquire())).join(TIMEOUT)
    lock.release()
    started(lambda: found.append(lock.acquire())).join(TIMEOUT)
    assert found == [False, True]


def test_a_wait_ends_with_its_time_and_leaves_no_place_in_the_queue() -> None:
    lock = FairLock()
    assert lock.acquire()
    found: list[bool] = []
    started(lambda: found.append(lock.acquire(0.01))).join(TIMEOUT)
    assert found == [False]
    assert lock.waiting == 0
    lock.release()
    assert lock.acquire()


def test_only_its_thread_gives_it_back() -> None:
    lock = FairLock()
    with pytest.raises(RuntimeError):
        lock.release()
