"""Token buckets that all nodes share, in Redis: leases of many tokens at a time.

Owns: the script and the keys. Never does: decide who is limited, or count single events.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

from redis.exceptions import NoScriptError, RedisError

from delivery.bus.topology import Shards
from delivery.domain.rates import Lease, Rate
from delivery.errors import ChannelUnavailable

PREFIX = "delivery:rate"
TIMEOUT = 0.25
"""Seconds for a lease; a request waits for it."""

# The server's clock, so that those of the nodes do not matter. A bucket that would be full again is
# forgotten. Numbers go back as text: Redis cuts fractions off.
_SCRIPT = """
local rate, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local cost, wanted = tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local kept = redis.call('HMGET', KEYS[1], 'level', 'at')
local level, at = tonumber(kept[1]) or burst, tonumber(kept[2]) or now
level = math.min(burst, level + math.max(0, now - at) * rate)
local granted = 0
if level >= 1 then
  granted = math.max(cost, math.min(wanted, math.floor(level)))
  level = level - granted
end
redis.call('HSET', KEYS[1], 'level', tostring(level), 'at', string.format('%.6f', now))
redis.call('PEXPIRE', KEYS[1], math.ceil((burst - level) / rate * 1000) + 1000)
return {tostring(granted), tostring(level)}
"""
_SHA = hashlib.sha1(_SCRIPT.encode()).hexdigest()  # noqa: S324 - Redis names scripts so


class RedisLeases:
    """Implements the ``RateLeases`` port.

    Args:
        url: ``redis://…``; of a cluster, any server.

    Raises:
        ConfigError: the URL cannot be read.
    """

    def __init__(self, url: str, *, timeout: float = TIMEOUT) -> None:
        self._shards = Shards(url, timeout)
        self._timeout = timeout

    async def lease(self, name: str, caller: str, rate: Rate, cost: int, wanted: int) -> Lease:
        """See the port."""
        # Callers choose their names: a hash bounds the key and keeps them out of Redis.
        digest = hashlib.blake2b(caller.encode("utf-8", "replace"), digest_size=16).hexdigest()
        key = f"{PREFIX}:{name}:{digest}"
        numbers = (repr(rate.per_second), repr(rate.burst), cost, wanted)
        try:
            async with asyncio.timeout(self._timeout):
                granted, level = await self._run(key, *numbers)
            return Lease(float(granted), float(level))
        except (RedisError, OSError, TimeoutError) as error:
            self._shards.forget()
            raise ChannelUnavailable(f"Redis does not answer: {type(error).__name__}") from error

    async def close(self) -> None:
        """Disconnect."""
        await self._shards.aclose()

    async def _run(self, key: str, *numbers: str | int) -> Any:
        client: Any = await self._shards.client(key)
        try:
            return await client.evalsha(_SHA, 1, key, *numbers)
        except NoScriptError:  # it was restarted
            return await client.eval(_SCRIPT, 1, key, *numbers)
