"""Redis clients that give up quickly: a frozen server must not freeze us.

Owns: the limits that every connection of the gateway room gets. Never does: retry; who calls
knows whether and when to.
"""

from __future__ import annotations

from typing import Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError
from redis.retry import Retry

from delivery.errors import ConfigError


def client(url: str, timeout: float) -> redis.Redis:
    """A blocking client, safe to share between threads.

    Args:
        timeout: seconds for a connect, and for an answer.

    Raises:
        ConfigError: the URL cannot be read; it is not repeated, it may hold a password.
    """
    try:
        return redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0), **_limits(timeout))
    except ValueError:
        raise _unreadable() from None


def keyed_client(entry: redis.Redis, url: str, timeout: float) -> redis.Redis | redis.RedisCluster:
    """``entry``, or where it leads into a cluster, a client that finds the server of each key.

    Raises:
        RedisError, OSError: Redis is away.
    """
    try:
        info: Any = entry.info("cluster")
    except ResponseError:  # this user may not ask, or the server does not know the question
        return entry
    if not int(info.get("cluster_enabled", 0)):
        return entry
    # One more try: the first one may only have found out that a slot has moved.
    return redis.RedisCluster.from_url(url, retry=Retry(NoBackoff(), 1), **_limits(timeout))


def async_client(url: str, timeout: float) -> redis.asyncio.Redis:
    """The same for the event loop."""
    try:
        return redis.asyncio.Redis.from_url(
            url, retry=AsyncRetry(NoBackoff(), 0), **_limits(timeout)
        )
    except ValueError:
        raise _unreadable() from None


def _limits(timeout: float) -> dict[str, Any]:
    return {"socket_timeout": timeout, "socket_connect_timeout": timeout}


def _unreadable() -> ConfigError:
    return ConfigError("DELIVERY_REDIS_URL cannot be read; write redis://user:password@host:port/0")
