"""Which server carries a channel: the one that the URL names, or in a Redis cluster the one that
owns the channel's slot.

Owns: asking Redis how it is laid out, and a client for each of its servers. Never does: retry; who
meets an error calls ``forget`` and finds the new layout with the next try. In a cluster ordinary
pub/sub would repeat every message to every server; sharded pub/sub stays on one.
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
from redis.crc import key_slot
from redis.exceptions import ClusterError, ResponseError

from delivery.bus.redis_clients import async_client, client

logger = logging.getLogger(__name__)

Server = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Layout:
    """Ranges of slots and the servers that own them; none for a server that is no cluster."""

    ranges: tuple[tuple[int, int, Server], ...] = ()

    @property
    def is_cluster(self) -> bool:
        """Whether channels are sharded."""
        return bool(self.ranges)

    def server_of(self, channel: str) -> Server | None:
        """The owner of the channel's slot, ``None`` for the server that was asked.

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
    """The servers of one Redis installation, for the event loop.

    Args:
        url: any server of it.
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

    async def learn(self) -> Layout:
        """The layout; asked for again after ``forget``. Raises what the client raises."""
        if self._layout is None:
            self._layout = await self._ask()
        return self._layout

    def forget(self) -> None:
        """Something failed: a slot may have moved."""
        self._layout = None

    async def client(self, channel: str) -> redis.asyncio.Redis:
        """A client of the server that carries this channel."""
        server = (await self.learn()).server_of(channel)
        if server is None:
            return self._entry
        if server not in self._clients:
            self._clients[server] = async_client(_at(self._url, server), self._timeout)
        return self._clients[server]

    async def aclose(self) -> None:
        """Disconnect from all of them."""
        for one in (self._entry, *self._clients.values()):
            await one.aclose()

    async def _ask(self) -> Layout:
        # The server that the URL names may be the one that is gone.
        last: Exception | None = None
        for one in (self._entry, *self._clients.values()):
            try:
                if not _is_cluster(await one.info("cluster")):
                    return Layout()
                slots = await one.execute_command("CLUSTER SLOTS")  # type: ignore[no-untyped-call]
                return _layout(slots, self._url)
            except ResponseError as error:
                return _not_told(error)
            except (redis.RedisError, OSError) as error:
                last = error
        raise last or ClusterError("no server to ask")


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
        """A client of it, and whether its pub/sub is sharded. Raises what the client raises."""
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
        """Something failed: the channel may have moved."""
        self._found = None

    def close(self) -> None:
        """Disconnect."""
        self._entry.close()
        self._owner.close()

    def _ask(self) -> Layout:
        try:
            if not _is_cluster(self._entry.info("cluster")):
                return Layout()
            slots = self._entry.execute_command("CLUSTER SLOTS")  # type: ignore[no-untyped-call]
            return _layout(slots, self._url)
        except ResponseError as error:
            return _not_told(error)


def _is_cluster(info: Any) -> bool:
    return bool(int(info.get("cluster_enabled", 0)))


def _not_told(error: ResponseError) -> Layout:
    """This user may not ask, or the server does not know the question: ordinary pub/sub is right
    everywhere, only slower in a cluster."""
    logger.info("Redis does not say whether it is a cluster: %s", error)
    return Layout()


def _layout(answer: Sequence[Any], url: str) -> Layout:
    """From the answer to CLUSTER SLOTS: ``[first, last, [host, port, id, …], replicas…]``."""
    own = urlsplit(url).hostname or "127.0.0.1"
    ranges = []
    for first, last, (host, port, *_), *_ in answer:
        name = host.decode() if isinstance(host, bytes) else str(host or "")
        # Empty or "?": a server that does not know its own address, that is, the one asked.
        ranges.append((int(first), int(last), (name if name.strip("?") else own, int(port))))
    if not ranges:
        raise ClusterError("the cluster has no slots yet")
    return Layout(tuple(ranges))


def _at(url: str, server: Server) -> str:
    """The same URL for another server: user, password, TLS and options stay."""
    host, port = server
    parts = urlsplit(url)
    user, mark, _ = parts.netloc.rpartition("@")
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return parts._replace(netloc=f"{user}{mark}{place}").geturl()
