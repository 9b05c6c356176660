"""Redis clients with short timeouts: a frozen server must not freeze this process.

Owns: the timeouts of every connection to Redis. Never does: retry, which is the caller's decision.
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
    """Make a blocking client that threads can share.

    Args:
        timeout: seconds for a connect, and for an answer.

    Raises:
        ConfigError: the URL cannot be parsed; the text does not repeat it, for it may hold a
            password.
    """
    try:
        return redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0), **_limits(timeout))
    except ValueError:
        raise _unreadable() from None


def keyed_client(entry: redis.Redis, url: str, timeout: float) -> redis.Redis | redis.RedisCluster:
    """``entry``, or in a cluster a client that finds the server of each key.

    Raises:
        RedisError, OSError: Redis does not answer.
    """
    try:
        info: Any = entry.info("cluster")
    except ResponseError:  # the user lacks the right, or the server does not know the command
        return entry
    if not int(info.get("cluster_enabled", 0)):
        return entry
    # One retry: the first try may only have found that a slot has moved.
    return redis.RedisCluster.from_url(url, retry=Retry(NoBackoff(), 1), **_limits(timeout))


def async_client(url: str, timeout: float) -> redis.asyncio.Redis:
    """Make a client for the event loop. Arguments and errors as ``client``."""
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
