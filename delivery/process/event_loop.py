"""The event loop of a process, and the signals that stop it.

Owns: uvloop where there is one, SIGTERM and SIGINT, the garbage collector's settings. Never does:
know what runs on the loop.
"""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end: on uvloop, or on asyncio's own loop without it."""
    try:
        import uvloop
    except ImportError:  # there is no uvloop for this platform
        asyncio.run(main)
        return
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


def tune_garbage_collector() -> None:
    """Exempt the objects of the start-up from collection, and collect less often.

    Start-up's objects live as long as the process. Events hold no cycles, so thousands of them in
    flight are no reason to look for one.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


class StopSignal:
    """The first SIGTERM or SIGINT of this process; make it before the process reports ready.

    Args:
        by_parent: the process has a supervisor, which turns Ctrl-C into a SIGTERM for each child.
    """

    def __init__(self, *, by_parent: bool = False) -> None:
        self._received = asyncio.Event()
        self._signals = (signal.SIGTERM,) if by_parent else (signal.SIGTERM, signal.SIGINT)
        loop = asyncio.get_running_loop()
        for number in self._signals:
            with suppress(NotImplementedError):  # a loop on Windows has no signal handlers
                loop.add_signal_handler(number, self._received.set)

    async def wait(self) -> None:
        """Return on the first signal; a second one ends the process at once."""
        tune_garbage_collector()
        await self._received.wait()
        loop = asyncio.get_running_loop()
        for number in self._signals:
            with suppress(NotImplementedError):
                loop.remove_signal_handler(number)
