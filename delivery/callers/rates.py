"""Rate limits of callers: who may ask how often, on this node and on all together.

Owns: the limits by name, one bucket per caller and limit (the least recently used are forgotten),
and leases of the buckets that all nodes share. Never does: speak to Redis (a port does), or HTTP.

A node takes a lease of a share of the burst and counts it down alone: an event costs no round trip.
While the shared buckets do not answer, each node holds the limits alone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil

from delivery.domain.ports import RateLeases
from delivery.domain.rates import WINDOW, Bucket, Rate
from delivery.errors import DeliveryError, RateLimited

logger = logging.getLogger(__name__)

EMIT, EMIT_ADDRESS = "emit", "emit-address"
CONNECT, CONNECT_ADDRESS = "connect", "connect-address"
BAD_TOKENS = "bad-tokens"
CALLBACKS = "callbacks"
ACKS = "acks"
MAX_BUCKETS = 100_000
LEASE_SHARE = 0.05
"""Share of the burst that one lease takes: so much a node may hold unused."""
LEASE_FOR = 2.0
"""Seconds after which an unused lease is void."""
MAX_REFUSAL = 1.0
"""Seconds for which a refusal of the shared bucket is repeated without asking again, at most."""
AWAY_FOR = 1.0
"""Seconds without the shared buckets after they did not answer."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A caller's state under one limit, for the headers of an answer.

    Attributes:
        left: what may still be asked now.
        reset: seconds until the limit is at its full burst again.
    """

    name: str
    rate: Rate
    left: float
    reset: float

    @property
    def share(self) -> float:
        """Share of the burst that is left."""
        return self.left / self.rate.burst

    def headers(self) -> dict[str, str]:
        """Source: draft-ietf-httpapi-ratelimit-headers-10, sections 3 and 4."""
        return {
            "RateLimit-Policy": f'"{self.name}";q={int(self.rate.burst)};w={WINDOW:g}',
            "RateLimit": f'"{self.name}";r={int(self.left)};t={ceil(self.reset)}',
        }


class Rates:
    """Limits by name; a name without a rate has none.

    Args:
        rates: per second; 0 for no limit.
        leases: the shared buckets; ``None``: this node is alone.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        rates: Mapping[str, float] | None = None,
        leases: RateLeases | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        max_buckets: int = MAX_BUCKETS,
    ) -> None:
        self._rates = {name: Rate(one) for name, one in (rates or {}).items() if one > 0.0}
        self._leases = leases
        self._clock = clock
        self._max_buckets = max_buckets
        self._buckets: OrderedDict[tuple[str, str], Bucket] = OrderedDict()
        self._leasing: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._away_until = 0.0
        self._is_away = False

    @property
    def buckets(self) -> int:
        """Buckets that are remembered."""
        return len(self._buckets)

    async def take(self, name: str, caller: str, cost: int = 1) -> Standing | None:
        """Count what a caller asks.

        Args:
            caller: a subject, user or address.
            cost: events of the request; they all pass or none.

        Returns:
            The state after it; ``None``: there is no such limit.

        Raises:
            RateLimited: over the limit, with the seconds after which to try again.
        """
        rate = self._rates.get(name)
        if rate is None:
            return None
        key = (name, caller)
        bucket = self._bucket(key, rate)
        while self._is_shared():
            now = self._clock()
            if bucket.take_leased(cost, now):
                bucket.take(rate, cost, now)  # the own bucket goes on where the lease ends
                return _standing(name, rate, bucket.shared + bucket.leased)
            if now < bucket.refused_until:
                raise _limited(name, rate, bucket.shared)
            await self._lease(key, rate, bucket, cost)
        now = self._clock()
        if not bucket.take(rate, cost, now):
            raise _limited(name, rate, bucket.level(rate, now))
        return _standing(name, rate, bucket.level(rate, now))

    def check(self, name: str, caller: str) -> None:
        """Refuse a caller who is known to be over the limit, before the request is read.

        Raises:
            RateLimited: see ``take``.
        """
        rate, bucket = self._rates.get(name), self._buckets.get((name, caller))
        if rate is None or bucket is None:
            return
        now = self._clock()
        if self._is_shared():
            if now < bucket.refused_until:
                raise _limited(name, rate, bucket.shared)
        elif bucket.level(rate, now) < 1.0:
            raise _limited(name, rate, bucket.level(rate, now))

    def _bucket(self, key: tuple[str, str], rate: Rate) -> Bucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = Bucket(rate, self._clock())
            if len(self._buckets) > self._max_buckets:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        return bucket

    def _is_shared(self) -> bool:
        return self._leases is not None and self._clock() >= self._away_until

    async def _lease(self, key: tuple[str, str], rate: Rate, bucket: Bucket, cost: int) -> None:
        """Get a lease; callers of one bucket wait for the same one."""
        task = self._leasing.get(key)
        if task is None:
            task = asyncio.create_task(self._get_lease(key, rate, bucket, cost))
            self._leasing[key] = task
            task.add_done_callback(lambda _: self._leasing.pop(key, None))
        await asyncio.shield(task)

    async def _get_lease(self, key: tuple[str, str], rate: Rate, bucket: Bucket, cost: int) -> None:
        if self._leases is None:
            return
        wanted = max(cost, ceil(rate.burst * LEASE_SHARE))
        try:
            lease = await self._leases.lease(*key, rate, cost, wanted)
        except DeliveryError as error:
            if not self._is_away:
                logger.warning("rate limits: %s; each node holds them alone meanwhile", error)
            self._is_away = True
            self._away_until = self._clock() + AWAY_FOR
            return
        if self._is_away:
            self._is_away = False
            logger.info("rate limits are shared again")
        now = self._clock()
        bucket.shared = lease.level
        if lease.granted:
            bucket.leased += lease.granted
            bucket.leased_until = now + LEASE_FOR
        else:
            bucket.refused_until = now + min(MAX_REFUSAL, rate.wait(lease.level))


def _standing(name: str, rate: Rate, level: float) -> Standing:
    left = max(0.0, min(rate.burst, level))
    return Standing(name, rate, left, (rate.burst - level) / rate.per_second)


def _limited(name: str, rate: Rate, level: float) -> RateLimited:
    standing = _standing(name, rate, level)
    return RateLimited(
        f"over the limit of {rate.per_second:g} {name} per second",
        retry_after=rate.wait(level),
        headers=standing.headers(),
    )
