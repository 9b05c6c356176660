"""Bus over Redis pub/sub: messages between nodes, at most once.

Owns: the connections, their health, and the bound of the outbox. Never does: make a caller wait,
guarantee delivery, or depend on a message's kind, with three exceptions: an answer to a request
with a ``reply`` channel goes to that channel only; a ``Gap`` announces a possible loss; and in a
Redis cluster the messages that come with every event go to each node's own channel.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from delivery.bus.envelope import Envelope, OnSkipped, Reader, node_name, pack, seal
from delivery.bus.in_process import OnMessage, carry_out
from delivery.bus.subscriber import RECONNECT, Subscriber, log_level
from delivery.bus.topology import Layout, Shards
from delivery.domain.node_messages import (
    Confirmed,
    Gap,
    NodeMessage,
    Pushes,
    ResendAnswer,
    ResendRequest,
)
from delivery.domain.operators.outages import Outage, Outages
from delivery.domain.operators.outages import OutageKind as _Kind
from delivery.domain.ports import Jitter
from delivery.redis_servers.connections import FULL, REPLICA, NotPrimary, trouble
from delivery.redis_servers.unreachable import unreachable

logger = logging.getLogger(__name__)

MAX_MESSAGES = 10_000
MAX_BYTES = 64 << 20
_BATCH = 200
_BATCH_BYTES = 512 << 10
"""The bounds of one envelope, far below Redis's output buffer limit of a slow subscriber."""


class Outbox:
    """Bounded queue of ``(channel, raw)`` for one writer. On the loop.

    Attributes:
        dropped: count of messages that were not sent.
        lossy: whether a message was dropped since this was last set to ``False``.
    """

    def __init__(self, max_messages: int = MAX_MESSAGES, max_bytes: int = MAX_BYTES) -> None:
        self._queue: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue(max_messages)
        self._max_bytes = max_bytes
        self._bytes = 0
        self.dropped = 0
        self.lossy = False

    def put(self, channel: str, raw: bytes) -> None:
        """Queue one message, or drop it at the bound."""
        if self._queue.full() or self._bytes + len(raw) > self._max_bytes:
            self.drop(1)
            return
        self._queue.put_nowait((channel, raw))
        self._bytes += len(raw)

    async def take(self) -> list[tuple[str, bytes]]:
        """Wait for messages; you must call ``done`` with the batch afterwards."""
        batch = [await self._queue.get()]
        size = len(batch[0][1])
        while len(batch) < _BATCH and size < _BATCH_BYTES and not self._queue.empty():
            batch.append(self._queue.get_nowait())
            size += len(batch[-1][1])
        return batch

    def done(self, batch: list[tuple[str, bytes]]) -> None:
        """End a batch that was sent or dropped."""
        self._bytes -= sum(len(raw) for _, raw in batch)
        for _ in batch:
            self._queue.task_done()

    def drop(self, count: int) -> None:
        """Count messages that are not sent."""
        before, self.dropped, self.lossy = self.dropped, self.dropped + count, True
        # Logged at 1, 2, 4, 8 …: an overload must not flood the log as well.
        if before.bit_length() != self.dropped.bit_length():
            logger.warning(
                "bus: %d messages dropped so far; their events take the chain", self.dropped
            )

    async def drained(self) -> None:
        """Wait until all messages queued so far are done."""
        await self._queue.join()


CHANNEL = "delivery:bus"
_MAX_REPLIES = 10_000
# Raised by a send. The loops catch every exception: they must not end.
_FAILURES = (RedisError, OSError, TimeoutError)
# Kinds that are sent per event; all others are rare.
_PER_EVENT = (Pushes, Confirmed)
_EVERY_NODE = "*"


_DEAF = "the bus is deaf"
_DEAF_TO = ": events for users of other gateways take the chain"
_AWAY = "the bus's Redis does not answer"
_REPLICA = "the bus's Redis is a replica, and no primary is found"
_FULL = "the bus's Redis is out of memory: the queue step keeps no second copies"


def _away(error: Exception) -> str:
    cause = unreachable(error)
    return _AWAY if cause is None else f"{_AWAY}: {cause}"


def _refuses(why: str | None) -> str | None:
    return f"the bus's {why}" if why and why.startswith("Redis") else why


