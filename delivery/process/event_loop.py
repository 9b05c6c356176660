"""The event loop of a process, and the signals that end it.

Owns: uvloop where there is one, SIGTERM and SIGINT, freezing what start-up allocated.
"""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end on the fastest loop there is."""
    try:
        import uvloop
    except ImportError:  # not made for this platform
        asyncio.run(main)
        return
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


def settle_in() -> None:
    """Start-up is over: what it made lives as long as the process, so that the garbage collector
    need not look at it again; and thousands of events under way are no reason to look for cycles
    (they have none)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


class Told:
    """Whether this process was told to stop; made before it says that it is ready.

    Args:
        by_parent: it is one of several, whose parent turns Ctrl-C into a SIGTERM for each.
    """

    def __init__(self, *, by_parent: bool = False) -> None:
        self._told = asyncio.Event()
        self._signals = (signal.SIGTERM,) if by_parent else (signal.SIGTERM, signal.SIGINT)
        loop = asyncio.get_running_loop()
        for number in self._signals:
            with suppress(NotImplementedError):  # a loop on Windows has no signal handlers
                loop.add_signal_handler(number, self._told.set)

    async def to_stop(self) -> None:
        """Return on the first SIGTERM or SIGINT; a second one ends the process the hard way."""
        settle_in()
        await self._told.wait()
        loop = asyncio.get_running_loop()
        for number in self._signals:
            with suppress(NotImplementedError):
                loop.remove_signal_handler(number)
