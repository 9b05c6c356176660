"""Events of agents on their way to the emitter, and never in the agent's way.

Owns: the task that empties the buffer, retries with one id, and runs that outlive their caller.
Never does: raise into an agent, block an event loop, know a framework.

::

    with delivery.connect_sync(url, token) as d, Recorder(d, spool="spool") as recorder:
        run = recorder.run("ada", "run-1")      # what each adapter takes

Events may be put from any thread; one task on the connection's loop sends them, in order. What the
service refuses for good is logged and left out; anything else is tried again until the recorder is
closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from delivery.adapters.agent_run import AgentRun
from delivery.adapters.buffer import Buffer, Context, Counts, OnFull, Pending
from delivery.adapters.spool import Spool, SpoolFile
from delivery.client.remote import Remote
from delivery.client.sync import BlockingRemote
from delivery.domain.emission import Emission, Emitters, EventOptions, Receipt
from delivery.domain.event import check_context_id
from delivery.errors import ConfigError, DeliveryError, InvalidEvent

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_BATCH = 200
FIRST_PAUSE = 0.1
LAST_PAUSE = 5.0
MAX_EMITTERS = 1_000
CLOSE_TIMEOUT = 5.0
AWAY_TIMEOUT = 0.5
"""Seconds for which ``close`` waits for a service whose latest answer did not come."""
CLOSE_POLL = 0.01
CANCEL_TIMEOUT = 1.0
_POLICIES = ("drop", "block", "spool")


@dataclass(slots=True)
class _Batch:
    """Events that are sent together; from a file unless ``file`` is ``None``, up to ``end``."""

    events: list[Pending]
    file: SpoolFile | None = None
    end: int = 0


class Recorder:
    """The way of a process's agents to one connection. Safe to share between threads."""

    def __init__(
        self,
        connection: Emitters | BlockingRemote,
        *,
        on_full: OnFull | None = None,
        spool: str | Path | None = None,
        capacity: int = 10_000,
        block_timeout: float = 30.0,
        spool_bytes: int = 64 << 20,
        close_timeout: float = CLOSE_TIMEOUT,
    ) -> None:
        """
        Args:
            connection: of ``delivery.connect_sync``; or, on the running event loop, of
                ``delivery.connect`` (inside its ``async with``) or ``delivery.embed``.
            on_full: what happens to a durable event while the buffer is full, because the service
                is slow or away: ``drop`` logs and counts it; ``block`` holds the agent up, for
                ``block_timeout`` seconds an event at most; ``spool`` writes it to a file and sends
                it later, also after a restart. The default is ``spool`` where a directory is given,
                else ``drop``. Ephemeral events (token deltas, progress) are dropped when half of
                the buffer is taken.
            spool: a directory on a local disk, which processes of one application may share.
            capacity: events in the buffer.
            spool_bytes: size of this process's spool file; an event beyond it is dropped.
            close_timeout: seconds that closing takes at most, where it is given none; half a second
                while the service does not answer.

        Raises:
            ConfigError: the arguments do not fit together, the directory cannot be used, or an
                asynchronous connection is given outside of an event loop.
        """
        files = _files(on_full, spool, spool_bytes)
        if capacity < 2:
            raise ConfigError("capacity must be at least 2")
        if not close_timeout >= 0.0:
            raise ConfigError("close_timeout must be seconds, of 0 or more")
        self._close_timeout = close_timeout
        self._connection: Emitters | None = None
        policy: OnFull = on_full or ("drop" if spool is None else "spool")
        self._buffer = Buffer(policy, capacity, block_timeout, files, self._wake)
        self._emitters: OrderedDict[Context, Emission] = OrderedDict()
        self._arrived = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._unsent: list[Pending] = []
        self._orphan: SpoolFile | None = None
        self._looks_for_orphans = files is not None
        self._kept: set[asyncio.Task[Any]] = set()
        self._is_closing = self._is_at_rest = False
        self._ended = threading.Event()
        try:
            self._pump = _start(connection, self._run)
        except BaseException:
            if files is not None:
                files.close()
            raise

    @property
    def counts(self) -> Counts:
        """What became of the events so far."""
        return self._buffer.counts

    def run(self, user_id: str, run_id: str, thread_id: str | None = None) -> AgentRun:
        """One run of one user, which adapters record. Several agents may be in it.

        Raises:
            InvalidContext: an id cannot address a user or a run; names it.
        """
        check_context_id("user_id", user_id)
        check_context_id("run_id", run_id)
        if thread_id is not None:
            check_context_id("thread_id", thread_id)
        return AgentRun(self.keep, self._buffer, (user_id, run_id, thread_id))

    async def keep(self, work: Coroutine[Any, Any, T], /) -> T:
        """Run an agent in a task of its own and wait for its result. A caller that is cancelled
        meanwhile, as a request is whose client has gone, leaves the agent running."""
        task = asyncio.create_task(work)
        self._kept.add(task)
        task.add_done_callback(self._on_kept)
        return await asyncio.shield(task)

    def _on_kept(self, task: asyncio.Task[Any]) -> None:
        self._kept.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.debug("a kept run ended: %r", task.exception())

    # --- the task on the connection's loop

    def _wake(self) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended; close() finds the rest
                self._loop.call_soon_threadsafe(self._arrived.set)

    async def _run(self, emitters: Emitters) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection = emitters
        try:
            while True:
                self._arrived.clear()
                self._is_at_rest = False
                batch = self._next()
                if batch is not None:
                    await self._deliver(emitters, batch)
                elif self._is_closing:
                    return
                else:
                    self._is_at_rest = True
                    await self._arrived.wait()
        finally:
            self._ended.set()

    def _next(self) -> _Batch | None:
        """What is sent next: the buffer is older than the spool, and orphans can wait."""
        events = self._buffer.take(MAX_BATCH)
        if events:
            return _Batch(events)
        spool = self._buffer.spool
        if spool is None:
            return None
        if not spool.own.is_empty:
            return _page(spool.own)
        if self._is_closing:
            return None  # orphans can wait for the next process
        if self._orphan is not None and self._orphan.is_empty:
            self._orphan.close()
            self._orphan = None
        if self._orphan is None and self._looks_for_orphans:
            self._orphan = spool.orphan()
            self._looks_for_orphans = self._orphan is not None
        return None if self._orphan is None else _page(self._orphan)

    async def _deliver(self, emitters: Emitters, batch: _Batch) -> None:
        """Send a batch until every event has an answer."""
        pause = FIRST_PAUSE
        left = batch.events
        while left:
            if batch.file is None:
                self._unsent = left
            before = len(left)
            left = await self._send(emitters, left)
            if left:
                pause = FIRST_PAUSE if len(left) < before else min(LAST_PAUSE, 2.0 * pause)
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
        self._unsent = []
        if batch.file is not None:
            batch.file.take(batch.end)

    async def _send(self, emitters: Emitters, events: list[Pending]) -> list[Pending]:
        """Send events at once; those that are to be sent again, in order."""
        receipts: list[Receipt | DeliveryError] = []
        for event in events:
            try:
                receipts.append(self._emit(emitters, event))
            except DeliveryError as error:
                receipts.append(error)
            except Exception as error:  # a bug of ours: it costs this event and no other
                logger.exception("event %s cannot be sent", event.type)
                receipts.append(InvalidEvent(f"{type(error).__name__}: {error}"))
        # All are awaited at once: the connection logs each failure that has no waiter.
        faults = await asyncio.gather(*map(_answer, receipts))
        left: list[Pending] = []
        for event, fault in zip(events, faults, strict=True):
            if fault is None:
                self.counts.sent += 1
            elif isinstance(fault, InvalidEvent):
                self.counts.refused += 1
                logger.error("event %s was refused: %s", event.type, fault)
            elif event.is_ephemeral:
                self.counts.dropped += 1
            else:
                if self.counts.may_log("unsent"):
                    logger.warning("events of agents wait, to be sent again: %s", fault)
                left.append(event)
        return left

    def _emit(self, emitters: Emitters, event: Pending) -> Receipt:
        options = EventOptions() if event.event_class is None else _of_class(event.event_class)
        receipt = self._emitter(emitters, event.context).emit_nowait(
            event.type, event.data, id=event.id, meta=event.meta, **options
        )
        event.id = receipt.id
        return receipt

    def _emitter(self, emitters: Emitters, context: Context) -> Emission:
        found = self._emitters.get(context)
        if found is None:
            found = self._emitters[context] = emitters.emitter(*context)
            if len(self._emitters) > MAX_EMITTERS:
                self._emitters.popitem(last=False)
        self._emitters.move_to_end(context)
        return found

    # --- the end

    async def until_kept_runs_end(self, timeout: float) -> None:
        """Wait for the runs of ``keep``, for at most ``timeout`` seconds."""
        if self._kept:
            await asyncio.wait(set(self._kept), timeout=timeout)

    async def aclose(self, timeout: float | None = None) -> None:
        """Wait for kept runs and send what waits, for at most ``timeout`` seconds together
        (``close_timeout``, if none are given), and for half a second only while the service does
        not answer; then spool the rest, or log its loss. Safe to repeat."""
        limit = self._close_timeout if timeout is None else timeout
        ends = time.monotonic() + limit
        try:
            await self.until_kept_runs_end(limit)
            self._stop()
            is_waiting = self._waiting(ends)
            # The task may be on another loop: it cannot set an event of this one.
            while not self._ended.is_set() and is_waiting():  # noqa: ASYNC110
                await asyncio.sleep(CLOSE_POLL)
            self._pump.cancel()
            ends = time.monotonic() + CANCEL_TIMEOUT
            while not self._ended.is_set() and time.monotonic() < ends:  # noqa: ASYNC110
                await asyncio.sleep(CLOSE_POLL)
        finally:
            await asyncio.to_thread(self._end)

    def flush(self, timeout: float = CLOSE_TIMEOUT) -> bool:
        """Wait until the service has taken all that was recorded, for at most ``timeout`` seconds;
        whether it has. For code outside of event loops; every event waits there anyway."""
        ends = time.monotonic() + timeout
        while not (self._buffer.is_idle and not self._unsent and self._is_at_rest):
            if time.monotonic() >= ends or self._ended.is_set():
                return False
            time.sleep(CLOSE_POLL)
        return True

    def abandon(self) -> None:
        """In a forked child: let go of what is the parent's, whose thread is not here."""
        self._buffer.counts.taken = 0
        self._is_closing = True
        for file in (self._orphan, self._buffer.spool):
            if file is not None:
                file.abandon()
        self._orphan = self._buffer.spool = None

    def _waiting(self, ends: float) -> Callable[[], bool]:
        """What says whether closing still waits for the service."""
        begun = time.monotonic()

        def is_left() -> bool:
            now = time.monotonic()
            is_away = isinstance(self._connection, Remote) and self._connection.is_away
            return now < ends and not (is_away and now > begun + AWAY_TIMEOUT)

        return is_left

    def close(self, timeout: float | None = None) -> None:
        """See ``aclose``; for code outside of the connection's event loop.

        Raises:
            ConfigError: called on that loop, which it would block.
        """
        if self._loop is not None and self._loop is _running_loop():
            raise ConfigError("on an event loop, close the recorder with async with, or aclose()")
        self._stop()
        limit = self._close_timeout if timeout is None else timeout
        is_waiting = self._waiting(time.monotonic() + limit)
        while not self._ended.wait(CLOSE_POLL) and is_waiting():
            pass
        if not self._ended.is_set():
            self._pump.cancel()
            self._ended.wait(CANCEL_TIMEOUT)
        self._end()

    def _stop(self) -> None:
        self._buffer.close()
        self._is_closing = True
        self._wake()

    def _end(self) -> None:
        self._stop()
        self._pump.cancel()
        unsent, self._unsent = self._unsent, []
        self._buffer.keep(unsent)
        orphan, self._orphan = self._orphan, None
        if orphan is not None:
            orphan.close()
        spool, self._buffer.spool = self._buffer.spool, None
        if spool is not None:
            spool.close()

    async def __aenter__(self) -> Recorder:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _start(
    connection: Emitters | BlockingRemote, work: Callable[[Emitters], Coroutine[Any, Any, None]]
) -> Future[None]:
    if isinstance(connection, BlockingRemote):
        return connection.start(work)
    loop = _running_loop()
    if loop is None:
        raise ConfigError(
            "outside of an event loop a recorder needs a connection of delivery.connect_sync"
        )
    return asyncio.run_coroutine_threadsafe(work(connection), loop)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _files(on_full: object, directory: str | Path | None, max_bytes: int) -> Spool | None:
    if on_full is not None and on_full not in _POLICIES:
        raise ConfigError(f"on_full must be one of {', '.join(_POLICIES)}, not {on_full!r}")
    if directory is None:
        if on_full == "spool":
            raise ConfigError("on_full='spool' needs spool=, a directory of this application")
        return None
    if on_full not in (None, "spool"):
        raise ConfigError(f"spool= is a directory for on_full='spool', not {on_full!r}")
    return Spool(Path(directory), max_bytes=max_bytes)


def _page(file: SpoolFile) -> _Batch:
    lines, end = file.page()
    events = []
    for line in lines:
        try:
            events.append(Pending.of(line))
        except (TypeError, ValueError) as error:
            logger.error("a line of %s is no event and is left out: %s", file.path, error)
    return _Batch(events, file, end)


def _of_class(name: str) -> EventOptions:
    return {"class_": name}


async def _answer(receipt: Receipt | DeliveryError) -> DeliveryError | None:
    if isinstance(receipt, DeliveryError):
        return receipt
    try:
        await receipt.accepted()
    except DeliveryError as error:
        return error
    return None
