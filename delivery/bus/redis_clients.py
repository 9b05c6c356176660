"""Redis clients with short timeouts: a frozen server must not freeze this process.

Owns: the timeouts of every connection to Redis, and where clients find the primary: at an address,
or by asking Sentinel. Never does: retry, which is the caller's decision.
"""

from __future__ import annotations

from typing import Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError
from redis.retry import Retry
from redis.sentinel import Sentinel

from delivery.errors import ConfigError
from delivery.redis_servers.connections import (
    AsyncSentinelConnection,
    AsyncSentinelTlsConnection,
    SentinelConnection,
    SentinelTlsConnection,
    async_connection_class,
    connection_class,
    sentinel_options,
    server_options,
)
from delivery.redis_servers.url import SentinelUrl, is_sentinel, parse_sentinel


def client(url: str, timeout: float) -> redis.Redis:
    """Make a blocking client that threads can share; close it with ``close``.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``; or ``sentinel://host1,host2/name/db``.
        timeout: seconds for a connect, and for an answer.

    Raises:
        ConfigError: the URL cannot be parsed; the text does not repeat it, for it may hold a
            password.
    """
    limits = _limits(timeout, Retry(NoBackoff(), 0))
    if is_sentinel(url):
        named = _parsed(url)
        sentinel = Sentinel(  # type: ignore[no-untyped-call]
            named.sentinels, sentinel_kwargs=sentinel_options(named, limits)
        )
        made: redis.Redis = sentinel.master_for(  # type: ignore[no-untyped-call]
            named.name,
            connection_class=SentinelTlsConnection if named.tls else SentinelConnection,
            **server_options(named),
            **limits,
        )
        return made
    try:
        return redis.Redis.from_url(url, connection_class=connection_class(url), **limits)
    except ValueError:
        raise _unreadable() from None


def keyed_client(entry: redis.Redis, url: str, timeout: float) -> redis.Redis | redis.RedisCluster:
    """``entry``, or in a cluster a client that finds the server of each key.

    Raises:
        RedisError, OSError: Redis does not answer.
    """
    if is_sentinel(url):
        return entry
    try:
        info: Any = entry.info("cluster")
    except ResponseError:  # the user lacks the right, or the server does not know the command
        return entry
    if not int(info.get("cluster_enabled", 0)):
        return entry
    # One retry: the first try may only have found that a slot has moved.
    return redis.RedisCluster.from_url(url, **_limits(timeout, Retry(NoBackoff(), 1)))


def async_client(url: str, timeout: float) -> redis.asyncio.Redis:
    """Make a client for the event loop; close it with ``aclose``. Arguments and errors as
    ``client``."""
    limits = _limits(timeout, AsyncRetry(NoBackoff(), 0))
    if is_sentinel(url):
        named = _parsed(url)
        sentinel = AsyncSentinel(  # type: ignore[no-untyped-call]
            named.sentinels, sentinel_kwargs=sentinel_options(named, limits)
        )
        found: redis.asyncio.Redis = sentinel.master_for(
            named.name,
            connection_class=AsyncSentinelTlsConnection if named.tls else AsyncSentinelConnection,
            **server_options(named),
            **limits,
        )
        return found
    try:
        return redis.asyncio.Redis.from_url(
            url, connection_class=async_connection_class(url), **limits
        )
    except ValueError:
        raise _unreadable() from None


def close(made: redis.Redis) -> None:
    """Disconnect a client, and from the sentinels."""
    made.close()
    sentinel = getattr(made.connection_pool, "sentinel_manager", None)
    if sentinel is not None:
        for one in sentinel.sentinels:
            one.close()


async def aclose(made: redis.asyncio.Redis) -> None:
    """Disconnect a client of the event loop, and from the sentinels."""
    await made.aclose()
    sentinel = getattr(made.connection_pool, "sentinel_manager", None)
    if sentinel is not None:
        for one in sentinel.sentinels:
            await one.aclose()


def _limits(timeout: float, retry: Any) -> dict[str, Any]:
    return {"socket_timeout": timeout, "socket_connect_timeout": timeout, "retry": retry}


def _parsed(url: str) -> SentinelUrl:
    try:
        return parse_sentinel(url)
    except ValueError as error:
        raise ConfigError(f"DELIVERY_REDIS_URL: {error}") from None


def _unreadable() -> ConfigError:
    return ConfigError("DELIVERY_REDIS_URL cannot be read; write redis://user:password@host:port/0")
