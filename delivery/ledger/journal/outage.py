"""Whether a ledger that went away is back.

Owns: when to ask, and the thread that asks: a frozen server keeps whoever asks waiting, and who
commits must spool meanwhile. Never does: decide what is done with events.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

RETRY = 1.0
"""Seconds between two questions."""


class Outage:
    """Told of failures and successes by whoever uses the ledger.

    Args:
        ping: asks the ledger; raises while it is away.
    """

    def __init__(self, ping: Callable[[], None]) -> None:
        self._ping = ping
        self._asker = ThreadPoolExecutor(1, thread_name_prefix="delivery-ledger-back")
        self._question: Future[None] | None = None
        self._ask_at: float | None = None

    @property
    def is_on(self) -> bool:
        """Whether the ledger is away, as far as is known."""
        return self._ask_at is not None

    def failed(self) -> None:
        """The ledger did not answer."""
        if self._ask_at is None or time.monotonic() >= self._ask_at:
            # Not moved by each failure: under load the time to ask would never come.
            self._ask_at = time.monotonic() + RETRY

    def worked(self) -> None:
        """The ledger did what it was asked."""
        self._ask_at = None

    def may_be_over(self) -> bool:
        """Whether it is worth trying: the ledger answered the last question. Never waits."""
        if self._ask_at is None:
            return True
        if self._question is None:
            if time.monotonic() >= self._ask_at:
                self._question = self._asker.submit(self._ping)
            return False
        if not self._question.done():
            return False
        question, self._question = self._question, None
        self._ask_at = time.monotonic() + RETRY
        return question.exception() is None

    def close(self) -> None:
        """Ask no more."""
        self._asker.shutdown(wait=False, cancel_futures=True)
