"""Runs the product's commands as processes of their own, with nothing of this machine's settings.

Owns: their environment, their output, and that none outlives its test.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

SECRET = "only-for-tests-" + "s" * 32
AUDIT_SECRET = "only-for-tests-" + "a" * 32
STOP_TIMEOUT = 40.0


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with exactly these ``DELIVERY_*`` settings; with a database also
    the key that its compliance log needs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DELIVERY_")}
    if "DATABASE_URL" in settings and "AUDIT_SECRET_FILE" not in settings:
        kept["DELIVERY_AUDIT_SECRET"] = AUDIT_SECRET
    return kept | {f"DELIVERY_{name}": value for name, value in settings.items()}


def run_command(
    *args: str, cwd: Path, settings: Mapping[str, str] | None = None, timeout: float = 30.0
) -> subprocess.CompletedProcess[str]:
    """Run ``delivery ARGS`` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "delivery", *args],
        cwd=cwd,
        env=environment(settings or {}),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


class Process:
    """A command that keeps running; its log goes to a file, what it prints can be awaited."""

    def __init__(
        self, command: list[str], cwd: Path, settings: Mapping[str, str], name: str
    ) -> None:
        self.log = cwd / f"{name}.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=cwd,
                env=environment(settings),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C is for pytest, whose fixtures then close this
            )
        assert self.process.stdout is not None
        self._lines: queue.Queue[str | None] = queue.Queue()
        reader = threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True)
        reader.start()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self._lines.put(line)
        self._lines.put(None)

    def line(self, timeout: float = 60.0) -> str:
        """The next line it prints."""
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            line = None
        if line is None:
            raise RuntimeError(f"it printed nothing (more); its log:\n{self.tail()}")
        return line

    def json_line(self, timeout: float = 60.0) -> Any:
        """The next line, parsed."""
        return json.loads(self.line(timeout))

    def tail(self, characters: int = 4_000) -> str:
        """The end of its log."""
        return self.log.read_text()[-characters:]

    def stop(self) -> int:
        """SIGTERM, and wait; its exit code, and on another than 0 the end of its log."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(STOP_TIMEOUT)
        if code:
            sys.stdout.write(f"exit code {code}; its log:\n{self.tail()}\n")
        return code

    def kill(self) -> None:
        """SIGKILL for it and its children, which lead no sessions of their own."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(STOP_TIMEOUT)


@contextlib.contextmanager
def running(
    *args: str, cwd: Path, settings: Mapping[str, str], name: str | None = None
) -> Iterator[Process]:
    """``delivery ARGS`` (or ``python -m ARGS`` for other modules), killed at the end if need be."""
    module = [] if args[0] == "celery" else ["delivery"]
    process = Process(
        [sys.executable, "-m", *module, *args], cwd, settings, name or "-".join(args[:1])
    )
    try:
        yield process
    finally:
        process.kill()
