"""Messages between nodes, at most once: in one process, or over Redis pub/sub.

Owns: the connection, its health, and the bound on what waits for it. Never does: make a caller
wait, promise an arrival, or read what a message means, with two exceptions: the answer to a
question that named a ``reply`` channel goes there alone, and where messages may have been lost it
says so with a ``gap``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from delivery.domain.ports import Dice
from delivery.domain.retry import Backoff
from delivery.gateway.envelope import Envelope, seal, unseal
from delivery.gateway.outbox import MAX_MESSAGES, Outbox
from delivery.gateway.redis_clients import async_client

log = logging.getLogger(__name__)

OnMessage = Callable[[dict[str, Any]], None]
CHANNEL = "delivery:bus"
_MAX_REPLIES = 10_000
_RECONNECT = Backoff(base=0.1, max=5.0, jitter=0.5)
# For the way out; the loops outlive whatever the client throws.
_FAILURES = (RedisError, OSError, TimeoutError)


class LocalHub:
    """What the buses of one process share; lets tests run several nodes on one loop."""

    def __init__(self) -> None:
        self._buses: list[LocalBus] = []

    def join(self, bus: LocalBus) -> None:
        """From now on this bus hears the others."""
        if bus not in self._buses:
            self._buses.append(bus)

    def leave(self, bus: LocalBus) -> None:
        """It hears nothing more."""
        if bus in self._buses:
            self._buses.remove(bus)

    def spread(self, sender: LocalBus, raw: bytes) -> None:
        """Hand a message to every bus but the sender's."""
        for bus in self._buses:
            if bus is not sender:
                bus.take(raw)


class LocalBus:
    """The bus of a single process. With no hub of its own, a publish reaches nobody."""

    def __init__(self, hub: LocalHub | None = None) -> None:
        self._hub = hub or LocalHub()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_message: OnMessage = lambda message: None

    @property
    def healthy(self) -> bool:
        """Whether messages of others arrive."""
        return self._loop is not None

    async def start(self, on_message: OnMessage) -> None:
        """Call ``on_message`` on this loop with every message of another node."""
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self._hub.join(self)

    def publish(self, message: dict[str, Any]) -> None:
        """Send to every other node. Raises ``TypeError`` for what JSON cannot say."""
        self._hub.spread(self, seal(Envelope("local", message)))

    def take(self, raw: bytes) -> None:
        """Queue one message of another node on this node's loop."""
        envelope = unseal(raw)
        if self._loop is None or envelope is None or envelope.message is None:
            return
        self._loop.call_soon_threadsafe(_call, self._on_message, envelope.message)

    async def stop(self) -> None:
        """Hear nothing more."""
        self._hub.leave(self)
        self._loop = None


