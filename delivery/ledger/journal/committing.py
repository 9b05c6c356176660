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
from delivery.domain.operators.outages import Outage, OutageKind, Outages
from delivery.domain.records import Entry, Receipted, Recorded
from delivery.domain.stores.ledger import Ledger
from delivery.errors import DeliveryError, LedgerError, LedgerUnavailable
from delivery.ledger.journal.division import Answer, Division, halves
from delivery.ledger.journal.gathering import Batch
from delivery.ledger.journal.spool import Spool
from delivery.ledger.journal.spool_file import look_aside
from delivery.telemetry import metrics

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


class LedgerAway:
    """Whether the ledger is away, as its user reports, and when to try it again.

    Args:
        ping: raises while the ledger is away.

    Attributes:
        refusal: what the last ping raised, if it did.
    """

    def __init__(self, ping: Callable[[], None]) -> None:
        self.refusal: BaseException | None = None
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
        self.refusal = question.exception()
        return self.refusal is None

    def close(self) -> None:
        """Send no more pings."""
        self._asker.shutdown(wait=False, cancel_futures=True)


logger = logging.getLogger(__name__)

ADOPT_EVERY = 5.0
SPOOLING = "events are accepted into the spool of this node, until the ledger takes them"


class _StillAway(LedgerUnavailable):
    """The ledger was away at the last try, and no ping has succeeded since."""


class Committer:
    """Commits one batch at a time, to the ledger or the spool.

    Attributes:
        commits: batches that reached the ledger.
        set_aside: lines that the spools of this machine could not record, as of the last upkeep.
    """

    def __init__(self, ledger: Ledger, spool: Spool | None) -> None:
        self._ledger = ledger
        self._spool = spool
        self._division = Division(ledger)
        self._outage = LedgerAway(lambda: ledger.ping())
        self._unmatched = UnmatchedConfirmations()
        self._adopt_at = 0.0
        self._logged_reason: str | None = None
        self._cause = ""  # why the ledger was away at the last try
        self._refused: str | None = None  # why the spool refused the last batch; None if it took it
        self.commits = 0
        self.set_aside = 0
        self._spooling = Outages("ledger", time.monotonic)

    @property
    def is_ledger_up(self) -> bool:
        """Whether the last commit reached the ledger."""
        return not self._outage.is_on

    @property
    def refusal(self) -> str | None:
        """Why neither ledger nor spool take an entry, by the last batch; ``None`` if one does."""
        return self._refused if self._outage.is_on else None

    def outages(self) -> list[Outage]:
        """Whether events go to the spool, until it is drained."""
        if not self._outage.is_on and not (self._spool is not None and self._spool.pending_bytes):
            self._spooling.clear()
        return self._spooling.lasting()

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

    def commit_rest(self, batch: Batch) -> None:
        """Write what no caller waits for, after ``answers``. A hand-over that is lost with the
        ledger is made up for by its event's due time."""
        if self._outage.is_on:
            return
        try:
            self._offer_unmatched_confirmations()
            for reason, ids in batch.hand_overs.items():
                self._division.hand_over(ids, reason)
        except LedgerUnavailable as error:
            self._outage.failed()
            logger.warning("hand-overs wait for their due time: %s", error)
        except Exception:
            # The thread must survive any fault.
            logger.exception("journal failed to hand over events, their due times do it")

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
                self.set_aside = look_aside(self._spool.directory).lines
                if self._spool.adopt(self._drained):
                    self.set_aside = look_aside(self._spool.directory).lines
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
        except LedgerUnavailable as error:
            return self._to_spool(entries, batch.confirmations, error)
        left = [n for n, one in enumerate(answers) if isinstance(one, LedgerUnavailable)]
        if left:
            return self._spool_rest(entries, answers, left)
        self._outage.worked()
        self.commits += 1
        return answers

    def _spool_rest(
        self, entries: Sequence[Entry], answers: Sequence[Answer], left: Sequence[int]
    ) -> Sequence[Answer]:
        """Spool the entries of a divided batch that the ledger did not answer, and no other one:
        the spool may refuse, and what is recorded must not be answered as refused."""
        found = list(answers)
        first = found[left[0]]
        error = LedgerUnavailable(str(first), cause=getattr(first, "cause", None))
        spooled = self._to_spool([entries[n] for n in left], (), error)
        for n, answer in zip(left, spooled, strict=True):
            found[n] = answer
        return found

    def _drain(self) -> None:
        """Drain the spool before a new batch: the order of a run and its ids depend on it."""
        if self._spool is None or not self._spool.pending_bytes:
            return
        if not self._outage.may_be_over():
            raise _StillAway("the ledger is still away; events go to the spool")
        drained = self._spool.drain(self._drained)
        self._outage.worked()
        self._logged_reason = None
        self.set_aside = look_aside(self._spool.directory).lines
        logger.warning("the ledger is back: drained %d events from the spool", drained)

    def _drained(
        self, entries: Sequence[Entry], confirmations: Sequence[Confirmation]
    ) -> Sequence[Entry]:
        """Commit a page of a spool; returns the entries that the ledger refuses for good."""
        refused, missed = self._division.drain(entries, confirmations)
        self._unmatched.settle((), missed)
        return refused

    def _record(
        self,
        entries: Sequence[Entry],
        confirmations: Sequence[Confirmation],
    ) -> Sequence[Answer]:
        answers, missed = self._division.record(entries, confirmations)
        self._unmatched.settle((), missed)
        return answers

    def _offer_unmatched_confirmations(self) -> None:
        """Offer unmatched confirmations again: another node may have recorded their events
        meanwhile."""
        due = self._unmatched.due()
        if due:
            self._unmatched.settle(due, self._division.confirm(due))

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
        met = self._outage.refusal if isinstance(error, _StillAway) else error
        if isinstance(met, LedgerUnavailable):
            self._cause = f": {met.cause}" if met.cause else ""
        self._spooling.report(OutageKind.SPOOLING, SPOOLING + self._cause)
        return self._spooled(self._spool, entries, confirmations)

    def _spooled(
        self, spool: Spool, entries: Sequence[Entry], confirmations: Sequence[Confirmation]
    ) -> Sequence[Answer]:
        try:
            spool.append(entries, confirmations)
        except LedgerError as error:
            logger.error("spool refused %d events: %s", len(entries), error)
            self._refused = str(error)
            self._unmatched.settle((), confirmations)
            return [error] * len(entries)
        except Exception as error:
            return self._spooled_divided(spool, entries, confirmations, error)
        self._refused = None
        metrics.spooled.inc(len(entries))
        return [Receipted(entry.event.id, Recorded.NEW, entry.event.seq) for entry in entries]

    def _spooled_divided(
        self,
        spool: Spool,
        entries: Sequence[Entry],
        confirmations: Sequence[Confirmation],
        error: Exception,
    ) -> Sequence[Answer]:
        """Spool a batch with a record that cannot be encoded: only that one is refused."""
        if len(entries) + len(confirmations) == 1:
            logger.error("a record cannot be spooled", exc_info=error)
            return [error] * len(entries)
        answers: list[Answer] = []
        for part in halves(entries):
            answers += self._spooled(spool, part, ())
        for rest in halves(confirmations):
            self._spooled(spool, (), rest)
        return answers
