"""The processes of a benchmark, seen from their parent: started, pinned, told, heard, ended.

Owns: one line of JSON each way, and that none outlives its block. Never does: know their roles.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from delivery.errors import DeliveryError

PATIENCE = 180.0
GOODBYE = 10.0


class BenchFailed(DeliveryError):
    """A process of the run ended without a result."""


@contextmanager
def child(
    order: dict[str, Any],
    core: int,
    environment: dict[str, str],
    module: str = "delivery.bench.process",
) -> Iterator[subprocess.Popen[str]]:
    """A process of its own, on a core of its own where the machine has one."""
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
        bufsize=1,
    )
    try:
        pin(process.pid, core)
        tell(process, json.dumps(order))
        yield process
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GOODBYE)  # it has said its result and ends by itself
    finally:
        process.kill()
        process.wait(10)


def pin(pid: int, core: int) -> None:
    """Keep a process on one core; with fewer cores than that, they share."""
    available = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(pid, {available[core % len(available)]})


def tell(process: subprocess.Popen[str], line: str) -> None:
    """Say one line to a process."""
    if process.stdin is None:
        raise BenchFailed("a benchmark process has no input")
    process.stdin.write(line + "\n")
    process.stdin.flush()


def answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next line of a process, within the patience of the whole run."""
    if process.stdout is None:
        raise BenchFailed("a benchmark process has no output")
    ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
    line = process.stdout.readline() if ready else ""
    if not line:
        raise BenchFailed("a benchmark process ended without a result; its errors stand above")
    found: dict[str, Any] = json.loads(line)
    return found
