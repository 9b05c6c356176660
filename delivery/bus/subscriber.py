"""Subscriber: one subscription of the bus, kept alive.

Owns: a new subscription when the connection breaks, stops receiving, or the channel moves. A
connection can look alive and receive nothing, so a probe must arrive within a timeout. Never does:
publish, or decode messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence

from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from delivery.bus.identity import primary_behind
from delivery.bus.topology import Shards
from delivery.domain.ports import Jitter
from delivery.domain.retry import Backoff

logger = logging.getLogger(__name__)

RECONNECT = Backoff(base=0.1, max=1.0, jitter=0.5)


class Subscriber:
    """Receives one channel until cancelled; or several of one server, in the server's order.

    Args:
        extra_channels: further channels; ignored in a cluster, where another server may carry
            them.
        on_raw: called with every message; returns ``True`` for this node's own probe.
        on_gap: called after a new subscription when messages may have been missed.
        has_missed: whether messages may have been missed before the first subscription.
        probe_timeout: seconds without a probe after which it subscribes again.
        timeout: seconds for a connect or an answer of Redis.

    Attributes:
        failure: why the last subscription ended.
    """

    def __init__(
        self,
        shards: Shards,
        channel: str,
        on_raw: Callable[[bytes], bool],
        on_gap: Callable[[], None],
        *,
        extra_channels: Sequence[str] = (),
        probe_timeout: float,
        timeout: float,
        jitter: Jitter,
        has_missed: bool = False,
    ) -> None:
        self.channel = channel
        self.subscribed = asyncio.Event()
        self._extra_channels = tuple(extra_channels)
        self._shards = shards
        self._on_raw = on_raw
        self._on_gap = on_gap
        self._probe_timeout = probe_timeout
        self._timeout = timeout
        self._jitter = jitter
        self._missed = has_missed
        self._probed_at = float("-inf")
        self._run_id: str | None = None
        self._leaves: str | None = None
        self.failure: Exception | None = None

    @property
    def is_healthy(self) -> bool:
        """Whether a probe arrived within the probe timeout."""
        if not self.subscribed.is_set():
            return False
        return asyncio.get_running_loop().time() - self._probed_at < self._probe_timeout

    def stay_with(self, run_id: str | None) -> bool:
        """Subscribe again if this node's messages go to another server than its own come from.

        Args:
            run_id: of the server that is published to; ``None`` where it is unknown.

        Returns:
            Whether the servers differ.
        """
        is_elsewhere = None not in (self._run_id, run_id) and self._run_id != run_id
        if is_elsewhere:
            self.leave("messages go to another server")
        return is_elsewhere

    def leave(self, reason: str) -> None:
        """Subscribe again, within a second."""
        self._leaves = reason

    async def listen(self) -> None:
        """Subscribe and receive, and subscribe again after a failure, until cancelled."""
        failures = 0
        while True:
            try:
                await self._listen()
            except Exception as error:
                failures = 1 if self.subscribed.is_set() else failures + 1
                self.failure = error
                logger.log(
                    log_level(failures), "bus subscription failed, subscribing again: %r", error
                )
            self._shards.forget()
            self.subscribed.clear()
            self._missed = True
            await asyncio.sleep(RECONNECT.delay(failures, self._jitter()))

    async def _listen(self) -> None:
        clock = asyncio.get_running_loop().time
        async with asyncio.timeout(3 * self._timeout):
            layout = await self._shards.find_layout()
            pubsub = (await self._shards.client(self.channel)).pubsub()
        try:
            async with asyncio.timeout(3 * self._timeout):
                self._leaves = None
                self._run_id = await primary_behind(pubsub)
                if layout.is_cluster:
                    await pubsub.ssubscribe(self.channel)
                else:
                    await pubsub.subscribe(self.channel, *self._extra_channels)
            self._probed_at = clock()
            while True:
                await self._receive(pubsub)
                if self._leaves is not None:
                    raise ConnectionError(self._leaves)
                if clock() - self._probed_at > self._probe_timeout:
                    raise TimeoutError(f"no probe came back in {self._probe_timeout:g} s")
        finally:
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                await pubsub.aclose()  # type: ignore[no-untyped-call]

    async def _receive(self, pubsub: PubSub) -> None:
        item = await pubsub.get_message(timeout=min(1.0, self._probe_timeout / 4))
        kind = item["type"] if item is not None else None
        if kind in ("subscribe", "ssubscribe"):
            self.subscribed.set()
            if self._missed:
                # Messages published in between did not reach this node.
                self._missed = False
                self._on_gap()
        elif kind in ("message", "smessage"):
            if self._on_raw(item["data"]):
                self._probed_at = asyncio.get_running_loop().time()
        elif kind == "sunsubscribe":
            # Sent by the server when the slot moves to another one.
            raise ConnectionError("the channel moved to another server")


def log_level(failures: int) -> int:
    """Log level for the latest of ``failures`` failures in a row."""
    return logging.WARNING if failures in (1, 10) or failures % 100 == 0 else logging.DEBUG
