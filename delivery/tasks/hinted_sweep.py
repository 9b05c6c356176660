"""Sweeps on a hint, so that an event that was handed over need not wait for beat's next sweep.

Owns: one thread and the interval of its sweeps. Never does: implement the sweep.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from delivery.errors import DeliveryError, LedgerUnavailable

logger = logging.getLogger(__name__)

HINT_DELAY = 0.02
HINT_EVERY = 0.25
"""Least seconds between two hinted sweeps: events that become due meanwhile go through the chain as
one batch, which costs little more than one event."""


class HintedSweep:
    """Sweeps after a hint; hints during a sweep make one further sweep.

    Args:
        sweep: called in the thread.
    """

    def __init__(self, sweep: Callable[[], object]) -> None:
        self._sweep = sweep
        self._hinted = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="delivery-sweep", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def hint(self) -> None:
        """Note that an event is due now; never waits."""
        self._hinted.set()

    def stop(self, timeout: float = 5.0) -> None:
        """End the thread after the sweep under way."""
        self._stopping.set()
        self._hinted.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        swept_at = float("-inf")
        while not self._stopping.is_set():
            if not self._hinted.wait(5.0):
                continue
            # The commit of the event that the hint is about may not be finished.
            self._stopping.wait(max(HINT_DELAY, swept_at + HINT_EVERY - time.monotonic()))
            self._hinted.clear()
            if self._stopping.is_set():
                return
            swept_at = time.monotonic()
            try:
                self._sweep()
            except LedgerUnavailable as error:
                logger.debug("hinted sweep: %s", error)  # beat's next sweep takes the event
            except DeliveryError:
                logger.exception("hinted sweep failed")
