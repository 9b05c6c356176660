"""Group commit: one thread that commits whatever has gathered while the last batch committed.

Owns: the loop's side of the ledger. The loop only appends to lists; a batch's answers come back in
one call. When the ledger is away, batches go to the spool and are drained, in order, before
anything newer is committed.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from delivery.domain.lifecycle import Confirmation
from delivery.domain.ports import Answered, Ledger
from delivery.domain.records import Entry, Receipted, Recorded
from delivery.errors import DeliveryError, LedgerError, LedgerUnavailable, Overloaded
from delivery.ledger.batch import Batch
from delivery.ledger.spool import Spool

log = logging.getLogger(__name__)
T = TypeVar("T")

BATCH = 5_000
RETRY = 1.0
ADOPT_EVERY = 5.0
CALL_TIMEOUT = 12.0
MAX_CALLS = 256


class JournalThread:
    """Implements the ``Journal`` port.

    ``submit``, ``confirm`` and ``hand_over`` are called on the loop's thread and never wait.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        spool: Spool | None = None,
        max_pending: int = 20_000,
        readers: int = 4,
    ) -> None:
        self._ledger = ledger
        self._spool = spool
        self._max_pending = max_pending
        self._gather = Batch()
        self._pending = 0
        self._changed = threading.Condition()
        self._stopping = False
        self._idle = True
        self._thread = threading.Thread(target=self._run, name="delivery-journal", daemon=True)
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="delivery-ledger")
        self._calls = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ledger_down_until = 0.0
        self._adopt_at = 0.0
        self.commits = 0
        self.spooled = 0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to commit; answers are delivered on ``loop``."""
        self._loop = loop
        self._thread.start()

    async def stop(self, timeout: float = 10.0) -> None:
        """Commit (or spool) what is queued, then end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join, timeout)
        if self._thread.is_alive():
            log.error("the journal did not finish within %.0f s", timeout)
        self._readers.shutdown(wait=False, cancel_futures=True)

    @property
    def backlog(self) -> int:
        """Entries that are queued or being committed."""
        return self._pending

    @property
    def is_ledger_up(self) -> bool:
        """Whether the last commit reached the ledger."""
        return self._ledger_down_until == 0.0

    def submit(self, entry: Entry, answered: Answered) -> None:
        """See the port."""
        if self._stopping:
            raise Overloaded("this node is shutting down; use another one", retry_after=1.0)
        if self._pending >= self._max_pending:
            raise Overloaded(f"{self._pending} events wait to be committed; slow down")
        with self._changed:
            self._pending += 1
            self._gather.entries.append((entry, answered))
            self._gather.by_id.setdefault(entry.event.id, entry)
            self._changed.notify()

    def confirm(self, proof: Confirmation) -> None:
        """See the port."""
        with self._changed:
            entry = self._gather.by_id.get(proof.event_id)
            if entry is not None and entry.event.user_id == proof.user_id:
                entry.proofs.append(proof)
            else:
                self._gather.proofs.append(proof)
            self._changed.notify()

    def hand_over(self, event_id: str, reason: str) -> None:
        """See the port."""
        with self._changed:
            self._gather.hand_overs.setdefault(reason, []).append(event_id)
            self._changed.notify()

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
        if not await asyncio.to_thread(self._wait_idle, timeout):
            raise LedgerUnavailable(
                f"the journal still has {self._pending} events after {timeout} s"
            )

    def _wait_idle(self, timeout: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._idle and not self._gather, timeout)

    # The thread's side.

    def _run(self) -> None:
        while True:
            batch = self._next_batch()
            if batch is None:
                return
            try:
                if not batch:
                    self._maintain()
                    continue
                self._commit(batch)
            except Exception as error:
                # The thread must outlive any fault, and nobody may wait for ever for an answer.
                log.exception("the journal failed on a batch of %d", len(batch.entries))
                self._answer([(done, error) for _, done in batch.entries])
            finally:
                with self._changed:
                    self._pending -= len(batch.entries)
                    self._idle = not self._gather
                    self._changed.notify_all()

    def _next_batch(self) -> Batch | None:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._gather) or self._stopping, RETRY)
            if not self._gather and self._stopping:
                return None
            batch, self._gather = self._gather, Batch()
            if len(batch.entries) > BATCH:
                self._gather = batch.split(BATCH)
            self._idle = False
            return batch

    def _commit(self, batch: Batch) -> None:
        entries = [entry for entry, _ in batch.entries]
        try:
            self._before_commit()
            answers = self._record(entries, batch.proofs)
            for reason, ids in batch.hand_overs.items():
                self._ledger.events.hand_over(ids, reason)
        except LedgerUnavailable as error:
            self._to_spool(batch, error)
            return
        self.commits += 1
        self._answer([(done, answer) for (_, done), answer in zip(batch.entries, answers,
                                                                  strict=True)])  # fmt: skip

    def _before_commit(self) -> None:
        """What waits in the spool goes first: order within a run, and ids, depend on it."""
        if self._spool is None or not self._spool.pending_bytes:
            return
        if time.monotonic() < self._ledger_down_until:
            raise LedgerUnavailable("the ledger was away a moment ago; spooling")
        drained = self._spool.drain(self._drained)
        self._ledger_down_until = 0.0
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
    ) -> list[Receipted | Exception]:
        """Commit as one; when the batch itself is refused, one by one to find the culprit."""
        if not entries and not proofs:
            return []
        try:
            return list(self._ledger.events.commit(entries, proofs, drained=drained))
        except LedgerUnavailable:
            raise
        except Exception:
            log.exception("a batch of %d events was refused; committing one by one", len(entries))
        answers: list[Receipted | Exception] = []
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

    def _to_spool(self, batch: Batch, error: LedgerUnavailable) -> None:
        entries = [entry for entry, _ in batch.entries]
        if self._spool is None:
            self._answer([(done, error) for _, done in batch.entries])
            return
        if self._ledger_down_until == 0.0:
            log.error("%s; events go to the spool until it is back", error)
        self._ledger_down_until = time.monotonic() + RETRY
        for ids in batch.hand_overs.values():
            for entry in entries:
                entry.hand_over = entry.hand_over or entry.event.id in ids
        try:
            self._spool.append(entries, batch.proofs)
        except LedgerError as refused:
            log.error("the spool refused %d events: %s", len(entries), refused)
            self._answer([(done, refused) for _, done in batch.entries])
            return
        self.spooled += len(entries)
        self._answer([
            (done, Receipted(entry.event.id, Recorded.NEW, entry.event.seq))
            for entry, done in batch.entries
        ])  # fmt: skip

    def _maintain(self) -> None:
        """Between batches: drain the own spool, adopt those of the dead."""
        if self._spool is None or time.monotonic() < self._ledger_down_until:
            return
        try:
            self._before_commit()
            if time.monotonic() >= self._adopt_at:
                self._adopt_at = time.monotonic() + ADOPT_EVERY
                self._spool.adopt(self._drained)
        except DeliveryError as error:
            self._ledger_down_until = time.monotonic() + RETRY
            log.debug("the spool cannot be drained yet: %s", error)

    def _answer(self, answers: Sequence[tuple[Answered, Receipted | Exception]]) -> None:
        if answers and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_deliver, answers)


def _deliver(answers: Sequence[tuple[Answered, Receipted | Exception]]) -> None:
    for done, answer in answers:
        done(answer)
