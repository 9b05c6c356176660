"""Batches that the ledger refuses, divided until what is at fault is alone.

Owns: the rule that one record never costs another one. Never does: choose between ledger and spool;
``LedgerUnavailable`` passes through everything here.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from delivery.domain.lifecycle import Confirmation
from delivery.domain.records import Entry, Receipted
from delivery.domain.stores.ledger import Ledger
from delivery.errors import LedgerUnavailable

logger = logging.getLogger(__name__)

T = TypeVar("T")
Answer = Receipted | Exception


class Division:
    """Writes to a ledger; whatever it refuses is written in halves, and in halves of these."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def record(
        self,
        entries: Sequence[Entry],
        confirmations: Sequence[Confirmation] = (),
        *,
        drained: bool = False,
    ) -> tuple[list[Answer], list[Confirmation]]:
        """Commit entries and confirmations.

        Returns:
            One answer per entry, and the confirmations without an event in the ledger. While a
            refused batch is divided the ledger may go away: that is the answer of those entries
            that were not committed.

        Raises:
            LedgerUnavailable: nothing was committed.
        """
        if not entries and not confirmations:
            return [], []
        missed: list[Confirmation] = []
        try:
            receipts = self._ledger.recording.commit(
                entries, confirmations, drained=drained, missed=missed
            )
            return list(receipts), missed
        except LedgerUnavailable:
            raise
        except Exception:
            counts = len(entries), len(confirmations)
            logger.exception("ledger refused a batch of %d events, %d confirmations", *counts)
        answers = self._entries(entries, drained=drained)
        try:
            return answers, self.confirm(confirmations)
        except LedgerUnavailable as error:
            logger.warning("%d confirmations wait for the ledger: %s", len(confirmations), error)
            return answers, list(confirmations)

    def drain(
        self, entries: Sequence[Entry], confirmations: Sequence[Confirmation]
    ) -> tuple[list[Entry], list[Confirmation]]:
        """Commit a page of a spool.

        Returns:
            The entries that the ledger refuses for good, and the confirmations without an event.

        Raises:
            LedgerUnavailable: some may be committed; the ledger recognizes a repetition.
        """
        answers, missed = self.record(entries, confirmations, drained=True)
        refused = []
        for entry, answer in zip(entries, answers, strict=True):
            if isinstance(answer, LedgerUnavailable):
                raise answer
            if isinstance(answer, Exception):
                refused.append(entry)
        return refused, missed

    def confirm(self, confirmations: Sequence[Confirmation]) -> list[Confirmation]:
        """Write confirmations; one that is refused alone is dropped, and its event stays open.

        Returns:
            Those without an event in the ledger.
        """
        if not confirmations:
            return []
        try:
            unknown = set(self._ledger.confirmations.confirm(confirmations).unknown)
            return [one for one in confirmations if one.event_id in unknown]
        except LedgerUnavailable:
            raise
        except Exception:
            if len(confirmations) == 1:
                name = confirmations[0].event_id[:64]
                logger.exception("the confirmation of event %r cannot be recorded", name)
                return []
        return [one for half in halves(confirmations) for one in self.confirm(half)]

    def hand_over(self, ids: Sequence[str], reason: str) -> None:
        """Hand events over; one that is refused alone waits for its due time."""
        try:
            self._ledger.operations.hand_over(ids, reason)
        except LedgerUnavailable:
            raise
        except Exception:
            if len(ids) == 1:
                logger.exception("event %r cannot be handed over", ids[0][:64])
                return
            for half in halves(ids):
                self.hand_over(half, reason)

    def _entries(self, entries: Sequence[Entry], *, drained: bool) -> list[Answer]:
        if not entries:
            return []
        try:
            return list(self._ledger.recording.commit(entries, drained=drained))
        except LedgerUnavailable as error:
            return [error] * len(entries)
        except Exception as error:
            if len(entries) == 1:
                return [self._bare(entries[0], error, drained=drained)]
        answers: list[Answer] = []
        for half in halves(entries):
            if answers and isinstance(answers[-1], LedgerUnavailable):
                answers += [answers[-1]] * len(half)
            else:
                answers += self._entries(half, drained=drained)
        return answers

    def _bare(self, entry: Entry, fault: Exception, *, drained: bool) -> Answer:
        """Commit an entry without what was added to it while it waited: that may be at fault, too,
        and must not cost the event. Its chain starts at once: a needless message is the safe
        side."""
        if entry.confirmations or entry.pushes:
            bare = msgspec.structs.replace(
                entry, confirmations=[], pushes=[], sent=False, hand_over=True
            )
            try:
                [receipt] = self._ledger.recording.commit([bare], drained=drained)
                logger.error("event %s: its attempts were refused", entry.event.id, exc_info=fault)
                return receipt
            except LedgerUnavailable as error:
                return error
            except Exception as error:
                fault = error
        logger.error("event %s cannot be recorded", entry.event.id, exc_info=fault)
        return fault


def halves(items: Sequence[T]) -> list[Sequence[T]]:
    """The items in two parts, in order; one part of a single item."""
    middle = len(items) // 2
    return [part for part in (items[:middle], items[middle:]) if part]
