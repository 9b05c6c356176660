"""The relay: a thread that sends published tasks from a gateway or worker to the broker.

Owns: a bounded buffer of ids and the connection to the broker. Never does: wait in ``publish``,
keep ids that cannot be sent (a sweep publishes them again), but for the last that a broker refused.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from celery import Celery
from kombu import Producer

from delivery.domain.channels import Channel
from delivery.domain.operators.outages import Outage, OutageKind, Outages
from delivery.domain.policy import CHANNELS, Priority
from delivery.redis_servers.connections import FULL, REPLICA, Refuses, trouble
from delivery.redis_servers.unreachable import unreachable
from delivery.tasks.attempts import batches
from delivery.tasks.broker.app import (
    SEND_WEBHOOKS,
    publisher_options,
    queue_name,
    task_name,
    verify_task_name,
)
from delivery.tasks.broker.rabbitmq_broker import FULL as RABBITMQ_FULL
from delivery.tasks.broker.rabbitmq_broker import Alarm, refusal
from delivery.tasks.broker.redis_broker import trouble_of

logger = logging.getLogger(__name__)

MAX_PENDING = 10_000
SEND_TIMEOUT = 1.0
PAUSE = 1.0
"""Seconds between a failed try and the next one: each may take the whole timeout."""

IDLE = 5.0
_WEBHOOKS = "webhooks"
_VERIFY = "verify"
"""Where channels are pending, whose tasks for unverified addresses are to be sent."""

READ = 0.01
"""Seconds for a look whether a broker has closed the connection."""


_Taken = dict[tuple[str, Priority | None], dict[str, None]]
_NUMBERS = {Priority.HIGH: 9, Priority.NORMAL: 4, Priority.LOW: 0}
"""Source: RabbitMQ, "Quorum Queues", "Priorities": from 5 on a message goes first."""
_REDIS_NUMBERS = {Priority.HIGH: 0, Priority.NORMAL: 3, Priority.LOW: 6}
"""Source: kombu, ``priority_steps`` of the Redis transport: the lowest number goes first."""


def _number(producer: Producer, priority: Priority) -> int:
    """The priority as the broker of this connection has it."""
    connection = producer.connection
    is_redis = connection is not None and connection.transport.driver_type == "redis"
    return (_REDIS_NUMBERS if is_redis else _NUMBERS)[priority]


def _order(taken: tuple[tuple[str, Priority | None], Any]) -> int:
    """High priorities leave first, whatever the broker knows of them."""
    priority = taken[0][1]
    return 0 if priority is None else _REDIS_NUMBERS[priority]


_KINDS = {FULL: OutageKind.REDIS_OOM, REPLICA: OutageKind.REDIS_REPLICA}
_AWAY = "the broker does not answer, or refuses"
_WAITS = "the chain waits for its broker"
_Met = tuple[OutageKind, str]


class Relay:
    """A ``TaskQueue`` over Celery. Thread-safe.

    Attributes:
        published: ids taken.
        sent: ids that the broker took.
        dropped: ids pushed out of the full buffer.
        failed: ids lost because the broker was away.
    """

    def __init__(self, app: Celery, *, max_pending: int = MAX_PENDING) -> None:
        self.published = 0
        self.sent = 0
        self.dropped = 0
        self.failed = 0
        self._app = app
        self._pending: deque[tuple[str, Priority | None, tuple[str, ...]]] = deque()
        self._max_pending = max_pending
        self._changed = threading.Condition()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._producer: Producer | None = None
        self._is_down = False
        self._is_refused = False
        self._alarm = Alarm()
        self._failed: tuple[str, Sequence[str], Priority | None] | None = None
        self._outages = Outages("broker", time.monotonic)

    def publish(self, channel: str, ids: Sequence[str], priority: Priority | None = None) -> None:
        """Queue ids for a channel's task; never waits for the broker.

        Args:
            priority: the task's, as far as the broker knows any.

        Raises:
            ValueError: there is no such channel.
        """
        if channel not in CHANNELS:
            raise ValueError(f"no channel {channel!r}; known: {', '.join(CHANNELS)}")
        if ids:
            self._put(channel, tuple(ids), priority)

    def verify(self, channel: str) -> None:
        """Queue a channel's task for unverified addresses; never waits for the broker."""
        self._put(_VERIFY, (channel,))

    def send_webhooks(self) -> None:
        """Queue the task that tells endpoints what is new; never waits for the broker."""
        self._put(_WEBHOOKS, (SEND_WEBHOOKS,))

    def _put(self, channel: str, ids: tuple[str, ...], priority: Priority | None = None) -> None:
        with self._changed:
            self.published += len(ids)
            if len(self._pending) >= self._max_pending:
                self.dropped += len(self._pending.popleft()[2])
            self._pending.append((channel, priority, ids))
            self._changed.notify()

    def outages(self) -> list[Outage]:
        """What keeps tasks from the broker."""
        return self._outages.lasting()

    @property
    def backlog(self) -> int:
        """The number of publishes in the buffer."""
        return len(self._pending)

    def start(self) -> None:
        """Start the thread, which connects at once: connecting would slow down the first send."""
        if self._thread is not None:
            raise RuntimeError("the relay runs already")
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="delivery-relay", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Send what is pending within ``timeout`` seconds, and end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread is None:
            return
        self._thread.join(timeout)
        if self._thread.is_alive():
            logger.warning("relay: broker does not answer; %d publishes dropped", self.backlog)
        self._thread = None

    def _run(self) -> None:
        self._attempt(self._warm_up, 0)
        while True:
            taken = self._take()
            if taken is None:
                break
            if not taken:
                self._attempt(self._check, 0)
            for (channel, priority), ids in sorted(taken.items(), key=_order):
                for batch in batches(channel, list(ids)):
                    self._send(channel, batch, priority)
        self._disconnect()

    def _take(self) -> _Taken | None:
        """All pending ids by channel and priority, each once; none after ``IDLE`` seconds without
        any, at once while the broker is away; ``None`` when the relay stops."""
        with self._changed:
            if not self._pending and not self._stopping and not self._is_down:
                self._changed.wait(IDLE)
            if not self._pending and self._stopping:
                return None
            taken: _Taken = {}
            while self._pending:
                channel, priority, ids = self._pending.popleft()
                taken.setdefault((channel, priority), {}).update(dict.fromkeys(ids))
        return taken

    def _send(self, channel: str, ids: Sequence[str], priority: Priority | None) -> None:
        if self._is_down and self._stopping:
            self.failed += len(ids)
            return
        if self._attempt(lambda: self._send_task(channel, ids, priority), len(ids)):
            self.sent += len(ids)
        elif self._is_refused:
            self._failed = (channel, ids, priority)

    def _attempt(self, action: Any, size: int) -> bool:
        """Do something with the broker; a failure loses these ids, pauses, and is logged once."""
        try:
            action()
        except Exception as error:
            # The thread must survive any error of the broker. Its text may contain the URL.
            if not self._is_down:
                name = type(error).__name__
                logger.warning("relay: publish failed (%s); a sweep will publish again", name)
            self._is_down = True
            self.failed += size
            kind, text = self._met(error)
            self._is_refused = kind is not OutageKind.BROKER_AWAY
            for one in self._outages.lasting():
                if one.kind is not kind:
                    self._outages.report(one.kind, None)
            self._outages.report(kind, f"{text}: {_WAITS}")
            self._disconnect()
            self._pause()
            return False
        if self._is_down:
            logger.info("relay: broker is back")
        self._is_down = False
        self._failed = None
        self._outages.clear()
        return True

    def _met(self, error: Exception) -> _Met:
        """What kind of outage an error shows, in words."""
        known = trouble(error)
        if known is not None:
            return _KINDS.get(known, OutageKind.REDIS_REFUSES), known
        known = RABBITMQ_FULL if self._alarm.is_on else refusal(error)
        if known is not None:
            return OutageKind.BROKER_REFUSES, known
        cause = unreachable(error)
        return OutageKind.BROKER_AWAY, _AWAY if cause is None else f"{_AWAY} ({cause})"

    def _check(self) -> None:
        """Ask a broker to which nothing was published lately whether it would take tasks.

        A publish that it refused is sent once more: only that shows a broker that answers every
        question and takes no task. A task that comes twice has one effect.

        Raises:
            Refuses: it answers, and would not.
        """
        connection = self._connected().connection
        if connection is None:
            return
        if connection.transport.driver_type == "amqp":
            with suppress(TimeoutError):  # nothing to read: the connection stands
                connection.drain_events(timeout=READ)
        known = trouble_of(connection)
        if known is not None:
            raise Refuses(known)
        if self._failed is not None:
            self._send_task(*self._failed)

    def _pause(self) -> None:
        ends = time.monotonic() + PAUSE
        with self._changed:
            while not self._stopping and (left := ends - time.monotonic()) > 0:
                self._changed.wait(left)

    def _send_task(
        self, channel: str, ids: Sequence[str], priority: Priority | None = None
    ) -> None:
        if channel == _WEBHOOKS:
            self._send_to(Channel.EMERGENCY, SEND_WEBHOOKS, ())
            return
        if channel != _VERIFY:
            self._send_to(channel, task_name(channel), (list(ids),), priority)
            return
        for one in ids:
            self._send_to(one, verify_task_name(one), ())

    def _send_to(
        self,
        channel: str,
        name: str,
        args: tuple[list[str], ...],
        priority: Priority | None = None,
    ) -> None:
        producer = self._connected()
        self._app.send_task(
            name,
            args=args,
            queue=queue_name(channel),
            producer=producer,
            retry=False,
            ignore_result=True,
            priority=None if priority is None else _number(producer, priority),
        )

    def _warm_up(self) -> None:
        self._app.finalize()
        self._connected()

    def _connected(self) -> Producer:
        """The producer, on its own connection with a publisher's short timeouts."""
        if self._producer is None:
            options = self._app.conf.broker_transport_options
            connection = self._app.connection_for_write(
                connect_timeout=SEND_TIMEOUT,
                transport_options=publisher_options(options, SEND_TIMEOUT),
            )
            connection.ensure_connection(max_retries=1, timeout=1)
            self._alarm.watch(connection)
            self._producer = self._app.amqp.Producer(connection, auto_declare=False)
        return self._producer

    def _disconnect(self) -> None:
        producer, self._producer = self._producer, None
        if producer is None:
            return
        try:
            connection = producer.connection
            producer.close()
            if connection is not None:
                connection.release()
        except Exception as error:
            # The connection is broken already.
            logger.debug("relay: closing the connection failed: %s", type(error).__name__)
