"""How tests wait for what no signal announces, and how calls in threads start together.

Every wait looks again and again, and ends.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable
from typing import Any

TIMEOUT = 15.0
WORKER_TIMEOUT = 60.0
"""For what other processes do."""
PAUSE = 0.005


async def until(condition: Callable[[], object], timeout: float = TIMEOUT) -> None:
    """Wait on the loop until a condition holds, which may itself be awaitable.

    Raises:
        AssertionError: it did not within ``timeout`` seconds.
    """
    ends = time.monotonic() + timeout
    while True:
        seen = condition()
        if await seen if inspect.isawaitable(seen) else seen:
            return
        assert time.monotonic() < ends, f"the condition did not hold within {timeout:g} s"
        await asyncio.sleep(PAUSE)


def until_blocking(condition: Callable[[], object], timeout: float = WORKER_TIMEOUT) -> None:
    """Wait in this thread until a condition holds.

    Raises:
        AssertionError: it did not within ``timeout`` seconds.
    """
    ends = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < ends, f"the condition did not hold within {timeout:g} s"
        threading.Event().wait(PAUSE)


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """The answers of calls that start together, each in its thread."""
    start = threading.Barrier(len(calls))
    answers: list[Any] = [None] * len(calls)

    def run(index: int, call: Callable[[], Any]) -> None:
        start.wait(10)
        try:
            answers[index] = call()
        except BaseException as error:
            answers[index] = error

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return answers
