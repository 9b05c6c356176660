"""Queue copies on Redis: one capped stream per user.

Owns: the streams and their age. Never does: know an event's state: a queue copy is read while the
ledger is away, and may be stale or missing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import redis
from redis.exceptions import RedisError

from delivery.bus.redis_clients import client, close, keyed_client
from delivery.domain.event import Event, event_from_wire
from delivery.errors import ChannelUnavailable

logger = logging.getLogger(__name__)

PREFIX = "delivery:mailbox:"
MAX_LENGTH = 1_000
_FIELD = "event"
_SCAN = 500


class RedisStreams:
    """``QueueCopyStore`` over Redis streams. Synchronous and thread-safe.

    Args:
        max_age: seconds a copy is kept; a stream without new copies expires after it.
        max_length: newest copies kept per user; Redis may keep some more.
        timeout: seconds for a connect or an answer.

    Raises:
        ConfigError: the URL cannot be read.
    """

    def __init__(
        self,
        url: str,
        max_age: float,
        *,
        max_length: int = MAX_LENGTH,
        prefix: str = PREFIX,
        timeout: float = 1.0,
    ) -> None:
        self._max_age = max_age
        self._max_length = max_length
        self._prefix = prefix
        self._url = url
        self._timeout = timeout
        self._entry = client(url, timeout)
        self._lock = threading.Lock()
        self._found: redis.Redis | redis.RedisCluster | None = None

    def put(self, events: Sequence[Event]) -> None:
        """Append copies to their users' streams, in order. Safe to repeat: reads skip repeats.

        Raises:
            ChannelUnavailable: Redis does not answer or refuses; some copies may be appended.
        """
        if not events:
            return
        with _translated("take copies"), self._redis.pipeline(transaction=False) as pipeline:
            for event in events:
                payload = msgspec.json.encode(event)
                pipeline.xadd(
                    self._key(event.user_id),
                    {_FIELD: payload},
                    maxlen=self._max_length,
                    approximate=True,
                )
            for user_id in {event.user_id for event in events}:
                pipeline.pexpire(self._key(user_id), max(1, int(self._max_age * 1000)))
            pipeline.execute()

    def read(self, user_id: str, limit: int = 1_000) -> list[Event]:
        """Read the newest ``limit`` copies of one user, oldest first, each event once.

        Raises:
            ChannelUnavailable: Redis is away.
        """
        with _translated("read copies"):
            entries = self._redis.xrevrange(
                self._key(user_id), min=self._horizon(self._max_age), count=2 * limit
            )
        found: dict[str, Event] = {}
        for entry in entries or ():
            event = _event(entry[1] or {})
            # Newest first: of two copies of an event, the older one has the right place.
            if event is not None and event.user_id == user_id:
                found.pop(event.id, None)
                found[event.id] = event
        return list(found.values())[:limit][::-1]

    def forget(self, user_id: str) -> None:
        """Delete all copies of a user.

        Raises:
            ChannelUnavailable: Redis is away.
        """
        with _translated("delete copies"):
            self._redis.delete(self._key(user_id))

    def trim(self, max_age: float) -> int:
        """Delete copies older than ``max_age`` seconds. Returns how many.

        Raises:
            ChannelUnavailable: Redis is away.
        """
        removed = 0
        with _translated("trim copies"):
            horizon = self._horizon(max_age)
            for key in self._redis.scan_iter(match=f"{self._prefix}*", count=_SCAN, _type="stream"):
                removed += int(self._redis.xtrim(key, minid=horizon, approximate=False))
        return removed

    def ping(self) -> None:
        """Ask Redis for a sign of life. Raises ``ChannelUnavailable`` without an answer."""
        with _translated("answer"):
            self._redis.ping()

    def close(self) -> None:
        """Disconnect."""
        close(self._entry)
        if self._found is not None:
            self._found.close()

    @property
    def _redis(self) -> redis.Redis | redis.RedisCluster:
        """The client, made at the first call: Redis may be away earlier."""
        if self._found is None:
            with self._lock:
                if self._found is None:
                    self._found = keyed_client(self._entry, self._url, self._timeout)
        return self._found

    def _key(self, user_id: str) -> str:
        return f"{self._prefix}{user_id}"

    def _horizon(self, max_age: float) -> str:
        # By the clock of Redis, which also made the ids of the entries.
        seconds, micros = self._redis.time()
        return str(max(0, int((seconds + micros / 1e6 - max_age) * 1000)))


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError) as error:
        raise ChannelUnavailable(f"Redis cannot {doing} now: {error}") from error


def _event(fields: Mapping[Any, Any]) -> Event | None:
    """Decode an entry; ``None`` for a malformed one."""
    try:
        return event_from_wire(msgspec.json.decode(fields.get(_FIELD.encode()) or b""))
    except (msgspec.DecodeError, KeyError, TypeError, ValueError, RecursionError) as error:
        logger.warning("queue copy skipped, malformed: %r", error)
        return None
