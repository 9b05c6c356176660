"""Commits batches: to the ledger, or to the spool while the ledger is away.

Owns: the order (the spool is drained before a new batch), the search for an event that cannot be
recorded, confirmations that came before their events, the spools of ended processes. Runs on the
journal's thread. Never does: collect entries, or call the loop.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from delivery.domain.lifecycle import Confirmation
from delivery.domain.records import Entry, Receipted, Recorded
from delivery.domain.stores import Ledger
from delivery.errors import DeliveryError, LedgerError, LedgerUnavailable
from delivery.ledger.journal.gathering import Batch
from delivery.ledger.journal.spool import Spool

KEEP_UNMATCHED = 60.0
"""Seconds for which a confirmation without an event is kept."""
OFFER_INTERVAL = 1.0
MAX_UNMATCHED = 20_000


class UnmatchedConfirmations:
    """Confirmations whose event is not in the ledger yet. Bounded; for one thread.

    Args:
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        keep: float = KEEP_UNMATCHED,
        limit: int = MAX_UNMATCHED,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keep = keep
        self._limit = limit
        self._clock = clock
        self._until: dict[Confirmation, float] = {}
        self._at = 0.0

    def __len__(self) -> int:
        return len(self._until)

    def due(self) -> list[Confirmation]:
        """Confirmations to offer to the ledger now; none within ``OFFER_INTERVAL`` of the last
        call."""
        now = self._clock()
        if not self._until or now < self._at:
            return []
        self._at = now + OFFER_INTERVAL
        return list(self._until)

    def settle(self, offered: Iterable[Confirmation], missed: Iterable[Confirmation]) -> None:
        """Drop offered confirmations that found their event, and keep the others for a while.

        Args:
            offered: the answer of ``due``.
            missed: confirmations, offered or new, without an event in the ledger.
        """
        now = self._clock()
        again = {
            confirmation: self._until.get(confirmation, now + self._keep) for confirmation in missed
        }
        for confirmation in offered:
            self._until.pop(confirmation, None)
        for confirmation, until in again.items():
            if until > now:
                self._until[confirmation] = until
        while len(self._until) > self._limit:
            del self._until[next(iter(self._until))]  # the oldest first: the least likely to match


RETRY = 1.0
"""Seconds between two pings of a ledger that is away."""


class Outage:
    """Whether the ledger is away, as its user reports, and when to try it again.

    Args:
        ping: raises while the ledger is away.
    """

    def __init__(self, ping: Callable[[], None]) -> None:
        self._ping = ping
        self._asker = ThreadPoolExecutor(1, thread_name_prefix="delivery-ledger-ping")
        self._question: Future[None] | None = None
        self._ask_at: float | None = None

    @property
    def is_on(self) -> bool:
        """Whether the ledger is away, by the last report."""
        return self._ask_at is not None

    def failed(self) -> None:
        """Report that the ledger did not answer."""
        if self._ask_at is None or time.monotonic() >= self._ask_at:
            # A failure before that time does not move it: under load the ping would never start.
            self._ask_at = time.monotonic() + RETRY

    def worked(self) -> None:
        """Report that a call of the ledger succeeded."""
        self._ask_at = None

    def may_be_over(self) -> bool:
        """Whether to try the ledger: it answered the last ping. Never waits."""
        if self._ask_at is None:
            return True
        if self._question is None:
            if time.monotonic() >= self._ask_at:
                self._question = self._asker.submit(self._ping)
            return False
        if not self._question.done():
            return False
        question, self._question = self._question, None
        self._ask_at = time.monotonic() + RETRY
        return question.exception() is None

    def close(self) -> None:
        """Send no more pings."""
        self._asker.shutdown(wait=False, cancel_futures=True)


logger = logging.getLogger(__name__)

ADOPT_EVERY = 5.0

Answer = Receipted | Exception


class _StillAway(LedgerUnavailable):
    """The ledger was away at the last try, and no ping has succeeded since."""


