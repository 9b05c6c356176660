"""What becomes of a batch: the ledger, or the spool while that is away, and what comes back later.

Owns: the order (what waits in the spool goes first), the search for an event that cannot be
recorded, proofs that came before their events, the spools of the dead. Belongs to the journal's
thread. Never does: gather, or speak to the loop.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from delivery.domain.lifecycle import Confirmation
from delivery.domain.records import Entry, Receipted, Recorded
from delivery.domain.stores import Ledger
from delivery.errors import DeliveryError, LedgerError, LedgerUnavailable
from delivery.ledger.journal.early_confirmations import EarlyProofs
from delivery.ledger.journal.gathering import Batch
from delivery.ledger.journal.outage import Outage
from delivery.ledger.journal.spool import Spool

log = logging.getLogger(__name__)

ADOPT_EVERY = 5.0

Answer = Receipted | Exception


class _StillAway(LedgerUnavailable):
    """Nobody asked again: it was away a moment ago."""


class Committer:
    """Takes one batch at a time.

    Attributes:
        commits: batches that reached the ledger.
    """

    def __init__(self, ledger: Ledger, spool: Spool | None) -> None:
        self._ledger = ledger
        self._spool = spool
        self._outage = Outage(lambda: ledger.ping())
        self._early = EarlyProofs()
        self._adopt_at = 0.0
        self._told: str | None = None  # why the ledger is away, as it was logged last
        self.commits = 0

    @property
    def is_ledger_up(self) -> bool:
        """Whether the last commit reached the ledger."""
        return not self._outage.is_on

    @property
    def is_upkeep_due(self) -> bool:
        """Whether nobody has looked after the spools of the dead for long."""
        return time.monotonic() >= self._adopt_at

    def answers(self, batch: Batch) -> Sequence[Answer]:
        """Commit or spool a batch; one answer per entry, whatever happens."""
        try:
            return self._commit(batch)
        except Exception as error:
            # The thread must outlive any fault, and nobody may wait for ever for an answer.
            log.exception("the journal failed on a batch of %d", len(batch.entries))
            return [error] * len(batch.entries)

    def maintain(self) -> None:
        """Between batches: drain the own spool, adopt those of the dead, offer early proofs."""
        try:
            self._drain()
            self._offer_early_proofs()
            if self._spool is not None and self.is_upkeep_due:
                self._adopt_at = time.monotonic() + ADOPT_EVERY
                self._spool.adopt(self._drained)
        except DeliveryError as error:
            log.debug("the spool cannot be drained yet: %s", error)
        except Exception:
            # The thread must outlive any fault; the next round tries again.
            log.exception("the journal's upkeep failed")

    def close(self) -> None:
        """Ask no more whether the ledger is back."""
        self._outage.close()

    def _commit(self, batch: Batch) -> Sequence[Answer]:
        entries = [entry for entry, _ in batch.entries]
        try:
            self._drain()
            answers = self._record(entries, batch.proofs)
            self._offer_early_proofs()
            for reason, ids in batch.hand_overs.items():
                self._ledger.events.hand_over(ids, reason)
        except LedgerUnavailable as error:
            return self._to_spool(entries, batch.proofs, error)
        self._outage.worked()
        self.commits += 1
        return answers

    def _drain(self) -> None:
        """What waits in the spool goes first: order within a run, and ids, depend on it."""
        if self._spool is None or not self._spool.pending_bytes:
            return
        if not self._outage.may_be_over():
            raise _StillAway("the ledger was away a moment ago; spooling")
        drained = self._spool.drain(self._drained)
        self._outage.worked()
        self._told = None
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
        self, entries: Sequence[Entry], proofs: Sequence[Confirmation], error: LedgerUnavailable
    ) -> Sequence[Answer]:
        if self._spool is None:
            return [error] * len(entries)
        if not isinstance(error, _StillAway) and str(error) != self._told:
            self._told = str(error)
            log.error("%s; events go to the spool until it is back", error)
        self._outage.failed()
        try:
            self._spool.append(entries, proofs)
        except LedgerError as refused:
            log.error("the spool refused %d events: %s", len(entries), refused)
            return [refused] * len(entries)
        return [Receipted(entry.event.id, Recorded.NEW, entry.event.seq) for entry in entries]
