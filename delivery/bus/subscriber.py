"""One subscription of the bus, kept alive.

Owns: subscribing anew when the connection breaks, goes deaf, or the channel moves. A connection can
look alive and hear nothing, so a subscriber must hear a probe now and then. Never does: publish, or
decode what it hears.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence

from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from delivery.bus.topology import Shards
from delivery.domain.ports import Dice
from delivery.domain.retry import Backoff

logger = logging.getLogger(__name__)

RECONNECT = Backoff(base=0.1, max=1.0, jitter=0.5)


class Subscriber:
    """Listens to one channel, for ever; or to several that one server carries, in the order in
    which it took what they say.

    Args:
        beside: channels that are heard as well, unless this is a cluster, where another server may
            carry them.
        on_raw: called with every message; ``True`` says that it was this node's own probe.
        on_gap: called when messages may have been missed, once it hears again.
        has_missed: whether something was missed before its first subscription already.
    """

    def __init__(
        self,
        shards: Shards,
        channel: str,
        on_raw: Callable[[bytes], bool],
        on_gap: Callable[[], None],
        *,
        beside: Sequence[str] = (),
        deaf_after: float,
        timeout: float,
        dice: Dice,
        has_missed: bool = False,
    ) -> None:
        self.channel = channel
        self.subscribed = asyncio.Event()
        self._beside = tuple(beside)
        self._shards = shards
        self._on_raw = on_raw
        self._on_gap = on_gap
        self._deaf_after = deaf_after
        self._timeout = timeout
        self._dice = dice
        self._missed = has_missed
        self._heard_at = float("-inf")

    @property
    def is_healthy(self) -> bool:
        """Whether it heard a probe lately."""
        if not self.subscribed.is_set():
            return False
        return asyncio.get_running_loop().time() - self._heard_at < self._deaf_after

    async def listen(self) -> None:
        """Subscribe and hear, again and again, until cancelled."""
        failures = 0
        while True:
            try:
                await self._listen()
            except Exception as error:
                failures = 1 if self.subscribed.is_set() else failures + 1
                logger.log(
                    log_level(failures), "the bus hears nothing and subscribes anew: %r", error
                )
            self._shards.forget()
            self.subscribed.clear()
            self._missed = True
            await asyncio.sleep(RECONNECT.delay(failures, self._dice()))

    async def _listen(self) -> None:
        clock = asyncio.get_running_loop().time
        async with asyncio.timeout(3 * self._timeout):
            layout = await self._shards.learn()
            pubsub = (await self._shards.client(self.channel)).pubsub()
        try:
            async with asyncio.timeout(3 * self._timeout):
                if layout.is_cluster:
                    await pubsub.ssubscribe(self.channel)
                else:
                    await pubsub.subscribe(self.channel, *self._beside)
            self._heard_at = clock()
            while True:
                await self._hear(pubsub)
                if clock() - self._heard_at > self._deaf_after:
                    raise TimeoutError(f"no probe came back in {self._deaf_after:g} s")
        finally:
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                await pubsub.aclose()  # type: ignore[no-untyped-call]

    async def _hear(self, pubsub: PubSub) -> None:
        item = await pubsub.get_message(timeout=min(1.0, self._deaf_after / 4))
        kind = item["type"] if item is not None else None
        if kind in ("subscribe", "ssubscribe"):
            self.subscribed.set()
            if self._missed:
                # Whatever was published meanwhile went past this node.
                self._missed = False
                self._on_gap()
        elif kind in ("message", "smessage"):
            if self._on_raw(item["data"]):
                self._heard_at = asyncio.get_running_loop().time()
        elif kind == "sunsubscribe":
            # Said by the server when the slot moves elsewhere.
            raise ConnectionError("the channel moved to another server")


def log_level(failures: int) -> int:
    """The level at which to log the last of so many failures in a row."""
    return logging.WARNING if failures in (1, 10) or failures % 100 == 0 else logging.DEBUG
