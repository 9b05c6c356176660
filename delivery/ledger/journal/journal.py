"""Group commit: one thread commits the entries that came while it committed the last batch.

Owns: the loop's side of the ledger, and the thread. The loop only appends to lists; the answers of
a batch come back in one call. Never does: choose between ledger and spool (see ``committing``).
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from delivery.domain.lifecycle import Confirmation
from delivery.domain.operators.outages import Outage
from delivery.domain.ports import Answered
from delivery.domain.records import Entry
from delivery.domain.stores.ledger import Ledger
from delivery.errors import LedgerUnavailable, Overloaded
from delivery.ledger import counting
from delivery.ledger.journal.committing import RETRY, Committer
from delivery.ledger.journal.division import Answer
from delivery.ledger.journal.gathering import Batch, Gathering
from delivery.ledger.journal.spool import Spool

logger = logging.getLogger(__name__)

BATCH = 5_000
GATHER = 0.005
"""Seconds that an entry may wait for its confirmation, to be inserted with it, at any rate."""
MAX_GATHER = 0.1
"""The same at full speed."""
FULL_SPEED = 2_500
"""Pushed events per second from which on entries wait for up to ``MAX_GATHER``. An update of a
committed event costs several times an insert, so with many events it pays to wait for slow
acknowledgements; with few it only delays the callers that wait for ``accepted()``."""
GATHER_CONFIRMATIONS = 0.02
"""Seconds for which confirmations of committed events are collected, to be written together; up to
``MAX_GATHER`` at full speed."""


@dataclass(frozen=True, slots=True)
class _Flush:
    """A caller of ``flush``, and the counts of answered entries and cut batches that it waits for.

    Attributes:
        cuts: batches, because one may hold confirmations and hand-overs without an entry.
    """

    done: asyncio.Future[None]
    entries: int
    cuts: int


class JournalThread:
    """Implements the ``Journal`` port.

    Every public method is called on the loop's thread and never waits. The loop passes one batch at
    a time to the thread and collects the next one meanwhile, without a lock.

    Attributes:
        backlog: entries that are queued or being committed.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        spool: Spool | None = None,
        max_pending: int = 20_000,
    ) -> None:
        self._max_pending = max_pending
        self._gathering = Gathering()
        self._submitted = 0
        self._cuts = 0
        self.backlog = 0
        self._inbox: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._is_busy = False
        self._is_scheduled = False
        self._stopping = False
        self._timer: asyncio.Handle | None = None
        self._timer_at = 0.0
        self._flushes: list[_Flush] = []
        self._thread = threading.Thread(target=self._run, name="delivery-journal", daemon=True)
        self._committer = Committer(ledger, spool)
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to commit; answers are delivered on ``loop``."""
        self._loop = loop
        self._thread.start()
        self._schedule()

    async def stop(self, timeout: float = 10.0) -> None:
        """Commit (or spool) what is queued, then end the thread."""
        self._stopping = True
        try:
            await self.flush(timeout)
        except LedgerUnavailable as error:
            logger.error("%s", error, extra={"event": "journal_not_stopped"})
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join, timeout)
        if self._thread.is_alive():
            logger.error("the journal did not finish within %.0f s", timeout)
        self._committer.close()

    @property
    def is_ledger_up(self) -> bool:
        """Whether the last commit reached the ledger."""
        return self._committer.is_ledger_up

    @property
    def commits(self) -> int:
        """Batches that reached the ledger."""
        return self._committer.commits

    def outages(self) -> list[Outage]:
        """See ``Committer``."""
        return self._committer.outages()

    @property
    def refusal(self) -> str | None:
        """See the port."""
        if self._stopping:
            return "this node is shutting down"
        if self.backlog >= self._max_pending:
            return f"{self.backlog} events wait to be committed"
        return self._committer.refusal

    @property
    def set_aside(self) -> int:
        """See the port."""
        return self._committer.set_aside

    def submit(self, entry: Entry, answered: Answered) -> None:
        """See the port."""
        if self._stopping:
            raise Overloaded("this node is shutting down; use another one", retry_after=1.0)
        if self.backlog >= self._max_pending:
            raise Overloaded(f"{self.backlog} events wait to be committed; slow down")
        self.backlog += 1
        self._submitted += 1
        self._gathering.add(entry, answered)
        if not self._is_scheduled:
            self._schedule()

    def confirm(self, confirmations: Sequence[Confirmation]) -> None:
        """See the port."""
        self._gathering.confirm(confirmations)
        if not self._is_scheduled:
            self._schedule()

    def hand_over(self, event_id: str, reason: str) -> None:
        """See the port."""
        self._gathering.hand_over(event_id, reason)
        if not self._is_scheduled:
            self._schedule()

    async def flush(self, timeout: float = 10.0) -> None:
        """See the port.

        Raises:
            LedgerUnavailable: the backlog was not durable in time.
        """
        if not self._gathering and not self._is_busy:
            return
        flush = _Flush(
            asyncio.get_running_loop().create_future(),
            entries=self._submitted,
            cuts=self._cuts + bool(self._gathering),
        )
        self._flushes.append(flush)
        self._schedule()
        try:
            async with asyncio.timeout(timeout):
                await flush.done
        except TimeoutError:
            raise LedgerUnavailable(
                f"the journal still has {self.backlog} events after {timeout} s"
            ) from None

    # The loop's side.

    def _schedule(self) -> None:
        """Run ``_offer`` once, at the end of this turn of the loop."""
        self._is_scheduled = True
        if self._loop is not None:
            self._loop.call_soon(self._offer)

    def _offer(self) -> None:
        """Give the thread its next batch, if it is free and one is ripe."""
        self._is_scheduled = False
        loop = self._loop
        if loop is None:
            return
        now = loop.time()
        self._gathering.mark(now)
        if self._is_busy or not self._gathering:
            return
        # A caller of ``flush`` waits for the commit, so no entry waits for its confirmation.
        entries, confirmations = (0.0, 0.0) if self._flushes else self._gather_times()
        batch = self._gathering.cut(now - entries, BATCH, confirmations_since=now - confirmations)
        if batch is not None:
            self._is_busy = True
            self._cuts += 1
            self._inbox.put(batch)
        else:
            self._wait(entries, confirmations)

    def _gather_times(self) -> tuple[float, float]:
        """Seconds for which entries and confirmations may wait now. What waits tells the rate: less
        than ``FULL_SPEED`` events per second never add up to a longer wait than the shortest."""
        waiting = self._gathering
        return (
            max(GATHER, min(MAX_GATHER, waiting.awaited / FULL_SPEED)),
            max(GATHER_CONFIRMATIONS, min(MAX_GATHER, waiting.late / FULL_SPEED)),
        )

    def _wait(self, entries: float, confirmations: float) -> None:
        """Set the timer for when the first entry or confirmation has waited for long enough."""
        gathering = self._gathering
        waits = (gathering.oldest, entries), (gathering.oldest_confirmation, confirmations)
        at = min(since + timeout for since, timeout in waits if since is not None)
        if self._timer is not None:
            # Kept here: a handle of uvloop for an instant in the past has no ``when``.
            if self._timer_at <= at:
                return
            self._timer.cancel()
        if self._loop is not None:
            self._timer_at = at
            self._timer = self._loop.call_at(at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._offer()

    def _on_committed(self, batch: Batch, answers: Sequence[Answer], is_last: bool) -> None:
        self.backlog -= len(batch.entries)
        if is_last:
            self._on_free()  # the thread first: it commits while the answers are called
        for (entry, answered), answer in zip(batch.entries, answers, strict=True):
            try:
                answered(entry, answer)
            except Exception:
                logger.exception("journal callback failed for event %s", entry.event.id)

    def _on_free(self) -> None:
        self._is_busy = False
        self._end_flushes()
        self._offer()

    def _end_flushes(self) -> None:
        """Wake callers of ``flush`` whose entries and batches are all durable. Every batch that was
        cut has been answered, and entries are answered in order."""
        answered = self._submitted - self.backlog
        waiting = []
        for flush in self._flushes:
            if flush.entries > answered or flush.cuts > self._cuts:
                waiting.append(flush)
            elif not flush.done.done():
                flush.done.set_result(None)
        self._flushes = waiting

    # The thread's side.

    def _run(self) -> None:
        while True:
            try:
                batch = self._inbox.get(timeout=RETRY)
            except queue.Empty:
                self._committer.maintain()
                continue
            if batch is None:
                return
            begun = time.perf_counter()
            answers = self._committer.answers(batch)
            took = time.perf_counter() - begun
            # Callers wait for the commit of their events, not for that of earlier ones' hand-overs.
            self._tell(self._on_committed, batch, answers, not batch.hand_overs)
            counting.committed(batch.entries, answers, took)
            self._committer.commit_rest(batch)
            if batch.hand_overs:
                self._tell(self._on_free)
            if self._committer.is_upkeep_due:
                # A journal that is never idle must adopt spools, too.
                self._committer.maintain()

    def _tell(self, call: Callable[..., None], *arguments: object) -> None:
        if self._loop is None or self._loop.is_closed():
            return
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError as error:  # the loop closed since the check above
            logger.info("a batch was recorded as the loop ended: %s", error)
