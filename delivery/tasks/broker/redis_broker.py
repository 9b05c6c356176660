"""Celery's broker on Redis: connections that leave a demoted server, and Sentinel.

Owns: kombu's transport for Redis with both, and the settings that select it. Never does: read a
URL (see ``redis_servers``), or publish.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import redis
from celery.app.amqp import AMQP
from kombu import Connection as BrokerConnection
from kombu.transport import redis as kombu_redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.sentinel import Sentinel

from delivery.errors import ConfigError
from delivery.redis_servers.connections import (
    FULL,
    REPLICA,
    Connection,
    SentinelConnection,
    SentinelTlsConnection,
    TlsConnection,
    sentinel_options,
)
from delivery.redis_servers.url import SentinelUrl, is_sentinel, parse_sentinel

SCHEMES = ("redis://", "rediss://", "sentinel://", "sentinel+ssl://")
# Every error of redis-py ends the connection only: Celery's worker would end with those that are
# no connection errors, as at a failover (UNBLOCKED) or without memory (OOM).
_ERRORS = (*kombu_redis.Transport.connection_errors, RedisError)


class _Noticing:
    """Mixin of channels: an acknowledgement that fails ends the transport's connection.

    The server's answer may break the acknowledging connection alone, as that of a demoted server.
    The channel would then wait for ever: its one message counts as not acknowledged.
    """

    def basic_ack(self, *args: Any, **options: Any) -> None:
        """See kombu."""
        with self._noticing():
            super().basic_ack(*args, **options)  # type: ignore[misc]

    def basic_reject(self, *args: Any, **options: Any) -> None:
        """See kombu."""
        with self._noticing():
            super().basic_reject(*args, **options)  # type: ignore[misc]

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        transport = self.connection  # type: ignore[attr-defined]
        try:
            yield
        except transport.connection_errors as error:
            transport.lost = error
            raise


class _Lost:
    """Mixin of transports: raises what a channel noticed, in the loop that reads messages."""

    connection_errors = _ERRORS
    lost: BaseException | None = None

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """See kombu."""
        super().register_with_event_loop(connection, loop)  # type: ignore[misc]

        def check() -> None:
            if self.lost is not None:
                loop.on_tick.discard(check)
                self._raise()

        loop.on_tick.add(check)

    def drain_events(self, *args: Any, **options: Any) -> Any:
        """See kombu."""
        self._raise()
        return super().drain_events(*args, **options)  # type: ignore[misc]

    def _raise(self) -> None:
        lost, self.lost = self.lost, None
        if lost is not None:
            raise RedisConnectionError("an acknowledgement failed") from lost


class Channel(_Noticing, kombu_redis.Channel):
    """A channel whose connections leave a server that is not the primary."""

    connection_class = Connection
    connection_class_ssl = TlsConnection


class Transport(_Lost, kombu_redis.Transport):
    """Redis at one address."""

    Channel = Channel


class SentinelChannel(_Noticing, kombu_redis.SentinelChannel):
    """A channel to the primary that the sentinels name.

    kombu's own takes the sentinels as further URLs, and after an error connects to one of them as
    if it were the broker.
    """

    from_transport_options = (*kombu_redis.SentinelChannel.from_transport_options, "sentinels")
    connection_class = SentinelConnection
    connection_class_ssl = SentinelTlsConnection
    sentinels: tuple[tuple[str, int], ...] = ()
    sentinel_kwargs: Mapping[str, Any] = {}
    master_name = ""

    def _sentinel_managed_pool(self, asynchronous: bool = False) -> Any:
        params = self._connparams(asynchronous)  # type: ignore[attr-defined]
        del params["host"], params["port"]
        sentinel = Sentinel(  # type: ignore[no-untyped-call]
            self.sentinels, sentinel_kwargs=dict(self.sentinel_kwargs)
        )
        # kombu closes these with the pools.
        if asynchronous:
            self._async_sentinel_manager = sentinel
        else:
            self._sentinel_manager = sentinel
        primary: redis.Redis = sentinel.master_for(  # type: ignore[no-untyped-call]
            self.master_name, redis.Redis, **params
        )
        return primary.connection_pool


class SentinelTransport(_Lost, kombu_redis.SentinelTransport):
    """Redis behind Sentinel."""

    Channel = SentinelChannel


class NamedConnection(BrokerConnection):
    """A connection that calls itself by the scheme of its URL, in logs and to Flower."""

    resolve_aliases = {  # noqa: RUF012 - kombu's own is a dictionary
        **BrokerConnection.resolve_aliases,
        f"{__name__}:{Transport.__name__}": "redis",
        f"{__name__}:{SentinelTransport.__name__}": "sentinel",
    }


class Amqp(AMQP):
    """Celery's factory of connections."""

    Connection = NamedConnection


def is_redis(broker_url: str) -> bool:
    """Whether a broker's URL is of Redis, behind Sentinel or not."""
    return broker_url.lower().startswith(SCHEMES)


def broker_settings(broker_url: str) -> dict[str, Any]:
    """Celery's settings for a broker on Redis; its transport options are in ``sentinel_of``.

    Raises:
        ConfigError: the URL names sentinels and cannot be read.
    """
    tls = {"ssl_cert_reqs": ssl.CERT_REQUIRED}  # the URL's own ``ssl_cert_reqs`` comes first
    if not is_sentinel(broker_url):
        is_tls = broker_url.lower().startswith("rediss://")
        return {
            "broker_url": broker_url,
            "broker_transport": f"{__name__}:{Transport.__name__}",
            **({"broker_use_ssl": tls} if is_tls else {}),
        }
    named = _parsed(broker_url)
    host, port = named.sentinels[0]
    user = f"{quote(named.username or '', safe='')}:{quote(named.password or '', safe='')}@"
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return {
        "broker_url": f"sentinel://{user if named.password else ''}{place}/{named.database}",
        "broker_transport": f"{__name__}:{SentinelTransport.__name__}",
        **({"broker_use_ssl": tls} if named.tls else {}),
    }


def sentinel_transport_options(broker_url: str, limits: Mapping[str, Any]) -> dict[str, Any]:
    """Transport options that name the sentinels; none for another URL.

    Args:
        limits: timeouts of the sentinels' clients.
    """
    if not is_sentinel(broker_url):
        return {}
    named = _parsed(broker_url)
    return {
        "master_name": named.name,
        "sentinels": named.sentinels,
        "sentinel_kwargs": sentinel_options(named, dict(limits)),
    }


def trouble_of(connection: BrokerConnection) -> str | None:
    """Why a broker on Redis that answers takes no tasks: it is a replica, or out of memory.

    Returns:
        ``REPLICA`` or ``FULL``; ``None`` if it is neither, or the broker is not Redis.

    Raises:
        RedisError, OSError: it does not answer.
    """
    if not isinstance(connection.transport, (Transport, SentinelTransport)):
        return None
    client = connection.default_channel.client  # type: ignore[attr-defined]
    found: dict[str, Any] = {}
    for section in ("replication", "memory"):
        try:
            found |= client.info(section)
        except ResponseError:  # the user lacks the right
            continue
    if found.get("role") == "slave":
        return REPLICA
    limit, keeps = int(found.get("maxmemory", 0)), found.get("maxmemory_policy") == "noeviction"
    return FULL if keeps and 0 < limit <= int(found.get("used_memory", 0)) else None


def _parsed(url: str) -> SentinelUrl:
    try:
        return parse_sentinel(url)
    except ValueError as error:
        raise ConfigError(f"DELIVERY_BROKER_URL: {error}") from None
