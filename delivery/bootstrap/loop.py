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


async def until_told_to_stop() -> None:
    """Return on the first SIGTERM or SIGINT; a second one ends the process the hard way."""
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        with suppress(NotImplementedError):  # a loop on Windows has no signal handlers
            loop.add_signal_handler(number, told.set)
    # What start-up made lives as long as the process: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    await told.wait()
    for number in numbers:
        loop.remove_signal_handler(number)
