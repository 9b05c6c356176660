"""Group commit: one thread that commits whatever has gathered while the last batch committed.

Owns: the loop's side of the ledger. The loop only appends to lists; a batch's answers come back in
one call. When the ledger is away, batches go to the spool and are drained, in order, before
anything newer is committed.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from delivery.domain.lifecycle import Confirmation
from delivery.domain.ports import Answered, Ledger
from delivery.domain.records import Entry, Receipted, Recorded
from delivery.errors import DeliveryError, LedgerError, LedgerUnavailable, Overloaded
from delivery.ledger.batch import Batch, Gathering
from delivery.ledger.early import EarlyProofs
from delivery.ledger.outage import RETRY, Outage
from delivery.ledger.spool import Spool

log = logging.getLogger(__name__)
T = TypeVar("T")

BATCH = 5_000
GATHER = 0.02
"""Seconds that an entry may wait for its proof, to be inserted with it."""
ADOPT_EVERY = 5.0
CALL_TIMEOUT = 12.0
MAX_CALLS = 256

Answer = Receipted | Exception


class JournalThread:
    """Implements the ``Journal`` port.

    Everything public is called on the loop's thread and never waits. The loop hands one batch at a
    time to the thread; what comes meanwhile gathers, without a lock.

    Attributes:
        backlog: entries that are queued or being committed.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        spool: Spool | None = None,
        max_pending: int = 20_000,
        readers: int = 4,
        gather: float = GATHER,
    ) -> None:
        self._ledger = ledger
        self._spool = spool
        self._max_pending = max_pending
        self._patience = gather
        self._gathering = Gathering()
        self.backlog = 0
        self._inbox: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._is_busy = False
        self._is_scheduled = False
        self._in_a_hurry = False
        self._stopping = False
        self._timer: asyncio.TimerHandle | None = None
        self._flushes: list[asyncio.Future[None]] = []
        self._thread = threading.Thread(target=self._run, name="delivery-journal", daemon=True)
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="delivery-ledger")
        self._calls = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._outage = Outage(lambda: ledger.ping())
        self._early = EarlyProofs()
        self._adopt_at = 0.0
        self.commits = 0
        self.spooled = 0

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
            log.error("%s", error)
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join, timeout)
        if self._thread.is_alive():
            log.error("the journal did not finish within %.0f s", timeout)
        self._outage.close()
        self._readers.shutdown(wait=False, cancel_futures=True)

    @property
    def is_ledger_up(self) -> bool:
        """Whether the last commit reached the ledger."""
        return not self._outage.is_on

    def submit(self, entry: Entry, answered: Answered) -> None:
        """See the port."""
        if self._stopping:
            raise Overloaded("this node is shutting down; use another one", retry_after=1.0)
        if self.backlog >= self._max_pending:
            raise Overloaded(f"{self.backlog} events wait to be committed; slow down")
        self.backlog += 1
        self._gathering.add(entry, answered)
        if not self._is_scheduled:
            self._schedule()

    def confirm(self, proofs: Sequence[Confirmation]) -> None:
        """See the port."""
        self._gathering.prove(proofs)
        if not self._is_scheduled:
            self._schedule()

    def hand_over(self, event_id: str, reason: str) -> None:
        """See the port."""
        self._gathering.hand_over(event_id, reason)
        if not self._is_scheduled:
            self._schedule()

    async def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """See the port.

        Raises:
            LedgerUnavailable: no answer within 12 s, or too many calls wait already.
        """
        if self._calls >= MAX_CALLS:
            raise LedgerUnavailable("too many ledger reads wait already; try again")
        self._calls += 1
        try:
            future = asyncio.get_running_loop().run_in_executor(
                self._readers, lambda: function(*args, **kwargs)
            )
            return await asyncio.wait_for(future, CALL_TIMEOUT)
        except TimeoutError:
            raise LedgerUnavailable(
                f"the ledger did not answer within {CALL_TIMEOUT:g} s"
            ) from None
        finally:
            self._calls -= 1

    async def flush(self, timeout: float = 10.0) -> None:
        """See the port.

        Raises:
            LedgerUnavailable: the backlog was not durable in time.
        """
        if not self._gathering and not self._is_busy:
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._flushes.append(done)
        self._in_a_hurry = True
        self._schedule()
        try:
            await asyncio.wait_for(done, timeout)
        except TimeoutError:
            raise LedgerUnavailable(
                f"the journal still has {self.backlog} events after {timeout} s"
            ) from None

    # The loop's side.

    def _schedule(self) -> None:
        """Look at what gathered once, at the end of this turn."""
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
        batch = self._gathering.cut(now - (0.0 if self._in_a_hurry else self._patience), BATCH)
        if batch is not None:
            self._is_busy = True
            self._inbox.put(batch)
        elif self._timer is None:
            at = (self._gathering.oldest or now) + self._patience
            self._timer = loop.call_at(at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._offer()

    def _on_answered(self, batch: Batch, answers: Sequence[Answer]) -> None:
        self._is_busy = False
        self.backlog -= len(batch.entries)
        self._offer()  # the thread first: it works while the answers are told
        for (entry, answered), answer in zip(batch.entries, answers, strict=True):
            try:
                answered(entry, answer)
            except Exception:
                log.exception("nobody heard what became of event %s", entry.event.id)
        if not self._is_busy and not self._gathering:
            self._in_a_hurry = False
            flushes, self._flushes = self._flushes, []
            for done in flushes:
                if not done.done():
                    done.set_result(None)

    # The thread's side.

    def _run(self) -> None:
        while True:
            try:
                batch = self._inbox.get(timeout=RETRY)
            except queue.Empty:
                self._maintain()
                continue
            if batch is None:
                return
            self._report(batch, self._answers(batch))
            if time.monotonic() >= self._adopt_at:
                self._maintain()  # a journal that is never idle must look after the dead, too

    def _answers(self, batch: Batch) -> Sequence[Answer]:
        try:
            return self._commit(batch)
        except Exception as error:
            # The thread must outlive any fault, and nobody may wait for ever for an answer.
            log.exception("the journal failed on a batch of %d", len(batch.entries))
            return [error] * len(batch.entries)

    def _report(self, batch: Batch, answers: Sequence[Answer]) -> None:
        if self._loop is None or self._loop.is_closed():
            return
        try:
            self._loop.call_soon_threadsafe(self._on_answered, batch, answers)
        except RuntimeError as error:  # closed just now: nobody is left to be told
            log.info("a batch of %d was recorded as the loop ended: %s", len(answers), error)

    def _commit(self, batch: Batch) -> Sequence[Answer]:
        entries = [entry for entry, _ in batch.entries]
        try:
            self._before_commit()
            answers = self._record(entries, batch.proofs)
            self._offer_early_proofs()
            for reason, ids in batch.hand_overs.items():
                self._ledger.events.hand_over(ids, reason)
        except LedgerUnavailable as error:
            return self._to_spool(batch, entries, error)
        self._outage.worked()
        self.commits += 1
        return answers

    def _before_commit(self) -> None:
        """What waits in the spool goes first: order within a run, and ids, depend on it."""
        if self._spool is None or not self._spool.pending_bytes:
            return
        if not self._outage.may_be_over():
            raise LedgerUnavailable("the ledger was away a moment ago; spooling")
        drained = self._spool.drain(self._drained)
        self._outage.worked()
        log.warning("the ledger is back: drained %d events from the spool", drained)

    def _drained(self, entries: Sequence[Entry], proofs: Sequence[Confirmation]) -> None:
        """Commit a page of a spool; what the ledger refuses for good must not block the rest."""
        answers = self._record(entries, proofs, drained=True)
        refused = [
            entry for entry, answer in zip(entries, answers, strict=True)
            if isinstance(answer, Exception)
        ]  # fmt: skip
        if refused and self._spool is not None:
            self._spool.set_aside(refused)

    def _record(
        self,
        entries: Sequence[Entry],
        proofs: Sequence[Confirmation],
        *,
        drained: bool = False,
    ) -> list[Answer]:
        """Commit as one; when the batch itself is refused, one by one to find the culprit."""
        if not entries and not proofs:
            return []
        missed: list[Confirmation] = []
        try:
            answers: list[Answer] = list(
                self._ledger.events.commit(entries, proofs, drained=drained, missed=missed)
            )
            self._early.settle((), missed)
            return answers
        except LedgerUnavailable:
            raise
        except Exception:
            log.exception("a batch of %d events was refused; committing one by one", len(entries))
        answers = []
        for entry in entries:
            try:
                answers.extend(self._ledger.events.commit([entry], drained=drained))
            except LedgerUnavailable:
                raise
            except Exception as error:
                log.exception("event %s cannot be recorded", entry.event.id)
                answers.append(error)
        if proofs:
            self._ledger.events.confirm(proofs)
        return answers

    def _offer_early_proofs(self) -> None:
        """Again, now and then: their events may have come from another node meanwhile."""
        due = self._early.due()
        if due:
            unknown = set(self._ledger.events.confirm(due).unknown)
            self._early.settle(due, [proof for proof in due if proof.event_id in unknown])

    def _to_spool(
        self, batch: Batch, entries: Sequence[Entry], error: LedgerUnavailable
    ) -> Sequence[Answer]:
        if self._spool is None:
            return [error] * len(entries)
        if not self._outage.is_on:
            log.error("%s; events go to the spool until it is back", error)
        self._outage.failed()
        try:
            self._spool.append(entries, batch.proofs)
        except LedgerError as refused:
            log.error("the spool refused %d events: %s", len(entries), refused)
            return [refused] * len(entries)
        self.spooled += len(entries)
        return [Receipted(entry.event.id, Recorded.NEW, entry.event.seq) for entry in entries]

    def _maintain(self) -> None:
        """Between batches: drain the own spool, adopt those of the dead, offer early proofs."""
        try:
            self._before_commit()
            self._offer_early_proofs()
            if self._spool is not None and time.monotonic() >= self._adopt_at:
                self._adopt_at = time.monotonic() + ADOPT_EVERY
                self._spool.adopt(self._drained)
        except DeliveryError as error:
            log.debug("the spool cannot be drained yet: %s", error)
        except Exception:
            # The thread must outlive any fault; the next round tries again.
            log.exception("the journal's upkeep failed")
