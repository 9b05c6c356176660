"""Several processes as one: started together, restarted when one dies, stopped together.

Owns: forks and signals. Never does: know what the processes do.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

log = logging.getLogger(__name__)

PAUSE = 1.0
WRONG = 2  # the exit code of a wrong configuration: a restart cannot help


def supervise(count: int, serve: Callable[[int], None]) -> None:
    """Run ``serve(index)`` in ``count`` forked processes until SIGTERM or SIGINT.

    A process that dies is started again after a second. Returns in the parent only; in a child
    ``serve`` ends the process.

    Raises:
        SystemExit: a child found the configuration wrong.
    """
    _Family(count, serve).run()


class _Family:
    def __init__(self, count: int, serve: Callable[[int], None]) -> None:
        self._count = count
        self._serve = serve
        self._children: dict[int, int] = {}
        self._is_stopping = threading.Event()
        self._failed = 0

    def run(self) -> None:
        """Until every child has ended."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        for index in range(self._count):
            self._start(index)
        while self._children:
            pid, status = os.wait()
            if pid in self._children:
                self._on_end(self._children.pop(pid), os.waitstatus_to_exitcode(status))
        if self._failed:
            sys.exit(self._failed)

    def _start(self, index: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            self._children[pid] = index
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        self._serve(index)
        sys.exit(0)

    def _on_end(self, index: int, code: int) -> None:
        if self._is_stopping.is_set():
            return
        if code == WRONG:
            self._failed = code
            self._stop(signal.SIGTERM)
            return
        log.error("process %d of %d ended with %d; starting it again", index, self._count, code)
        if not self._is_stopping.wait(PAUSE):
            self._start(index)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stop(number)

    def _stop(self, number: int) -> None:
        self._is_stopping.set()
        for pid in self._children:
            os.kill(pid, number)
