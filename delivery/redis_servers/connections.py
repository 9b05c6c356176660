"""Connections that leave a Redis server which is not the primary any more.

Owns: which answers of a server mean that, and the end of the connection that got one: the next
question connects anew, to where the address, the name or Sentinel points by then. Never does:
retry.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import (
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from delivery.redis_servers.unreachable import chain_of
from delivery.redis_servers.url import SentinelUrl

T = TypeVar("T")

LEFT = ("READONLY", "UNBLOCKED", "MASTERDOWN", "NOREPLICAS")
"""Codes of answers after which a connection is given up: the server is a replica, has just become
one, or has lost its replicas. Source: redis.io/docs/latest/develop/reference, "RESP protocol" and
"Replication"."""
FULL = "Redis is out of memory"
REPLICA = "Redis is a replica"


class NotPrimary(RedisConnectionError):
    """The server is not the primary; the connection is closed."""


def is_left(error: ResponseError) -> bool:
    """Whether the answer means that this server is not the one to ask."""
    # Answers without a class of their own keep their code in the text.
    return isinstance(error, (ReadOnlyError, MasterDownError)) or str(error).startswith(LEFT)


_REFUSALS = {
    "NOAUTH": "Redis refuses the user or the password",
    "WRONGPASS": "Redis refuses the user or the password",
    "NOPERM": "Redis does not permit this user a command, a key or a channel",
    "MISCONF": "Redis takes no writes: it cannot save to its disk",
    "NOREPLICAS": "Redis takes no writes: it has too few replicas",
    "LOADING": "Redis is loading its data",
    "BUSY": "Redis is busy with a script",
    "CLUSTERDOWN": "the cluster of Redis is down",
}
"""What an answer's code means to an operator. Source: redis.io/docs/latest/develop/reference,
"RESP protocol", and the pages on ACL, persistence, replication and cluster."""
_NO_ROOM = "max number of clients reached"
_CODE = re.compile("[A-Z]+")


class Refuses(RedisConnectionError):
    """The server answers, and would take no write; the text is ``FULL`` or ``REPLICA``."""


def trouble(error: BaseException) -> str | None:
    """``FULL``, ``REPLICA`` or another refusal of a server that answers, if that is behind an
    error: in words that everybody may read."""
    chain = list(chain_of(error))
    return next((known for one in reversed(chain) if (known := _trouble(one)) is not None), None)


def _trouble(error: BaseException) -> str | None:
    if isinstance(error, Refuses):
        return str(error)
    text = str(error)
    if isinstance(error, OutOfMemoryError) or "OOM command not allowed" in text:
        return FULL
    # redis-py's own sentence, for a server that Sentinel named before.
    if isinstance(error, NotPrimary | ReadOnlyError) or "is now a slave" in text:
        return REPLICA
    if not isinstance(error, RedisError):
        return None
    if _NO_ROOM in text:
        return "Redis takes no more connections"
    # Errors without a class of their own keep their code in the text.
    code = getattr(error, "status_code", None) or _CODE.match(text)
    return _REFUSALS.get(code if isinstance(code, str) else code[0] if code else "")


class _Leaving:
    """Mixin of blocking connections."""

    def read_response(self, *args: Any, **options: Any) -> Any:
        """See redis-py."""
        try:
            return super().read_response(*args, **options)  # type: ignore[misc]
        except ResponseError as error:
            if not is_left(error):
                raise
            self.disconnect()  # type: ignore[attr-defined]
            raise NotPrimary(f"not the primary: {error}") from error


class _AsyncLeaving:
    """Mixin of connections on the event loop."""

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """See redis-py."""
        try:
            return await super().read_response(*args, **options)  # type: ignore[misc]
        except ResponseError as error:
            if not is_left(error):
                raise
            await self.disconnect(nowait=True)  # type: ignore[attr-defined]
            raise NotPrimary(f"not the primary: {error}") from error


class Connection(_Leaving, redis.Connection):
    """Over TCP."""


class TlsConnection(_Leaving, redis.SSLConnection):
    """Over TLS."""


class UnixConnection(_Leaving, redis.UnixDomainSocketConnection):
    """Over a Unix socket."""


class SentinelConnection(_Leaving, redis.sentinel.SentinelManagedConnection):
    """To the primary that Sentinel names."""


class SentinelTlsConnection(_Leaving, redis.sentinel.SentinelManagedSSLConnection):
    """To the primary that Sentinel names, over TLS."""


class AsyncConnection(_AsyncLeaving, redis.asyncio.Connection):
    """Over TCP, on the event loop."""


class AsyncTlsConnection(_AsyncLeaving, redis.asyncio.SSLConnection):
    """Over TLS, on the event loop."""


class AsyncUnixConnection(_AsyncLeaving, redis.asyncio.UnixDomainSocketConnection):
    """Over a Unix socket, on the event loop."""


class AsyncSentinelConnection(_AsyncLeaving, redis.asyncio.sentinel.SentinelManagedConnection):
    """To the primary that Sentinel names, on the event loop."""


class AsyncSentinelTlsConnection(
    _AsyncLeaving, redis.asyncio.sentinel.SentinelManagedSSLConnection
):
    """To the primary that Sentinel names, over TLS and on the event loop."""


def connection_class(url: str) -> type[redis.Connection]:
    """The class for ``redis://``, ``rediss://`` and ``unix://``."""
    scheme = url.partition("://")[0].lower()
    return {"rediss": TlsConnection, "unix": UnixConnection}.get(scheme, Connection)


def async_connection_class(url: str) -> type[redis.asyncio.Connection]:
    """As ``connection_class``, on the event loop."""
    scheme = url.partition("://")[0].lower()
    return {"rediss": AsyncTlsConnection, "unix": AsyncUnixConnection}.get(scheme, AsyncConnection)


def server_options(url: SentinelUrl) -> dict[str, Any]:
    """Keyword arguments for the client of the primary."""
    return {"db": url.database, "username": url.username, "password": url.password}


def sentinel_options(url: SentinelUrl, limits: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments for the clients of the sentinels.

    Args:
        limits: timeouts and retries of every client.
    """
    own = {"username": url.sentinel_username, "password": url.sentinel_password}
    return {**limits, **own} | ({"ssl": True} if url.tls else {})
