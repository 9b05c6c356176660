"""Processes of this machine in the place of pytest-celery's containers.

Owns: what a node of pytest-celery asks of its container, answered by a worker process or a server
of `tests.servers`. The plugin knows no interface for it: these are the names that its nodes use.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.processes import Process
from tests.server_process import Server, wait_until

START_TIMEOUT = 60.0


class LocalServer:
    """A broker or a database where pytest-celery expects a container.

    `url` is what Celery is configured with, which for a database is no result backend at all.
    """

    status = "running"

    def __init__(self, server: Server, url: str) -> None:
        self._server = server
        self.name = server.version
        self.id = server.folder.name
        self.celeryconfig = {"url": url, "host_url": url}

    def ready(self) -> bool:
        self._server.probe()
        return self._server.is_running

    def logs(self) -> str:
        return self._server.log.read_text()

    def kill(self, signal: str | int = "SIGKILL") -> None:
        """Kills it, whatever the signal; `restart` starts it again."""
        self._server.kill()

    def restart(self, timeout: float = 0.0) -> None:
        """Starts it again on its port and data."""
        self._server.restart()

    def reload(self) -> None:
        """There is nothing that could be out of date."""

    def teardown(self) -> None:
        """Its fixture ends it."""


class LocalWorker:
    """A `celery -A delivery.worker worker` as it is typed into a shell, with settings only."""

    def __init__(
        self, folder: Path, settings: Mapping[str, str], pool: str, options: str = "--concurrency 2"
    ) -> None:
        self.name = "worker"
        self.id = folder.name
        self.celeryconfig: dict[str, Any] = {}
        self._folder = folder
        self._settings = settings
        self._pool = pool
        self._options = options
        self._starts = 0
        self._process = self._start()

    def _start(self) -> Process:
        self._starts += 1
        celery = Path(sys.executable).with_name("celery")
        command = (
            f"exec {celery} -A delivery.worker worker -E {self._options} --pool {self._pool} "
            f"--without-gossip --without-mingle --hostname {self.worker_name()}@test"
        )
        return Process(
            ["/bin/sh", "-c", command],
            self._folder,
            self._settings,
            f"worker-{self._starts}",
        )

    @property
    def status(self) -> str:
        return "running" if self._process.process.poll() is None else "exited"

    def ready(self) -> bool:
        """Waits until it takes tasks."""

        def is_ready() -> bool:
            if self.status != "running":
                raise RuntimeError(f"the worker ended while starting:\n{self.logs()}")
            return f"{self.worker_name()}@test ready" in self._process.log.read_text()

        wait_until(is_ready, f"the worker is ready; its log: {self._process.log}", START_TIMEOUT)
        return True

    def logs(self) -> str:
        """What it printed, over all its starts."""
        return "".join(log.read_text() for log in sorted(self._folder.glob("worker-*.log")))

    def kill(self, signal: str | int = "SIGKILL") -> None:
        """Kills it and its pool (SIGKILL), or asks it to end, as a container's engine would."""
        if _number(signal) == _number("SIGKILL"):
            self._process.kill()
        else:
            self._process.stop()

    def restart(self, timeout: float = 0.0) -> None:
        """Ends it, if it still runs, and starts another one in its place."""
        self._process.stop()
        self._process = self._start()
        self.ready()

    def reload(self) -> None:
        """There is nothing that could be out of date."""

    def teardown(self) -> None:
        self._process.kill()

    def worker_name(self) -> str:
        return f"delivery-{self._starts}"

    def worker_queue(self) -> str:
        return "delivery.maintenance"

    def log_level(self) -> str:
        return "INFO"

    @staticmethod
    def version() -> str:
        return "local"


def _number(name: str | int) -> int:
    return int(getattr(signal, name) if isinstance(name, str) else name)
