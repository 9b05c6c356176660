"""How many messages wait in each queue of the broker, for metrics.

Owns: one thread that asks every so often. Never does: consume, or create a queue.
"""

from __future__ import annotations

import logging
import threading

from celery import Celery

from delivery.tasks.broker.app import ALL_QUEUES
from delivery.telemetry import metrics

logger = logging.getLogger(__name__)

ASK_EVERY = 10.0


class QueueDepths:
    """Asks the broker, and sets the metric. A broker that is away leaves the last figures.

    Args:
        every: seconds between two questions.
    """

    def __init__(self, app: Celery, *, every: float = ASK_EVERY) -> None:
        self._app = app
        self._every = every
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="delivery-depths", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """End the thread."""
        self._stopping.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                for queue, depth in depths(self._app).items():
                    metrics.queue_depth.set(depth, queue)
            except Exception as error:
                # Whatever the broker's client raises: the thread must outlive it.
                logger.info("queue depths: the broker does not answer: %s", error)
            self._stopping.wait(self._every)


def depths(app: Celery) -> dict[str, int]:
    """Messages that wait, by queue; 0 for one that is not there: Redis keeps no empty ones."""
    found = {}
    with app.connection_for_read() as connection:
        for queue in ALL_QUEUES:
            try:
                # A channel of its own: a refusal closes it.
                with connection.channel() as channel:
                    answer = channel.queue_declare(queue, passive=True)  # type: ignore[attr-defined]
                    found[queue] = int(answer.message_count)
            except connection.channel_errors:
                found[queue] = 0
    return found