class RedisBus:
    """A bus over one Redis pub/sub channel.

    A connection can look alive and hear nothing, so the bus hears itself: it publishes a probe
    and subscribes anew when none comes back in time.

    Args:
        url: ``redis://…`` or ``rediss://…``.
        node: this node's name; its own messages are not heard.
        timeout: seconds for a connect or an answer of Redis.

    Raises:
        ConfigError: the URL cannot be read.
    """

    def __init__(
        self,
        url: str,
        node: str,
        channel: str = CHANNEL,
        *,
        probe_every: float = 2.0,
        deaf_after: float = 5.0,
        timeout: float = 1.0,
        max_queue: int = MAX_MESSAGES,
        dice: Dice = random.random,
    ) -> None:
        # Two nodes with one name must still hear each other.
        self._node = node
        self._sender = f"{node}#{secrets.token_hex(4)}"
        self._channel = channel
        self._probe_every = probe_every
        self._deaf_after = deaf_after
        self._timeout = timeout
        self._dice = dice
        self._on_message: OnMessage = lambda message: None
        self._outbox = Outbox(max_queue)
        self._replies: OrderedDict[str, str] = OrderedDict()
        self._heard_at = float("-inf")
        self._subscribed = asyncio.Event()
        self._missed = False
        self._tasks: list[asyncio.Task[None]] = []
        # Two clients, so that a publisher that waits never holds up the subscriber.
        self._writer = async_client(url, timeout)
        self._reader = async_client(url, timeout)

    @property
    def dropped(self) -> int:
        """Messages that did not leave, since the start."""
        return self._outbox.dropped

    @property
    def healthy(self) -> bool:
        """Whether this node heard itself lately."""
        if not self._tasks or not self._subscribed.is_set():
            return False
        return asyncio.get_running_loop().time() - self._heard_at < self._deaf_after

    async def start(self, on_message: OnMessage) -> None:
        """Subscribe; waits a short while for Redis, and goes on without it."""
        self._on_message = on_message
        self._tasks = [
            asyncio.create_task(self._listen_for_ever(), name="bus-reader"),
            asyncio.create_task(self._write_for_ever(), name="bus-writer"),
            asyncio.create_task(self._probe_for_ever(), name="bus-probe"),
        ]
        try:
            async with asyncio.timeout(2 * self._timeout):
                await self._subscribed.wait()
        except TimeoutError:
            log.warning("the bus has no Redis yet; events for other nodes take the chain")

    def publish(self, message: dict[str, Any]) -> None:
        """Send to every other node; never waits, drops when overloaded.

        Raises:
            TypeError: the message holds what JSON cannot say.
        """
        channel = self._channel
        if message.get("kind") == "resent":
            channel = self._replies.pop(str(message.get("request")), channel)
        self._outbox.put(channel, seal(Envelope(self._sender, message)))

    async def stop(self) -> None:
        """Send what still waits, for at most one timeout, then disconnect."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timeout):
                if self.healthy:
                    await self._outbox.drained()
        tasks, self._tasks = set(self._tasks), []
        while tasks:
            # Again and again: redis-py now and then swallows a cancellation (redis 8.1).
            for task in tasks:
                task.cancel()
            _, tasks = await asyncio.wait(tasks, timeout=0.1)
        self._subscribed.clear()
        for client in (self._writer, self._reader):
            try:
                async with asyncio.timeout(self._timeout):
                    await client.aclose()
            except _FAILURES as error:
                log.debug("the bus did not close cleanly: %s", error)

    async def _write_for_ever(self) -> None:
        failures = 0
        while True:
            batch = await self._outbox.take()
            try:
                await self._send(batch)
                failures = 0
                if self._outbox.lossy:
                    self._outbox.lossy = False
                    self.publish(self._gap())
            except Exception as error:
                # Whether Redis spread some of it is not known: sent again, it could come twice.
                self._outbox.drop(len(batch))
                failures += 1
                log.log(_level(failures), "the bus cannot publish: %r", error)
                await asyncio.sleep(_RECONNECT.delay(failures, self._dice()))
            finally:
                self._outbox.done(batch)

    async def _send(self, batch: list[tuple[str, bytes]]) -> None:
        async with asyncio.timeout(3 * self._timeout), self._writer.pipeline(False) as pipeline:
            for channel, raw in batch:
                pipeline.publish(channel, raw)
            await pipeline.execute()

    async def _probe_for_ever(self) -> None:
        failures = 0
        while True:
            try:
                await self._send([(self._channel, seal(Envelope(self._sender, probe=True)))])
                failures = 0
            except Exception as error:
                failures += 1
                log.log(_level(failures), "the bus cannot probe itself: %r", error)
            await asyncio.sleep(self._probe_every)

    async def _listen_for_ever(self) -> None:
        failures = 0
        while True:
            try:
                await self._listen()
            except Exception as error:
                failures = 1 if self._subscribed.is_set() else failures + 1
                log.log(_level(failures), "the bus hears nothing and subscribes anew: %r", error)
            self._subscribed.clear()
            self._missed = True
            await asyncio.sleep(_RECONNECT.delay(failures, self._dice()))

    async def _listen(self) -> None:
        """Subscribe and hear until the connection breaks or goes deaf."""
        clock = asyncio.get_running_loop().time
        pubsub = self._reader.pubsub()
        try:
            async with asyncio.timeout(3 * self._timeout):
                await pubsub.subscribe(self._channel)
            self._heard_at = clock()
            while True:
                await self._hear(pubsub)
                if clock() - self._heard_at > self._deaf_after:
                    raise TimeoutError(f"no probe came back in {self._deaf_after:g} s")
        finally:
            with contextlib.suppress(*_FAILURES):
                await pubsub.aclose()  # type: ignore[no-untyped-call]

    async def _hear(self, pubsub: PubSub) -> None:
        item = await pubsub.get_message(timeout=min(1.0, self._deaf_after / 4))
        if item is None:
            return
        if item["type"] == "subscribe":
            self._subscribed.set()
            if self._missed:
                # Whatever was published meanwhile went past this node.
                self._missed = False
                _call(self._on_message, self._gap())
        envelope = unseal(item["data"]) if item["type"] == "message" else None
        if envelope is None:
            return
        if envelope.sender == self._sender:
            if envelope.probe:
                self._heard_at = asyncio.get_running_loop().time()
        elif envelope.message is not None:
            self._remember_reply(envelope.message)
            _call(self._on_message, envelope.message)

    def _remember_reply(self, message: dict[str, Any]) -> None:
        request, reply = message.get("request"), message.get("reply")
        if isinstance(request, str) and isinstance(reply, str):
            self._replies[request] = reply
            while len(self._replies) > _MAX_REPLIES:
                self._replies.popitem(last=False)

    def _gap(self) -> dict[str, Any]:
        return {"kind": "gap", "node": self._node}


def _call(on_message: OnMessage, message: dict[str, Any]) -> None:
    try:
        on_message(message)
    except Exception:
        # One message that a node cannot digest must not make it deaf to all others.
        log.exception("a bus message of kind %r failed", message.get("kind"))


def _level(failures: int) -> int:
    return logging.WARNING if failures in (1, 10) or failures % 100 == 0 else logging.DEBUG
