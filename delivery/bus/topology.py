"""Topology of Redis: the server of a channel, which in a cluster is the owner of its slot.

Owns: the layout, and a client for each server. Never does: retry; after an error the caller calls
``forget``, and the next try finds the new layout. In a cluster, ordinary pub/sub repeats every
message to every server; sharded pub/sub stays on one.
Source: redis.io/docs/latest/develop/pubsub, "Sharded Pub/Sub".
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import redis
import redis.asyncio
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.crc import key_slot
from redis.exceptions import ClusterError, NoPermissionError, ResponseError

from delivery.bus.identity import Identity, ask, would_write
from delivery.bus.redis_clients import aclose, async_client, client, close
from delivery.redis_servers.connections import FULL, REPLICA, NotPrimary, trouble

logger = logging.getLogger(__name__)

Server = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Layout:
    """Ranges of slots and the servers that own them; empty for a server outside a cluster."""

    ranges: tuple[tuple[int, int, Server], ...] = ()

    @property
    def is_cluster(self) -> bool:
        """Whether channels are sharded."""
        return bool(self.ranges)

    def server_of(self, channel: str) -> Server | None:
        """The owner of the channel's slot; ``None`` outside a cluster.

        Raises:
            ClusterError: no server owns the slot now.
        """
        if not self.ranges:
            return None
        slot = key_slot(channel.encode())
        for first, last, server in self.ranges:
            if first <= slot <= last:
                return server
        raise ClusterError(f"no server of the cluster owns slot {slot} now")


class Shards:
    """Servers of one Redis installation, for the event loop.

    Args:
        url: of any of its servers.
        timeout: seconds for a connect or an answer.

    Raises:
        ConfigError: the URL cannot be read.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self._url = url
        self._timeout = timeout
        self._entry = async_client(url, timeout)
        self._clients: dict[Server, redis.asyncio.Redis] = {}
        self._layout: Layout | None = None

    async def find_layout(self) -> Layout:
        """Ask Redis for the layout, once until ``forget``. Raises what the client raises."""
        if self._layout is None:
            self._layout = await self._ask()
        return self._layout

    def forget(self) -> None:
        """Forget the layout after a failure: a slot may have moved."""
        self._layout = None

    async def client(self, channel: str) -> redis.asyncio.Redis:
        """Find a client of the server that carries this channel."""
        server = (await self.find_layout()).server_of(channel)
        if server is None:
            return self._entry
        if server not in self._clients:
            self._clients[server] = async_client(_at(self._url, server), self._timeout)
        return self._clients[server]

    async def identify(self, channel: str) -> Identity:
        """Ask the server that carries this channel who it is.

        Raises:
            NotPrimary: it is a replica. All connections to it are closed: the next one goes where
                the address leads by then.
        """
        one = await self.client(channel)
        await follow_sentinel(one)
        identity = await ask(one)
        if identity.is_replica:
            self.forget()
            await one.connection_pool.disconnect()
            raise NotPrimary("Redis is a replica: what is published here reaches no other node")
        return identity

    async def refusal(self, channel: str) -> str | None:
        """Why the server that carries this channel, and answers, would take no write; ``None``
        where it does, where the user may not try, and where ``identify`` tells.

        Raises:
            RedisError, OSError: it does not answer.
        """
        try:
            await would_write(await self.client(channel), channel)
        except (ResponseError, NotPrimary) as error:
            known = None if isinstance(error, NoPermissionError) else trouble(error)
            return None if known in (FULL, REPLICA) else known
        return None

    async def aclose(self) -> None:
        """Disconnect from all servers."""
        for one in (self._entry, *self._clients.values()):
            await aclose(one)

    async def _ask(self) -> Layout:
        # The server of the URL may be the one that is down.
        last: Exception | None = None
        for one in (self._entry, *self._clients.values()):
            try:
                if not _is_cluster(await one.info("cluster")):
                    return Layout()
                slots = await one.execute_command("CLUSTER SLOTS")  # type: ignore[no-untyped-call]
                return _layout(slots, self._url)
            except ResponseError as error:
                return _unknown_layout(error)
            except (redis.RedisError, OSError) as error:
                last = error
        raise last or ClusterError("no server answers")


