"""Reads of the ledger for the loop: a few threads, a bounded queue before them, a deadline each.

Owns: the threads and the bounds. Never does: write order-dependent things; that is the journal's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from delivery.errors import LedgerUnavailable

T = TypeVar("T")

CALL_TIMEOUT = 12.0
MAX_CALLS = 256


class Readers:
    """Runs functions beside the loop."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="delivery-ledger")
        self._calls = 0

    async def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """The function's answer.

        Raises:
            LedgerUnavailable: no answer within 12 s, or too many calls wait already.
        """
        if self._calls >= MAX_CALLS:
            raise LedgerUnavailable("too many ledger reads wait already; try again")
        self._calls += 1
        try:
            future = asyncio.get_running_loop().run_in_executor(
                self._pool, lambda: function(*args, **kwargs)
            )
            return await asyncio.wait_for(future, CALL_TIMEOUT)
        except TimeoutError:
            raise LedgerUnavailable(
                f"the ledger did not answer within {CALL_TIMEOUT:g} s"
            ) from None
        finally:
            self._calls -= 1

    def close(self) -> None:
        """Take no more calls; those under way end by themselves."""
        self._pool.shutdown(wait=False, cancel_futures=True)
