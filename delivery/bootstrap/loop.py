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

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end on the fastest loop there is."""
    try:
        import uvloop
    except ImportError:  # not made for this platform
        asyncio.run(main)
        return
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


class Told:
    """Whether this process was told to stop; made before it says that it is ready."""

    def __init__(self) -> None:
        self._told = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            with suppress(NotImplementedError):  # a loop on Windows has no signal handlers
                loop.add_signal_handler(number, self._told.set)

    async def to_stop(self) -> None:
        """Return on the first SIGTERM or SIGINT; a second one ends the process the hard way."""
        # What start-up made lives as long as the process: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        await self._told.wait()
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            with suppress(NotImplementedError):
                loop.remove_signal_handler(number)
