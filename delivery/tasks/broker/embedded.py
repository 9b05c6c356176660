"""A Celery worker and beat inside one process, for ``delivery up``.

Owns: two threads. Never does: install signal handlers, configure logging, use another broker than
its app's. Celery keeps its stop flags per process: one embedded worker at a time.
"""

from __future__ import annotations

import logging
import threading
import time

from celery import Celery
from celery.beat import Scheduler, Service
from celery.worker import WorkController, state

from delivery.tasks.broker.app import ALL_QUEUES

logger = logging.getLogger(__name__)

START_TIMEOUT = 30.0


class EmbeddedWorker:
    """Runs the app's worker (a thread pool) and its beat in two threads of this process."""

    def __init__(self, app: Celery, *, concurrency: int = 4) -> None:
        self._app = app
        self._concurrency = concurrency
        self._worker: WorkController | None = None
        self._beat: Service | None = None
        self._threads: list[threading.Thread] = []
        self._ready = threading.Event()

    def start(self, timeout: float = START_TIMEOUT) -> None:
        """Start both threads and wait until the worker consumes.

        Raises:
            RuntimeError: it runs already, or did not start in time.
        """
        if self._threads:
            raise RuntimeError("the embedded worker runs already")
        # Without these two calls, tasks in threads are not registered or use another app's broker.
        self._app.finalize()
        self._app.set_default()
        state.should_stop = None
        state.should_terminate = None
        self._ready.clear()
        self._worker = WorkController(
            app=self._app,
            pool_cls="threads",
            concurrency=self._concurrency,
            queues=list(ALL_QUEUES),
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            ready_callback=lambda _consumer: self._ready.set(),
        )
        self._beat = Service(self._app, scheduler_cls=Scheduler)
        self._threads = [
            threading.Thread(target=self._worker.start, name="delivery-worker", daemon=True),
            threading.Thread(target=self._beat.start, name="delivery-beat", daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        if not self._ready.wait(timeout):
            self.stop(1.0)
            raise RuntimeError(f"the embedded worker did not start within {timeout:g} s")

    @property
    def is_running(self) -> bool:
        """Whether both threads are alive."""
        return bool(self._threads) and all(thread.is_alive() for thread in self._threads)

    def stop(self, timeout: float = 10.0) -> None:
        """Stop beat, let running tasks end, stop the worker. Safe to call twice.

        Args:
            timeout: seconds for everything; claims of tasks that still run end with their lease.
        """
        ends = time.monotonic() + timeout
        if self._beat is not None:
            self._beat.stop(wait=False)
        if self._worker is not None:
            # It waits for running tasks, without a timeout of its own.
            stopper = threading.Thread(
                target=self._worker.stop, name="delivery-worker-stop", daemon=True
            )
            stopper.start()
            self._threads.append(stopper)
        for thread in self._threads:
            thread.join(max(0.0, ends - time.monotonic()))
            if thread.is_alive():
                logger.warning("%s did not stop within %g s", thread.name, timeout)
        self._threads = []
        self._worker = None
        self._beat = None
