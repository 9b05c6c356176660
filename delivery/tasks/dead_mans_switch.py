"""Pings of a dead man's switch: an external service that alerts operators when pings stop.

Owns: one ping after each good sweep, at most every 30 s. Never does: delay the sweep.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

import httpx

from delivery.domain.policy import Policies
from delivery.domain.stores.ledger import Ledger
from delivery.tasks.broker.relay import Relay
from delivery.tasks.sweep import Sweeper, SweepReport

logger = logging.getLogger(__name__)

PING_EVERY = 30.0
TIMEOUT = 5.0


class DeadMansSwitch:
    """Fetches a URL at most every 30 s, in its own thread; without a URL it does nothing."""

    def __init__(self, url: str | None) -> None:
        self._url = url
        self._last: float | None = None
        self._lock = threading.Lock()

    def ping(self) -> None:
        """Fetch the URL unless it was fetched in the last 30 s; never waits."""
        if self._url is None:
            return
        now = time.monotonic()
        with self._lock:
            if self._last is not None and now - self._last < PING_EVERY:
                return
            self._last = now
        threading.Thread(
            target=_fetch, args=(self._url,), name="delivery-dead-mans-switch", daemon=True
        ).start()


def _fetch(url: str) -> None:
    try:
        httpx.get(url, timeout=TIMEOUT).raise_for_status()
    except httpx.HTTPError as error:
        # The URL is a secret: a request to it suppresses the alert.
        logger.warning("dead man's switch: DELIVERY_HEARTBEAT_URL: %s", type(error).__name__)


class WatchedSweeper(Sweeper):
    """A sweeper whose good sweeps ping the switch."""

    def __init__(
        self,
        ledger: Ledger,
        policies: Policies,
        publish: Relay,
        switch: DeadMansSwitch,
        wake: Callable[[Sequence[str]], None] = lambda users: None,
    ) -> None:
        super().__init__(ledger, policies, publish, wake=wake)
        self._switch = switch

    def sweep(self) -> SweepReport:
        """See ``Sweeper``; pings the switch when the sweep succeeded."""
        report = super().sweep()
        self._switch.ping()
        return report
