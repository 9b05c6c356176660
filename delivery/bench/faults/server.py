"""A server process that may be frozen, thawed, killed and started again; waiting for conditions.

Owns: the process and its signals. What is started, and where its files are, is for ``servers``.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
import redis

from delivery.bench.faults.binaries import ServerMissing

with contextlib.suppress(ModuleNotFoundError):  # of the test extra; `start` says when it is missing
    import psutil

START_TIMEOUT = 30.0
STOP_TIMEOUT = 10.0


def wait_until(condition: Callable[[], object], what: str, timeout: float = STOP_TIMEOUT) -> None:
    """Polls until the condition is true.

    Raises:
        TimeoutError: it was still false after `timeout` seconds; the message says `what`.
    """
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s in vain: {what}")
        pause.wait(0.01)


@dataclass
class Server:
    """One server process with its own port and data, which both survive ``kill`` and ``restart``.

    ``url`` is what the product is configured with; ``version`` is for people.
    """

    url: str
    version: str
    command: list[str]
    folder: Path
    probe: Callable[[], object]
    popen_options: Mapping[str, Any] = field(default_factory=dict)
    start_timeout: float = START_TIMEOUT
    stop_signal: signal.Signals = signal.SIGINT  # PostgreSQL: fast shutdown; Redis: like SIGTERM
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """What the server printed, over all its starts."""
        return self.folder / "server.log"

    @property
    def is_running(self) -> bool:
        """Whether the process exists; a stopped (frozen) one does."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Starts the process and returns when it answers.

        Raises:
            ServerMissing: psutil, which freezes and ends servers, is not installed.
        """
        if find_spec("psutil") is None:
            raise ServerMissing("servers of its own need psutil: pip install 'delivery[test]'")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for whoever started this, who then closes it
                **self.popen_options,
            )
        what = f"{self.version} answers; its log: {self.log}"
        wait_until(self._has_started, what, self.start_timeout)

    def _has_started(self) -> bool:
        if not self.is_running:
            raise RuntimeError(
                f"{self.version} ended while starting:\n{self.log.read_text()[-2000:]}"
            )
        try:
            self.probe()
        except (psycopg.OperationalError, redis.ConnectionError, redis.TimeoutError, OSError):
            return False
        return True

    def stop(self) -> None:
        """Freezes the server (SIGSTOP): connections stay open, nothing answers; see `cont`."""
        family = self._freeze()
        wait_until(
            lambda: all(_status(p) in (psutil.STATUS_STOPPED, None) for p in family),
            "the server is frozen",
        )

    def cont(self) -> None:
        """Thaws a frozen server (SIGCONT)."""
        self._signal(signal.SIGCONT, self._family())

    def kill(self) -> None:
        """Kills the server and its children (SIGKILL), as a crash would; its data stays."""
        family = self._freeze()
        self._signal(signal.SIGKILL, family)
        if self.process is not None:
            self.process.wait(STOP_TIMEOUT)
        wait_until(lambda: all(_status(p) is None for p in family), "the killed server is gone")

    def shut_down(self) -> None:
        """Ends the server in good order, or kills it when it does not end in time."""
        if not self.is_running:
            return
        self.cont()
        process = self._running()
        process.send_signal(self.stop_signal)
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()

    def restart(self) -> None:
        """Starts the server again on its port and data; shuts it down first if it runs."""
        self.shut_down()
        self.start()

    def _family(self) -> list[psutil.Process]:
        """The process and all below it, parent first.

        A process group would not do: PostgreSQL's children lead groups of their own.
        """
        parent = psutil.Process(self._running().pid)
        return [parent, *parent.children(recursive=True)]

    def _running(self) -> subprocess.Popen[bytes]:
        if self.process is None or self.process.poll() is not None:
            raise RuntimeError(f"{self.version} does not run: call restart() first")
        return self.process

    def _freeze(self) -> list[psutil.Process]:
        """Stops the family, the parent first, so that no child is born uncounted."""
        self._running().send_signal(signal.SIGSTOP)
        family = self._family()
        self._signal(signal.SIGSTOP, family)
        return family

    @staticmethod
    def _signal(number: signal.Signals, family: list[psutil.Process]) -> None:
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)


def _status(process: psutil.Process) -> str | None:
    """The process's state, or None when it is gone; an unreaped orphan is as good as gone."""
    try:
        status: str = process.status()
    except psutil.NoSuchProcess:
        return None
    return None if status == psutil.STATUS_ZOMBIE else status