class Committer:
    """Commits one batch at a time, to the ledger or the spool.

    Attributes:
        commits: batches that reached the ledger.
    """

    def __init__(self, ledger: Ledger, spool: Spool | None) -> None:
        self._ledger = ledger
        self._spool = spool
        self._outage = Outage(lambda: ledger.ping())
        self._unmatched = UnmatchedConfirmations()
        self._adopt_at = 0.0
        self._logged_reason: str | None = None
        self._refused: str | None = None  # why the spool refused the last batch; None if it took it
        self.commits = 0

    @property
    def is_ledger_up(self) -> bool:
        """Whether the last commit reached the ledger."""
        return not self._outage.is_on

    @property
    def refusal(self) -> str | None:
        """Why neither ledger nor spool take an entry, by the last batch; ``None`` if one does."""
        return self._refused if self._outage.is_on else None

    @property
    def is_upkeep_due(self) -> bool:
        """Whether the spools of ended processes are due for adoption."""
        return time.monotonic() >= self._adopt_at

    def answers(self, batch: Batch) -> Sequence[Answer]:
        """Commit or spool a batch; one answer per entry, an error if it failed."""
        try:
            return self._commit(batch)
        except Exception as error:
            # The thread must survive any fault, and every entry must get an answer.
            logger.exception("journal failed on a batch of %d entries", len(batch.entries))
            return [error] * len(batch.entries)

    def maintain(self) -> None:
        """Drain the spool, adopt spools of ended processes, offer unmatched confirmations."""
        try:
            if self._outage.is_on and self._outage.may_be_over():
                # A full spool may be empty by now, and no event would find that out: load balancers
                # send none to a gateway that refuses.
                self._outage.worked()
            self._drain()
            self._offer_unmatched_confirmations()
            if self._spool is not None and self.is_upkeep_due:
                self._adopt_at = time.monotonic() + ADOPT_EVERY
                self._spool.adopt(self._drained)
        except DeliveryError as error:
            logger.debug("spool cannot be drained yet: %s", error)
        except Exception:
            # The thread must survive any fault; the next call tries again.
            logger.exception("journal upkeep failed")

    def close(self) -> None:
        """Send no more pings to the ledger."""
        self._outage.close()

    def _commit(self, batch: Batch) -> Sequence[Answer]:
        entries = [entry for entry, _ in batch.entries]
        try:
            self._drain()
            answers = self._record(entries, batch.confirmations)
            self._offer_unmatched_confirmations()
            for reason, ids in batch.hand_overs.items():
                self._ledger.operations.hand_over(ids, reason)
        except LedgerUnavailable as error:
            return self._to_spool(entries, batch.confirmations, error)
        self._outage.worked()
        self.commits += 1
        return answers

    def _drain(self) -> None:
        """Drain the spool before a new batch: the order of a run and its ids depend on it."""
        if self._spool is None or not self._spool.pending_bytes:
            return
        if not self._outage.may_be_over():
            raise _StillAway("the ledger is still away; events go to the spool")
        drained = self._spool.drain(self._drained)
        self._outage.worked()
        self._logged_reason = None
        logger.warning("the ledger is back: drained %d events from the spool", drained)

    def _drained(self, entries: Sequence[Entry], confirmations: Sequence[Confirmation]) -> None:
        """Commit a page of a spool, and set aside entries that the ledger refuses for good."""
        answers = self._record(entries, confirmations, drained=True)
        refused = [
            entry
            for entry, answer in zip(entries, answers, strict=True)
            if isinstance(answer, Exception)
        ]
        if refused and self._spool is not None:
            self._spool.set_aside(refused)

    def _record(
        self,
        entries: Sequence[Entry],
        confirmations: Sequence[Confirmation],
        *,
        drained: bool = False,
    ) -> list[Answer]:
        """Commit as one; when the batch is refused, one by one, to isolate the entry at fault."""
        if not entries and not confirmations:
            return []
        missed: list[Confirmation] = []
        try:
            answers: list[Answer] = list(
                self._ledger.recording.commit(
                    entries, confirmations, drained=drained, missed=missed
                )
            )
            self._unmatched.settle((), missed)
            return answers
        except LedgerUnavailable:
            raise
        except Exception:
            logger.exception(
                "ledger refused a batch of %d events; committing one by one", len(entries)
            )
        answers = []
        for entry in entries:
            try:
                answers.extend(self._ledger.recording.commit([entry], drained=drained))
            except LedgerUnavailable:
                raise
            except Exception as error:
                logger.exception("event %s cannot be recorded", entry.event.id)
                answers.append(error)
        if confirmations:
            self._ledger.confirmations.confirm(confirmations)
        return answers

    def _offer_unmatched_confirmations(self) -> None:
        """Offer unmatched confirmations again: another node may have recorded their events
        meanwhile."""
        due = self._unmatched.due()
        if due:
            unknown = set(self._ledger.confirmations.confirm(due).unknown)
            self._unmatched.settle(
                due, [confirmation for confirmation in due if confirmation.event_id in unknown]
            )

    def _to_spool(
        self,
        entries: Sequence[Entry],
        confirmations: Sequence[Confirmation],
        error: LedgerUnavailable,
    ) -> Sequence[Answer]:
        if self._spool is None:
            return [error] * len(entries)
        if not isinstance(error, _StillAway) and str(error) != self._logged_reason:
            self._logged_reason = str(error)
            logger.error("%s; events go to the spool until it is back", error)
        self._outage.failed()
        try:
            self._spool.append(entries, confirmations)
        except LedgerError as refused:
            logger.error("spool refused %d events: %s", len(entries), refused)
            self._refused = str(refused)
            return [refused] * len(entries)
        self._refused = None
        return [Receipted(entry.event.id, Recorded.NEW, entry.event.seq) for entry in entries]
