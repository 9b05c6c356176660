"""The ``direct`` channel's way from a worker to the sockets: in this process, or over the bus.

Owns: asking and the deadline of the answer. Never does: touch a socket, or decide what follows.
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

from delivery.bus.envelope import Reader, pack, seal
from delivery.bus.redis_bus import CHANNEL
from delivery.bus.topology import Shard
from delivery.domain.node_messages import NodeMessage, ResendAnswer, ResendRequest, Wake
from delivery.errors import ChannelUnavailable, LedgerError

logger = logging.getLogger(__name__)

RegistryResend = Callable[[str, Sequence[str], float], Coroutine[Any, Any, int]]
WakeUsers = Callable[[Sequence[str]], None]
# What crossing a thread or the bus may take beyond the sockets' own time.
_MARGIN = 0.5


class LoopResend:
    """Asks the gateway in this process, from a worker's thread.

    Args:
        registry_resend: coroutine function ``(user_id, event_ids, timeout) -> connections``.
        wake: called on the loop with user ids.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, registry_resend: RegistryResend, wake: WakeUsers
    ) -> None:
        self._loop = loop
        self._registry_resend = registry_resend
        self._wake = wake

    def resend(self, user_id: str, event_ids: Sequence[str], timeout: float) -> int:
        """The number of live connections that took the events. Never call it on the loop.

        Raises:
            ChannelUnavailable: the loop is over or did not answer in time, or the ledger is away.
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
            # The sockets' side reads the events from there; over the bus it answers 0 instead.
            raise ChannelUnavailable(f"the gateway cannot resend: {error}") from error
        except concurrent.futures.CancelledError as error:
            raise ChannelUnavailable("the gateway in this process is shutting down") from error

    def wake(self, user_ids: Sequence[str]) -> None:
        """Tell the gateway that these users have copies waiting; a hint."""
        try:
            self._loop.call_soon_threadsafe(self._wake, list(user_ids))
        except RuntimeError as error:
            logger.info("the gateway is shutting down and needs no wake-up: %s", error)


class BusResend:
    """Asks every gateway over Redis, from a worker process. Thread-safe.

    Args:
        redis_url: the bus's Redis.
        channel: the bus's channel.
        connect_timeout: seconds for a connect or an answer of Redis.

    Raises:
        ConfigError: the URL cannot be read.
    """

    def __init__(
        self, redis_url: str, channel: str = CHANNEL, *, connect_timeout: float = 1.0
    ) -> None:
        self._channel = channel
        self._sender = f"worker#{uuid.uuid4().hex}"
        self._shard = Shard(redis_url, connect_timeout, channel)
        self._reader = Reader()

    def resend(self, user_id: str, event_ids: Sequence[str], timeout: float) -> int:
        """Ask all gateways and add up what they answer within ``timeout`` seconds.

        Raises:
            ChannelUnavailable: Redis is away.
        """
        request = uuid.uuid4().hex
        # The braces put it on the same server of a cluster as the channel itself.
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
        """Tell all gateways that these users have copies waiting.

        Raises:
            ChannelUnavailable: Redis is away; nothing is lost but the hint.
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
        """How many gateways hear it."""
        redis, is_sharded = self._shard.get()
        raw = seal(self._sender, [pack(message)])
        publish = redis.spublish if is_sharded else redis.publish
        return int(publish(self._channel, raw))

    def _gather(self, pubsub: PubSub, request: str, asked: int, deadline: float) -> int:
        """Add up the answers until every gateway that heard the question has answered."""
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
    """Return once Redis has confirmed: an answer before that would be lost."""
    (pubsub.ssubscribe if is_sharded else pubsub.subscribe)(channel)
    while time.monotonic() < deadline:
        item = pubsub.get_message(timeout=max(0.01, deadline - time.monotonic()))
        if item is not None and item["type"] in ("subscribe", "ssubscribe"):
            return
    raise ChannelUnavailable("Redis did not confirm the subscription for the gateways' answers")


class NoResend:
    """A worker's resend without Redis: the chain goes on to the next channel."""

    def resend(self, user_id: str, event_ids: Sequence[str], timeout: float) -> int:
        """Raises ``ChannelUnavailable``: there is no way to the gateways."""
        raise ChannelUnavailable(
            "workers cannot reach the gateways: set DELIVERY_REDIS_URL", retryable=False
        )

    def wake(self, user_ids: Sequence[str]) -> None:
        """Do nothing: clients find their events when they connect."""