class RedisBus:
    """A bus over Redis pub/sub.

    All nodes receive one channel, and each node receives a channel of its own. In a Redis cluster
    both are sharded, which spreads the traffic of events over the servers. A node receives its own
    probes: when none returns in time, it subscribes again.

    Args:
        url: ``redis://…`` or ``rediss://…``; of a cluster, any server.
        node: this node's name; it ignores its own messages.
        probe_interval: seconds between two probes.
        probe_timeout: seconds without a probe after which it subscribes again.
        timeout: seconds for a connect or an answer of Redis.
        on_latency: called with the seconds that a probe took through Redis.
        on_skipped: called with the reason for each message that this node cannot read.

    Attributes:
        reader: counts malformed and ignored messages.

    Raises:
        ConfigError: the URL cannot be read.
    """

    def __init__(
        self,
        url: str,
        node: str,
        channel: str = CHANNEL,
        *,
        probe_interval: float = 2.0,
        probe_timeout: float = 5.0,
        timeout: float = 1.0,
        max_queue: int = MAX_MESSAGES,
        jitter: Jitter = random.random,
        on_latency: Callable[[float], None] = lambda seconds: None,
        on_skipped: OnSkipped = lambda reason: None,
    ) -> None:
        self.reader = Reader(on_skipped)
        # A random suffix: two nodes of one name must receive each other's messages.
        self._node = node
        self._sender = f"{node}#{secrets.token_hex(4)}"
        self._channel = channel
        self._probe_interval = probe_interval
        self._probe_timeout = probe_timeout
        self._on_latency = on_latency
        self._probed_at = 0.0
        self._timeout = timeout
        self._jitter = jitter
        self._on_message: OnMessage = lambda message: None
        self._outbox = Outbox(max_queue)
        self._replies: OrderedDict[str, str] = OrderedDict()
        self._peers: dict[str, float] = {}  # sender with a channel of its own -> when last seen
        self._subscribers: list[Subscriber] = []
        self._has_inbox = False
        self._outages = Outages("bus", time.monotonic)
        self._tasks: list[asyncio.Task[None]] = []
        # Two sets of connections: a publisher that waits must not block the subscriber.
        self._writers = Shards(url, timeout)
        self._readers = Shards(url, timeout)

    @property
    def dropped(self) -> int:
        """Count of messages that were not sent."""
        return self._outbox.dropped

    @property
    def healthy(self) -> bool:
        """Whether all subscribers received a probe lately."""
        return bool(self._tasks) and all(one.is_healthy for one in self._subscribers)

    def outages(self) -> list[Outage]:
        """What keeps messages of other nodes away, or of this node from them."""
        self._report_deafness()
        return self._outages.lasting()

    async def start(self, on_message: OnMessage) -> None:
        """Subscribe; wait up to two timeouts for Redis, then continue without it."""
        self._on_message = on_message
        try:
            async with asyncio.timeout(2 * self._timeout):
                self._listen_to(self._channel, extra_channels=[self._inbox(self._sender)])
                self._listen_to_inbox(await self._readers.find_layout())
                for subscriber in self._subscribers:
                    await subscriber.subscribed.wait()
        except _FAILURES:
            logger.warning("bus: Redis does not answer yet; events for other nodes take the chain")
        self._run(self._write_loop(), "bus-writer")
        self._run(self._probe_loop(), "bus-probe")

    def publish(self, message: NodeMessage, to: Collection[str] = ()) -> None:
        """Send to the nodes of these names; none: to every other node. Never waits; drops the
        message at the bound. When the own channel of a name is unknown, all nodes receive it.

        Raises:
            TypeError: the message holds a value that JSON cannot hold.
        """
        packed = pack(message)
        for channel in self._inboxes(to) or [self._channel_of(message)]:
            self._outbox.put(channel, packed)

    async def stop(self) -> None:
        """Send queued messages, for at most one timeout, then disconnect."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timeout):
                if self.healthy:
                    await self._outbox.drained()
        tasks, self._tasks = set(self._tasks), []
        while tasks:
            # In a loop: redis-py sometimes swallows a cancellation (redis 8.1).
            for task in tasks:
                task.cancel()
            _, tasks = await asyncio.wait(tasks, timeout=0.1)
        self._subscribers = []
        for shards in (self._writers, self._readers):
            try:
                async with asyncio.timeout(self._timeout):
                    await shards.aclose()
            except _FAILURES as error:
                logger.debug("bus: disconnect failed: %s", error)

    # Sending

    async def _write_loop(self) -> None:
        failures = 0
        while True:
            batch = await self._outbox.take()
            try:
                await self._send(batch)
                failures = 0
                self._announce_loss()
            except Exception as error:
                # Redis may have delivered a part: no retry, since messages must not come twice.
                self._outbox.drop(len(batch))
                failures += 1
                logger.log(log_level(failures), "bus: publish failed: %r", error)
                await asyncio.sleep(RECONNECT.delay(failures, self._jitter()))
            finally:
                self._outbox.done(batch)

    def _announce_loss(self) -> None:
        """Tell the other nodes, now that they can be reached, that messages were lost."""
        if self._outbox.lossy:
            self._outbox.lossy = False
            self.publish(self._gap())

    async def _send(self, batch: list[tuple[str, bytes]]) -> None:
        """Send one envelope per channel: the cost is per envelope, hardly per message."""
        by_name: dict[str, list[bytes]] = {}
        for name, packed in batch:
            by_name.setdefault(name, []).append(packed)
        await self._deliver([(name, self._sealed(packed)) for name, packed in by_name.items()])

    async def _deliver(self, envelopes: list[tuple[str, bytes]]) -> None:
        try:
            async with asyncio.timeout(3 * self._timeout):
                layout = await self._writers.find_layout()
                parts: dict[Redis, list[tuple[str, bytes]]] = {}
                for name, raw in envelopes:
                    for channel in self._channels(name, layout):
                        client = await self._writers.client(channel)
                        parts.setdefault(client, []).append((channel, raw))
                await asyncio.gather(*(_publish(one, part, layout) for one, part in parts.items()))
        except _FAILURES:
            self._writers.forget()
            raise

    def _inboxes(self, names: Collection[str]) -> list[str]:
        """The own channels of the nodes of these names; empty when one of them is unknown."""
        if not names:
            return []
        found = [peer for peer in self._peers if node_name(peer) in names]
        if len({node_name(peer) for peer in found}) < len(names):
            return []
        return [self._inbox(peer) for peer in found]

    def _channel_of(self, message: NodeMessage) -> str:
        if isinstance(message, ResendAnswer):
            return self._replies.pop(message.request, self._channel)
        return _EVERY_NODE if isinstance(message, _PER_EVENT) else self._channel

    def _channels(self, name: str, layout: Layout) -> list[str]:
        if name != _EVERY_NODE:
            return [name]
        return [self._inbox(peer) for peer in self._peers] if layout.is_cluster else [self._channel]

    async def _probe_loop(self) -> None:
        failures = 0
        while True:
            try:
                await self._probe()
                failures = 0
            except Exception as error:
                failures += 1
                logger.log(log_level(failures), "bus: probe failed: %r", error)
                self._report_failure(error)
            self._report_deafness()
            again = RECONNECT.delay(failures, self._jitter()) if failures else self._probe_interval
            await asyncio.sleep(min(again, self._probe_interval))

    async def _probe(self) -> None:
        self._listen_to_inbox(await self._writers.find_layout(), has_missed=True)
        await self._stay_with_the_primary()
        self._forget_peers()
        probe = self._sealed([], probe=True)
        self._probed_at = time.monotonic()
        await self._deliver([(one.channel, probe) for one in self._subscribers])
        self._announce_loss()  # not only with the next message, which may be long in coming

    async def _stay_with_the_primary(self) -> None:
        """Leave a server that became a replica, or was left by this node's publisher."""
        try:
            async with asyncio.timeout(3 * self._timeout):
                for subscriber in self._subscribers:
                    identity = await self._writers.identify(subscriber.channel)
                    if subscriber.stay_with(identity.run_id):
                        self._outbox.lossy = True  # the server before may have taken the last ones
                    self._outages.report(_Kind.REDIS_OOM, _FULL if identity.is_full else None)
            self._outages.report(_Kind.REDIS_REPLICA, None)
            self._outages.report(_Kind.REDIS_AWAY, None)
            self._outages.report(_Kind.REDIS_REFUSES, _refuses(await self._refusal()))
        except NotPrimary as error:
            for subscriber in self._subscribers:
                subscriber.leave(str(error))
            self._outbox.lossy = True  # what a replica took reached no other node
            raise

    async def _refusal(self) -> str | None:
        """Why a server that answers would take no write; ``None`` where each does."""
        found = [await self._writers.refusal(one.channel) for one in self._subscribers]
        return next((one for one in found if one is not None), None)

    def _report_failure(self, error: Exception) -> None:
        known = trouble(error)
        is_replica = known == REPLICA
        self._outages.report(_Kind.REDIS_REPLICA, _REPLICA if is_replica else None)
        self._outages.report(_Kind.REDIS_OOM, _FULL if known == FULL else None)
        refusal = None if known in (FULL, REPLICA) else known
        self._outages.report(_Kind.REDIS_REFUSES, _refuses(refusal))
        self._outages.report(_Kind.REDIS_AWAY, _away(error) if known is None else None)

    def _report_deafness(self) -> None:
        failures = [one.failure for one in self._subscribers if not one.is_healthy]
        causes = [trouble(error) or unreachable(error) for error in failures if error is not None]
        cause = next((f" ({known})" for known in causes if known is not None), "")
        self._outages.report(_Kind.BUS_DEAF, None if self.healthy else f"{_DEAF}{cause}{_DEAF_TO}")

    def _sealed(self, packed: list[bytes], *, probe: bool = False) -> bytes:
        return seal(self._sender, packed, probe=probe, has_inbox=self._has_inbox)

    # Receiving

    def _listen_to_inbox(self, layout: Layout, *, has_missed: bool = False) -> None:
        """Receive this node's own channel, as soon as the layout is known. Outside a cluster the
        first subscriber receives both channels."""
        if not self._has_inbox and layout.is_cluster:
            self._listen_to(self._inbox(self._sender), has_missed=has_missed)
        self._has_inbox = True

    def _listen_to(
        self, channel: str, *, extra_channels: Sequence[str] = (), has_missed: bool = False
    ) -> None:
        subscriber = Subscriber(
            self._readers,
            channel,
            self._on_raw,
            self._on_gap,
            extra_channels=extra_channels,
            probe_timeout=self._probe_timeout,
            timeout=self._timeout,
            jitter=self._jitter,
            has_missed=has_missed,
        )
        self._subscribers.append(subscriber)
        self._run(subscriber.listen(), f"bus-subscriber-{len(self._subscribers)}")

    def _on_raw(self, raw: bytes) -> bool:
        envelope = self.reader.unseal(raw)
        if envelope is None:
            return False
        if envelope.sender == self._sender:
            if envelope.probe:
                self._on_latency(time.monotonic() - self._probed_at)
            return envelope.probe
        self._on_envelope(envelope)
        return False

    def _on_envelope(self, envelope: Envelope) -> None:
        if envelope.has_inbox:
            self._peers[envelope.sender] = asyncio.get_running_loop().time()
        for message in self.reader.unpack(envelope):
            if isinstance(message, ResendRequest) and message.reply:
                self._remember_reply(message)
            carry_out(self._on_message, message)

    def _on_gap(self) -> None:
        # No peer could be received in between, so none is forgotten for its silence.
        self._peers = dict.fromkeys(self._peers, asyncio.get_running_loop().time())
        carry_out(self._on_message, self._gap())

    def _forget_peers(self) -> None:
        if self.healthy:
            horizon = asyncio.get_running_loop().time() - 2 * self._probe_timeout
            self._peers = {peer: at for peer, at in self._peers.items() if at > horizon}

    def _remember_reply(self, message: ResendRequest) -> None:
        self._replies[message.request] = message.reply
        while len(self._replies) > _MAX_REPLIES:
            self._replies.popitem(last=False)

    def _gap(self) -> Gap:
        return Gap(node=self._node)

    def _inbox(self, sender: str) -> str:
        return f"{self._channel}:{sender}"

    def _run(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._tasks.append(asyncio.create_task(work, name=name))


async def _publish(client: Redis, part: list[tuple[str, bytes]], layout: Layout) -> None:
    async with client.pipeline(transaction=False) as pipeline:
        for channel, raw in part:
            (pipeline.spublish if layout.is_cluster else pipeline.publish)(channel, raw)
        await pipeline.execute()
