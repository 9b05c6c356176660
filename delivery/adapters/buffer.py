"""The bounded buffer between agents and the connection that carries their events.

Owns: the order of events, what happens when the buffer is full, and their copy on disk. Never does:
send, raise into an agent, wait where an event loop runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from uuid_utils import uuid7

from delivery.adapters.spool import Spool, SpoolFile
from delivery.protocol import encode_json

logger = logging.getLogger(__name__)

OnFull = Literal["drop", "block", "spool"]
Context = tuple[str, str, str | None]

MAX_MERGED = 4_096
"""Characters of token deltas that travel as one event."""
LOG_EVERY = 60.0


@dataclass(slots=True)
class Pending:
    """One event that waits.

    Attributes:
        context: ids of user, run and thread.
        merges: texts with the same key that wait behind each other become one event.
        id: set once the event may have been sent or written.
    """

    context: Context
    type: str
    data: dict[str, Any]
    meta: dict[str, Any] | None = None
    event_class: str | None = None
    is_ephemeral: bool = False
    merges: str | None = None
    id: str | None = None

    def line(self) -> bytes:
        """The event as the spool keeps it."""
        self.id = self.id or str(uuid7())
        fields = (self.id, self.context, self.type, self.data, self.meta, self.event_class)
        return encode_json(fields)

    @staticmethod
    def of(line: bytes) -> Pending:
        """The event of a line. Raises ``ValueError`` (or ``TypeError``) if it is none."""
        event_id, (user_id, run_id, thread_id), type, data, meta, event_class = json.loads(line)
        context = (str(user_id), str(run_id), thread_id)
        return Pending(context, type, data, meta, event_class, id=event_id)


@dataclass(slots=True)
class Counts:
    """What became of the events so far."""

    taken: int = 0
    sent: int = 0
    refused: int = 0
    dropped: int = 0
    spooled: int = 0
    _logged: dict[str, float] = field(default_factory=dict, repr=False)

    def may_log(self, what: str) -> bool:
        """Whether a minute has passed since this was logged: an outage is one line."""
        now = time.monotonic()
        if now < self._logged.get(what, 0.0):
            return False
        self._logged[what] = now + LOG_EVERY
        return True


class Buffer:
    """Events in the order in which they were put. Safe to share between threads."""

    def __init__(
        self,
        on_full: OnFull,
        capacity: int,
        block_timeout: float,
        spool: Spool | None,
        wake: Callable[[], None],
    ) -> None:
        """
        Args:
            wake: called after an event was put where none waited; from any thread.
        """
        self.counts = Counts()
        self.spool = spool
        self._on_full = on_full
        self._capacity = capacity
        self._block_timeout = block_timeout
        self._wake = wake
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._sleepers: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._events: deque[Pending] = deque()
        self._is_closed = False

    def put(self, event: Pending) -> None:
        """Take an event, or do with it what ``on_full`` says. Never waits."""
        with self._lock:
            if self._is_closed:
                self._drop(event, "the recorder is closed")
                return
            self.counts.taken += 1
            if self._merge(event):
                return
            was_empty = self._is_idle()
            if not self._place(event):
                return
        if was_empty:
            self._wake()

    @property
    def is_idle(self) -> bool:
        """Whether no event waits here."""
        with self._lock:
            return self._is_idle()

    def _is_idle(self) -> bool:
        return not self._events and (self.spool is None or self.spool.own.is_empty)

    def _merge(self, event: Pending) -> bool:
        if event.merges is None or not self._events:
            return False
        last = self._events[-1]
        if last.merges != event.merges or last.context != event.context:
            return False
        text = last.data["text"] + event.data["text"]
        if len(text) > MAX_MERGED:
            return False
        last.data["text"] = text
        return True

    def _place(self, event: Pending) -> bool:
        waiting = len(self._events)
        if event.is_ephemeral:
            if waiting >= self._capacity // 2:
                self._drop(event, None)
                return False
        elif self.spool is not None and not self.spool.own.is_empty:
            return self._spool(event)  # behind those that are there already
        elif waiting >= self._capacity:
            if self.spool is not None:
                return self._spool(event)
            # A blocked caller waits after it has put its event: this is for callers that cannot.
            if self._on_full == "drop" or waiting >= 2 * self._capacity:
                self._drop(event, f"{waiting} events wait to be sent")
                return False
        self._events.append(event)
        return True

    def _spool(self, event: Pending) -> bool:
        if self.spool is None or not self.spool.own.add(event.line()):
            self._drop(event, "the spool is full")
            return False
        self.counts.spooled += 1
        return True

    def _drop(self, event: Pending, reason: str | None) -> None:
        self.counts.dropped += 1
        if reason is not None and self.counts.may_log(reason[-12:]):
            logger.error("event %s of run %s was dropped: %s", event.type, event.context[1], reason)

    def take(self, most: int) -> list[Pending]:
        """The first events, which are the caller's from now on."""
        with self._lock:
            events = [self._events.popleft() for _ in range(min(most, len(self._events)))]
            if events:
                self._room.notify_all()
                sleepers, self._sleepers = self._sleepers, []
                for loop, sleeper in sleepers:
                    with contextlib.suppress(RuntimeError):  # its loop has ended
                        loop.call_soon_threadsafe(_settle, sleeper)
        return events

    def _is_full(self) -> bool:
        return self._on_full == "block" and len(self._events) >= self._capacity

    def wait_for_room(self) -> None:
        """Hold the agent up while the buffer is full, with ``on_full="block"``. For code outside of
        event loops; inside of one it returns at once."""
        if not self._is_full() or _is_in_loop():
            return
        with self._room:
            if not self._room.wait_for(lambda: not self._is_full(), self._block_timeout):
                self._log_blocked()

    async def room(self) -> None:
        """See ``wait_for_room``; for code on an event loop."""
        ends = time.monotonic() + self._block_timeout
        while self._is_full():
            loop = asyncio.get_running_loop()
            sleeper: asyncio.Future[None] = loop.create_future()
            with self._lock:
                self._sleepers.append((loop, sleeper))
            try:
                async with asyncio.timeout(max(0.0, ends - time.monotonic())):
                    await sleeper
            except TimeoutError:
                self._log_blocked()
                return
            finally:
                with self._lock:
                    self._sleepers = [one for one in self._sleepers if one[1] is not sleeper]

    def _log_blocked(self) -> None:
        if self.counts.may_log("blocked"):
            logger.warning("an agent waited %g s to record its events", self._block_timeout)

    def close(self) -> None:
        """Take no further event; those that wait stay."""
        with self._lock:
            self._is_closed = True
            self._capacity = max(self._capacity, len(self._events) + 1)
            self._room.notify_all()

    def keep(self, events: list[Pending]) -> None:
        """After ``close``: write events that were not sent to the spool, or count their loss."""
        left = [*events, *self.take(len(self._events))]
        events = [one for one in left if not one.is_ephemeral]
        self.counts.dropped += len(left) - len(events)
        if not events:
            return
        file = None if self.spool is None else self.spool.earlier()
        if file is not None:
            events = [one for one in events if not self._written(file, one)]
            file.close()
        self.counts.dropped += len(events)
        if events:
            logger.error(
                "%d events were not sent before the recorder was closed, and are lost", len(events)
            )

    def _written(self, file: SpoolFile, event: Pending) -> bool:
        is_written = file.add(event.line())
        self.counts.spooled += is_written
        return is_written


def _settle(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)


def _is_in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