class Shard:
    """The server that carries one channel, for threads.

    Raises:
        ConfigError: the URL cannot be read.
    """

    def __init__(self, url: str, timeout: float, channel: str) -> None:
        self._url = url
        self._timeout = timeout
        self._channel = channel
        self._entry = client(url, timeout)
        self._lock = threading.Lock()
        self._found: tuple[redis.Redis, bool] | None = None
        self._server: Server | None = None
        self._owner = self._entry

    def get(self) -> tuple[redis.Redis, bool]:
        """Find its client, and whether pub/sub is sharded. Raises what the client raises."""
        with self._lock:
            if self._found is None:
                layout = self._ask()
                server = layout.server_of(self._channel)
                if server is not None and server != self._server:
                    self._owner = client(_at(self._url, server), self._timeout)
                    self._server = server
                self._found = (self._owner if server else self._entry, layout.is_cluster)
            return self._found

    def forget(self) -> None:
        """Forget the server after a failure: the channel may have moved."""
        self._found = None

    def require_primary(self) -> None:
        """Make sure that the server is no replica: there a message would reach no gateway.

        Raises:
            NotPrimary: it is one. All connections to it are closed.
        """
        one, _ = self.get()
        try:
            role: Any = one.info("replication")
        except ResponseError:  # the user lacks the right
            return
        if role.get("role") == "slave":
            one.connection_pool.disconnect()
            raise NotPrimary("Redis is a replica: what is published here reaches no gateway")

    def close(self) -> None:
        """Disconnect."""
        close(self._entry)
        close(self._owner)

    def _ask(self) -> Layout:
        try:
            if not _is_cluster(self._entry.info("cluster")):
                return Layout()
            slots = self._entry.execute_command("CLUSTER SLOTS")  # type: ignore[no-untyped-call]
            return _layout(slots, self._url)
        except ResponseError as error:
            return _unknown_layout(error)


async def follow_sentinel(one: redis.asyncio.Redis) -> None:
    """Let a client of Sentinel close the connections to a server that is not the primary any more,
    as Sentinel knows it; does nothing for other clients, or while no sentinel answers."""
    pool = one.connection_pool
    if isinstance(pool, SentinelConnectionPool):
        try:
            await pool.get_master_address()  # type: ignore[no-untyped-call]
        except (redis.RedisError, OSError) as error:
            logger.debug("no sentinel tells the primary: %r", error)


def _is_cluster(info: Any) -> bool:
    return bool(int(info.get("cluster_enabled", 0)))


def _unknown_layout(error: ResponseError) -> Layout:
    """The layout when the user lacks the right, or the server does not know the command: ordinary
    pub/sub works everywhere, and is only slower in a cluster."""
    logger.info("Redis does not tell whether it is a cluster: %s", error)
    return Layout()


def _layout(answer: Sequence[Any], url: str) -> Layout:
    """Parse the answer to CLUSTER SLOTS: ``[first, last, [host, port, id, …], replicas…]``."""
    own = urlsplit(url).hostname or "127.0.0.1"
    ranges = []
    for first, last, (host, port, *_), *_ in answer:
        name = host.decode() if isinstance(host, bytes) else str(host or "")
        # Empty or "?": the server that answers does not know its own address.
        ranges.append((int(first), int(last), (name if name.strip("?") else own, int(port))))
    if not ranges:
        raise ClusterError("the cluster has no slots yet")
    return Layout(tuple(ranges))


def _at(url: str, server: Server) -> str:
    """The URL with another server; user, password, TLS and options stay."""
    host, port = server
    parts = urlsplit(url)
    user, mark, _ = parts.netloc.rpartition("@")
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return parts._replace(netloc=f"{user}{mark}{place}").geturl()
