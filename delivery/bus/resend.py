"""Resend requests of the ``direct`` channel to gateways: in this process, or over the bus.

Owns: the request and the deadline of its answer. Never does: write to a socket, or decide what
follows.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import time
import uuid
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from redis.client import PubSub
from redis.exceptions import RedisError

from delivery.bus.envelope import OnSkipped, Reader, pack, seal
from delivery.bus.redis_bus import CHANNEL
from delivery.bus.topology import Shard
from delivery.domain.node_messages import NodeMessage, ResendAnswer, ResendRequest, Wake
from delivery.errors import ChannelUnavailable, LedgerError

logger = logging.getLogger(__name__)

RegistryResend = Callable[[str, Sequence[str], float], Coroutine[Any, Any, int]]
WakeUsers = Callable[[Sequence[str]], None]
# Seconds for the thread or the bus, beyond the timeout of the probes.
_MARGIN = 0.5


class LoopResend:
    """Requests resends from the gateway in this process, from a worker's thread.

    Args:
        registry_resend: coroutine function ``(user_id, event_ids, timeout) -> connections``.
        wake: called on the loop with user ids, to let them catch up.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, registry_resend: RegistryResend, wake: WakeUsers
    ) -> None:
        self._loop = loop
        self._registry_resend = registry_resend
        self._wake = wake

    def resend(self, user_id: str, event_ids: Sequence[str], timeout: float) -> int:
        """Request a resend and wait for its result. Must not be called on the loop.

        Returns:
            The number of connections that took the events.

        Raises:
            ChannelUnavailable: the loop has ended or did not answer in time, or the ledger is away.
        """
        if self._loop.is_closed() or not self._loop.is_running():
            raise ChannelUnavailable("the gateway in this process is not running")
        asked = self._registry_resend(user_id, list(event_ids), timeout)
        try:
            answer = asyncio.run_coroutine_threadsafe(asked, self._loop)
        except RuntimeError as error:
            asked.close()
            raise ChannelUnavailable("the gateway in this process is shutting down") from error
        try:
            return answer.result(timeout + _MARGIN)
        except concurrent.futures.TimeoutError:
            answer.cancel()
            raise ChannelUnavailable(
                f"the gateway did not answer a resend in {timeout + _MARGIN:.1f} s"
            ) from None
        except LedgerError as error:
            # The gateway reads the events from the ledger; over the bus it answers 0 instead.
            raise ChannelUnavailable(f"the gateway cannot resend: {error}") from error
        except concurrent.futures.CancelledError as error:
            raise ChannelUnavailable("the gateway in this process is shutting down") from error

    def wake(self, user_ids: Sequence[str]) -> None:
        """Let these users' connections catch up; a hint that may be lost."""
        try:
            self._loop.call_soon_threadsafe(self._wake, list(user_ids))
        except RuntimeError as error:
            logger.info("wake-up not sent, the gateway is shutting down: %s", error)


class BusResend:
    """Requests resends from all gateways over Redis, from a worker process. Thread-safe.

    Args:
        redis_url: the bus's Redis.
        channel: the bus's channel.
        connect_timeout: seconds for a connect or an answer of Redis.
        on_skipped: called with the reason for each answer that this process cannot read.

    Raises:
        ConfigError: the URL cannot be read.
    """

    def __init__(
        self,
        redis_url: str,
        channel: str = CHANNEL,
        *,
        connect_timeout: float = 1.0,
        on_skipped: OnSkipped = lambda reason: None,
    ) -> None:
        self._channel = channel
        self._sender = f"worker#{uuid.uuid4().hex}"
        self._shard = Shard(redis_url, connect_timeout, channel)
        self._reader = Reader(on_skipped)

    def resend(self, user_id: str, event_ids: Sequence[str], timeout: float) -> int:
        """Request a resend from all gateways and wait up to ``timeout`` seconds for the answers.

        Returns:
            The number of connections that took the events.

        Raises:
            ChannelUnavailable: Redis does not answer.
        """
        request = uuid.uuid4().hex
        # The braces keep it on the same server of a cluster as the bus's channel.
        reply = f"{{{self._channel}}}:reply:{request}"
        message = ResendRequest(
            node=self._sender,
            request=request,
            user=user_id,
            ids=list(event_ids),
            reply=reply,
            timeout=timeout,
        )
        deadline = time.monotonic() + timeout + _MARGIN
        try:
            redis, is_sharded = self._shard.get()
            with redis.pubsub() as pubsub:  # type: ignore[no-untyped-call]
                _subscribe(pubsub, reply, deadline, is_sharded)
                asked = self._publish(message)
                return self._gather(pubsub, request, asked, deadline)
        except (RedisError, OSError) as error:
            self._shard.forget()
            raise ChannelUnavailable(f"the gateways cannot be asked over Redis: {error}") from error

    def wake(self, user_ids: Sequence[str]) -> None:
        """Let these users' connections on all gateways catch up; a hint that may be lost.

        Raises:
            ChannelUnavailable: Redis does not answer.
        """
        try:
            self._publish(Wake(node=self._sender, users=list(user_ids)))
        except (RedisError, OSError) as error:
            self._shard.forget()
            raise ChannelUnavailable(f"the gateways cannot be woken: {error}") from error

    def close(self) -> None:
        """Disconnect."""
        self._shard.close()

    def _publish(self, message: NodeMessage) -> int:
        """Publish a message. Returns how many gateways receive it."""
        redis, is_sharded = self._shard.get()
        raw = seal(self._sender, [pack(message)])
        publish = redis.spublish if is_sharded else redis.publish
        receivers = int(publish(self._channel, raw))
        if not receivers:
            self._shard.require_primary()
        return receivers

    def _gather(self, pubsub: PubSub, request: str, asked: int, deadline: float) -> int:
        """Add up the answers until every gateway that got the request has answered."""
        total, answers = 0, 0
        while answers < asked and time.monotonic() < deadline:
            item = pubsub.get_message(timeout=max(0.01, deadline - time.monotonic()))
            if item is None or item["type"] not in ("message", "smessage"):
                continue
            envelope = self._reader.unseal(item["data"])
            for message in self._reader.unpack(envelope) if envelope is not None else ():
                if isinstance(message, ResendAnswer) and message.request == request:
                    answers += 1
                    total += message.count
        return total


def _subscribe(pubsub: PubSub, channel: str, deadline: float, is_sharded: bool) -> None:
    """Subscribe and wait for Redis to say so: an earlier answer would be lost."""
    (pubsub.ssubscribe if is_sharded else pubsub.subscribe)(channel)
    while time.monotonic() < deadline:
        item = pubsub.get_message(timeout=max(0.01, deadline - time.monotonic()))
        if item is not None and item["type"] in ("subscribe", "ssubscribe"):
            return
    raise ChannelUnavailable("Redis did not acknowledge the subscription for the gateways' answers")


class NoResend:
    """Resend of a worker without Redis: always unavailable, so the chain goes on."""

    def resend(self, user_id: str, event_ids: Sequence[str], timeout: float) -> int:
        """Raise ``ChannelUnavailable``: no gateway can be reached."""
        raise ChannelUnavailable(
            "workers cannot reach the gateways: set DELIVERY_REDIS_URL", retryable=False
        )

    def wake(self, user_ids: Sequence[str]) -> None:
        """Do nothing: clients catch up when they connect."""
