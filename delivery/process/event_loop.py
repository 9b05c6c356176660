"""The event loop of a process, and the signals that stop it.

Owns: uvloop where there is one, SIGTERM, SIGINT and SIGHUP, the garbage collector's settings. Never
does: know what runs on the loop.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
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
        on_reload: called for SIGHUP, once for several that come during one call. Without it SIGHUP
            ends the process; with it only a terminal that is closed does.
    """

    def __init__(
        self, *, by_parent: bool = False, on_reload: Callable[[], Awaitable[Any]] | None = None
    ) -> None:
        self._received = asyncio.Event()
        self._on_reload = on_reload
        self._reload_asked = False
        self._reloading: asyncio.Task[None] | None = None
        self._had_terminal = has_terminal()
        if on_reload is not None and hasattr(signal, "SIGHUP"):
            with suppress(NotImplementedError):
                asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._on_hangup)
        self._signals = (signal.SIGTERM,) if by_parent else (signal.SIGTERM, signal.SIGINT)
        loop = asyncio.get_running_loop()
        for number in self._signals:
            with suppress(NotImplementedError):  # a loop on Windows has no signal handlers
                loop.add_signal_handler(number, self._received.set)

    def _on_hangup(self) -> None:
        if self._had_terminal and not has_terminal():
            self._received.set()  # the terminal was closed: no one will stop the process
            return
        self._reload_asked = True
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.get_running_loop().create_task(self._reload())

    async def _reload(self) -> None:
        while self._reload_asked and self._on_reload is not None:
            self._reload_asked = False
            await self._on_reload()

    async def wait(self) -> None:
        """Return on the first signal; a second one ends the process at once."""
        tune_garbage_collector()
        await self._received.wait()
        loop = asyncio.get_running_loop()
        for number in self._signals:
            with suppress(NotImplementedError):
                loop.remove_signal_handler(number)


def has_terminal() -> bool:
    """Whether this process reads from a terminal that is still open."""
    try:
        return sys.stdin is not None and os.isatty(sys.stdin.fileno())
    except (OSError, ValueError):  # closed, or none with a descriptor
        return False
