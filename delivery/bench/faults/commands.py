"""The product's own commands as processes: started, ready, stopped, killed.

Owns: their environment (nothing of this machine's settings), their logs, and that none outlives the
run. Never does: know what they are for.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from delivery.bench.faults.server import wait_until
from delivery.errors import DeliveryError

READY_TIMEOUT = 60.0
STOP_TIMEOUT = 30.0


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """SIGTERM is what Ctrl-C is, so that what was started ends with this process."""
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    before = signal.signal(signal.SIGTERM, _as_ctrl_c)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _as_ctrl_c(_number: int, frame: FrameType | None) -> None:
    """Whatever handles Ctrl-C now handles this; where it is ignored, what it would be."""
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler):
        raise KeyboardInterrupt
    handler(signal.SIGINT, frame)


class CommandFailed(DeliveryError):
    """A command of the run ended by itself, or did not get ready."""


class Command:
    """``delivery ARGS`` as a process of its own, which may be started again."""

    def __init__(
        self, name: str, args: Sequence[str], settings: Mapping[str, str], folder: Path
    ) -> None:
        """
        Args:
            settings: ``DELIVERY_*`` without the prefix.
            folder: where it runs and logs.
        """
        self.name = name
        self._args = args
        self._settings = settings
        self._folder = folder
        self._said = 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """What it logged, over all its starts."""
        return self._folder / f"{self.name}.log"

    @property
    def _output(self) -> Path:
        return self._folder / f"{self.name}.out"

    @property
    def is_running(self) -> bool:
        """Whether the process exists."""
        return self.process is not None and self.process.poll() is None

    def begin(self) -> None:
        """Start it; ``ready`` waits until it has said so."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("DELIVERY_")}
        ours = {f"DELIVERY_{name}": value for name, value in self._settings.items()}
        with self.log.open("ab") as log, self._output.open("ab") as output:
            self._said = output.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "delivery", *self._args],
                cwd=self._folder,
                env=kept | ours,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for whoever started this, who then closes it
            )

    def ready(self) -> None:
        """Wait until it has said that it works.

        Raises:
            CommandFailed: it ended instead; the end of its log says why.
        """
        wait_until(self._has_spoken, f"{self.name} is ready; its log: {self.log}", READY_TIMEOUT)

    def _has_spoken(self) -> bool:
        said = self._output.read_bytes()[self._said :]
        if said.startswith(b'{"error"') or not self.is_running:
            raise CommandFailed(f"{self.name} ended:\n{self.log.read_text()[-2000:]}")
        return b"\n" in said

    def stop(self) -> int:
        """SIGTERM, and wait; its exit status."""
        process = self._started()
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        return process.wait(STOP_TIMEOUT)

    def kill(self) -> None:
        """SIGKILL for it and its children, which lead no sessions of their own."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(STOP_TIMEOUT)

    def run(self) -> None:
        """Start it and wait for its end.

        Raises:
            CommandFailed: it did not end well.
        """
        self.begin()
        if self._started().wait(READY_TIMEOUT):
            raise CommandFailed(f"{self.name} failed:\n{self.log.read_text()[-2000:]}")

    def _started(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            raise CommandFailed(f"{self.name} has not begun")
        return self.process
