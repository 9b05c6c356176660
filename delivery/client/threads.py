"""An event loop in a background thread: what the blocking twins run on.

Owns: the thread's start and its end. Not to be carried across a fork: start one in the process that
uses it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, TypeVar

from delivery.errors import Unreachable

T = TypeVar("T")
STOP_TIMEOUT = 5.0


class LoopThread:
    """An event loop in a daemon thread."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin to run ``work`` on the loop."""
        if not self._thread.is_alive():
            work.close()
            raise Unreachable("the connection is closed, or was made before a fork")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, T], timeout: float) -> T:
        """Run ``work`` to its end.

        Raises:
            Unreachable: it took over ``timeout`` seconds, and was cancelled.
        """
        future = self.start(work)
        try:
            return future.result(timeout)
        except FutureTimeout as error:
            if future.done():
                raise  # the work's own timeout
            raise Unreachable(f"no answer within {timeout:g} s") from error
        finally:
            future.cancel()

    def stop(self) -> None:
        """Cancel what runs, end the thread, close the loop. Safe to repeat."""
        if self._loop.is_closed():
            return
        if self._thread.is_alive():
            self.run(_cancel_all(), STOP_TIMEOUT)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(STOP_TIMEOUT)
        if not self._thread.is_alive():
            self._loop.close()


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=STOP_TIMEOUT / 2)
    await asyncio.get_running_loop().shutdown_asyncgens()
