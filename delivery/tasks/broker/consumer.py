"""The worker's consumer, without the queues for delayed messages and with a pulse.

Owns: which of Celery's consumer steps run, and the pause before a new connection. Delays are due
times in the ledger, so no message is ever published with an ETA.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from celery import bootsteps
from celery.worker import consumer

from delivery.domain.retry import Backoff

DELAYED_DELIVERY = "celery.worker.consumer.delayed_delivery:DelayedDelivery"


RECONNECT = Backoff(base=0.1, max=2.0, jitter=0.3)
CALM = 10.0
"""Seconds without an error of the broker after which the next one is the first again."""


class Consumer(consumer.Consumer):
    """Celery's consumer; on quorum queues it would declare 28 replicated queues for ETAs."""

    _failures = 0
    _failed_at = 0.0

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Connect anew after a pause, which grows: a broker that answers each connection with an
        error, such as a replica, must not be asked all the time."""
        super().on_connection_error_after_connected(exc)
        now = time.monotonic()
        self._failures = self._failures + 1 if now - self._failed_at < CALM else 0
        if self._failures:
            time.sleep(RECONNECT.delay(self._failures, random.random()))
        self._failed_at = time.monotonic()

    class Blueprint(consumer.Consumer.Blueprint):  # type: ignore[misc, valid-type]
        """The steps of a worker."""

        default_steps = [  # noqa: RUF012 - Celery's own is a list
            step for step in consumer.Consumer.Blueprint.default_steps if step != DELAYED_DELIVERY
        ]


def pulse_step(beat: Callable[[], None], every: float) -> type[bootsteps.StartStopStep]:
    """A consumer step that calls ``beat`` as long as the worker takes tasks.

    It ends with the connection to the broker, and stops when the worker's loop does.

    Args:
        beat: called as soon as tasks can arrive, then every ``every`` seconds.
    """

    class Pulse(bootsteps.StartStopStep):
        requires = ("celery.worker.consumer.tasks:Tasks",)

        def __init__(self, parent: Any, **options: Any) -> None:
            super().__init__(parent, **options)
            self._entry: Any = None

        def start(self, parent: Any) -> None:
            beat()
            self._entry = parent.timer.call_repeatedly(every, beat)

        def stop(self, parent: Any) -> None:
            entry, self._entry = self._entry, None
            if entry is not None:
                entry.cancel()

        shutdown = stop

    return Pulse
