"""The supervisor of forked processes: starts them, restarts the dead, stops all of them.

Owns: forks and signals. Never does: know what the processes do.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from delivery.process.event_loop import has_terminal

logger = logging.getLogger(__name__)

RESTART_DELAY = 1.0
_RELOAD = getattr(signal, "SIGHUP", signal.SIGTERM)  # Windows, which cannot fork, has none
_SIGNALS = (signal.SIGTERM, signal.SIGINT, _RELOAD)
CONFIGURATION = 2
"""Exit code of a wrong configuration: a restart cannot mend it."""


def supervise(count: int, serve: Callable[[int], None]) -> None:
    """Run ``serve(index)`` in ``count`` forked processes until SIGTERM or SIGINT; SIGHUP is passed
    on to each.

    A process that dies is started again after a second, and ends when this one does. Returns in
    the parent only; a child exits after ``serve``.

    Raises:
        SystemExit: a child ended with the exit code of a wrong configuration.
    """
    _Supervisor(count, serve).run()


class _Supervisor:
    def __init__(self, count: int, serve: Callable[[int], None]) -> None:
        self._count = count
        self._serve = serve
        self._children: dict[int, int] = {}
        self._is_stopping = threading.Event()
        self._failed = 0
        self._had_terminal = has_terminal()
        # The write end closes with the parent, which the children see at the read end.
        self._read_end, self._write_end = os.pipe()

    def run(self) -> None:
        """Start the children; return when every one has ended."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.signal(_RELOAD, self._on_reload)
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
        # A signal right after the fork would find a child that the parent does not know yet, or
        # run the parent's handler in the child.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        if not self._is_stopping.is_set():
            pid = os.fork()
            if pid == 0:
                self._be_child(index)
            self._children[pid] = index
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def _be_child(self, index: int) -> NoReturn:
        os.close(self._write_end)
        threading.Thread(target=_end_with_parent, args=(self._read_end,), daemon=True).start()
        # Ctrl-C reaches parent and child, and the parent sends SIGTERM: the child takes that one.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(_RELOAD, signal.SIG_IGN)  # until it can: it has just read its settings
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        self._serve(index)
        sys.exit(0)

    def _on_end(self, index: int, code: int) -> None:
        if self._is_stopping.is_set():
            return
        if code == CONFIGURATION:
            self._failed = code
            self._stop()
            return
        logger.error("process %d of %d ended with status %d; restarting", index, self._count, code)
        if not self._is_stopping.wait(RESTART_DELAY):
            self._start(index)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stop()

    def _on_reload(self, number: int, frame: FrameType | None) -> None:
        if self._had_terminal and not has_terminal():
            self._stop()
            return
        for pid in self._children:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _stop(self) -> None:
        self._is_stopping.set()
        for pid in self._children:
            _end(pid)


def _end(pid: int) -> None:
    with suppress(ProcessLookupError):  # it has just ended
        os.kill(pid, signal.SIGTERM)


def _end_with_parent(read_end: int) -> None:
    """End this child when its parent is gone: it would never be stopped or restarted."""
    os.read(read_end, 1)  # nothing is ever written: it returns when the parent has ended
    logger.error("parent process ended; stopping")
    _end(os.getpid())
