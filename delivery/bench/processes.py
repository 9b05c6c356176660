"""The processes of a benchmark, seen from their parent.

Owns: their environment, cores and end, and one line of JSON in each direction. Never does: know
their roles; those are in ``roles``.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any

from delivery.errors import DeliveryError
from delivery.tokens import make_token

ANSWER_TIMEOUT = 180.0
EXIT_TIMEOUT = 10.0
TOKEN_TTL = 3600.0
ROLES = "delivery.bench.roles"


class BenchFailed(DeliveryError):
    """A process of the run ended without a result."""


def processor_s(process: int) -> float:
    """Processor time of all threads of a process in seconds; 0 where the system does not tell.

    Source: the kernel's Documentation/scheduler/sched-stats.rst, /proc/<pid>/schedstat.
    """
    total = 0
    for one in Path(f"/proc/{process}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):  # the thread has ended
            total += int(one.read_text().split()[0])
    return total / 1e9


@contextmanager
def child(
    order: dict[str, Any],
    core: int,
    environment: dict[str, str],
    module: str = ROLES,
) -> Iterator[subprocess.Popen[str]]:
    """A new process with an order, on a core of its own where the machine has one."""
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
            process.wait(EXIT_TIMEOUT)  # after its result it ends by itself
    finally:
        process.kill()
        process.wait(EXIT_TIMEOUT)


def pin(pid: int, core: int) -> None:
    """Keep a process on one core; with fewer cores than processes, they share."""
    available = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(pid, {available[core % len(available)]})


def tell(process: subprocess.Popen[str], line: str) -> None:
    """Write one line to a process."""
    if process.stdin is None:
        raise BenchFailed("a benchmark process has no input")
    process.stdin.write(line + "\n")
    process.stdin.flush()


def answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next line of a process.

    Raises:
        BenchFailed: the process ended, or said nothing in time.
    """
    if process.stdout is None:
        raise BenchFailed("a benchmark process has no output")
    ready, _, _ = select.select([process.stdout], [], [], ANSWER_TIMEOUT)
    line = process.stdout.readline() if ready else ""
    if not line:
        raise BenchFailed("a benchmark process ended without a result; its errors stand above")
    found: dict[str, Any] = json.loads(line)
    return found


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C, so that every process that was started ends with this one."""
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    before = signal.signal(signal.SIGTERM, _as_ctrl_c)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _as_ctrl_c(_number: int, frame: FrameType | None) -> None:
    """Call the present handler of Ctrl-C; where Ctrl-C is ignored, raise as its default does."""
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler):
        raise KeyboardInterrupt
    handler(signal.SIGINT, frame)


def raise_file_limit() -> None:
    """Raise the limit of open files to the most that the system allows without root."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def new_folder() -> Iterator[Path]:
    """A folder for a run's data, removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="delivery-bench-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def environment_of(
    folder: Path,
    window: int,
    database_url: str | None = None,
    settings: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, str]:
    """Environment of a run's processes: nothing of this machine's settings.

    Args:
        window: events that may be unacknowledged at any time.
        settings: further ones, ``DELIVERY_*`` without the prefix.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith("DELIVERY_")}
    found = {
        "DATA_DIR": str(folder),
        "PORT": "0",
        "JWT_SECRET": os.urandom(32).hex(),
        "AUDIT_SECRET": os.urandom(32).hex(),
        "BROKER_URL": "memory://",
        "MAX_IN_FLIGHT": str(max(1_000, window)),
        "LOG_LEVEL": "WARNING",
        # Every client of a run comes from this machine.
        "MAX_CONNECTIONS_PER_ADDRESS": "0",
        "RATE_CONNECT_ADDRESS": "0",
    }
    if database_url is not None:
        found["DATABASE_URL"] = database_url
    return kept | {f"DELIVERY_{name}": value for name, value in (found | dict(settings)).items()}


def client_tokens(secret: str, users: int, name: str = "user") -> list[str]:
    """Tokens of the clients of users ``NAME-0`` and on."""
    return [make_token(secret, f"{name}-{user}", ttl=TOKEN_TTL) for user in range(users)]


def audit(result: Mapping[str, Any], counted: Mapping[str, Any]) -> None:
    """Compare what the gateway measured with what the clients counted.

    Raises:
        BenchFailed: an event was lost, came twice or stayed unconfirmed, so there are no figures.
    """
    lost = max(0, result["events"] - counted["received"])
    if lost or result["unconfirmed"] or counted["repeated"]:
        raise BenchFailed(
            f"{lost} events did not arrive, {result['unconfirmed']} are not confirmed in the "
            f"ledger and {counted['repeated']} came twice: no figures"
        )


@contextmanager
def embedded_service(settings: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    """A complete ``delivery up`` on a new SQLite file; yields its address and process id.

    Args:
        settings: ``DELIVERY_*`` without the prefix.

    Raises:
        BenchFailed: it did not start, or ended by itself.
    """
    with new_folder() as folder:
        environment = environment_of(folder, 1_000, settings=settings)
        del environment["DELIVERY_BROKER_URL"]
        process = subprocess.Popen(
            [sys.executable, "-m", "delivery", "up", "--json", "--port", "0"],
            stdout=subprocess.PIPE,
            env=environment,
            cwd=folder,
            text=True,
        )
        try:
            said = process.stdout.readline() if process.stdout is not None else ""
            if not said:
                raise BenchFailed("the gateway did not start")
            yield str(json.loads(said)["url"]), process.pid
            if process.poll() is not None:
                raise BenchFailed(f"the gateway ended with {process.returncode}")
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(EXIT_TIMEOUT)
