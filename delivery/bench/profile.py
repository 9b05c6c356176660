"""A flame graph of the gateway while it is under load, drawn by py-spy.

Owns: finding the profiler and ending it in time. The profiler is not a dependency: whoever wants a
picture installs it.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from delivery.errors import ConfigError

RATE = 250
PATIENCE = 30.0


def find_profiler() -> str:
    """The path of py-spy, beside this interpreter or on the PATH.

    Raises:
        ConfigError: it is not installed.
    """
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if found is None:
        raise ConfigError("--profile needs py-spy: pip install py-spy")
    return found


@contextmanager
def profiling(pid: int, target: Path) -> Iterator[None]:
    """Sample a process during the block and write the picture.

    Raises:
        ConfigError: there is no profiler, or it may not look into other processes here.
    """
    command = [find_profiler(), "record", "--gil", "--threads", "--rate", str(RATE), "--output",
               str(target), "--pid", str(pid)]  # fmt: skip
    spy = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        yield
    finally:
        spy.send_signal(signal.SIGINT)  # it draws what it has and ends
        try:
            _, said = spy.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            spy.kill()
            said = "it did not end in time"
    if not target.exists():
        raise ConfigError(f"py-spy wrote no profile: {said.strip()[-300:]}")
