"""The journal's next transaction while it grows, and how much of it is ripe.

Owns: the order of entries, and the match of confirmations and hand-overs to entries that are not
committed yet. Runs on the loop's thread. Never does: commit, or read a clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from delivery.domain.lifecycle import Confirmation, Outcome
from delivery.domain.ports import Answered
from delivery.domain.records import Entry


@dataclass(slots=True)
class Batch:
    """The contents of one transaction, passed to the journal's thread as a whole."""

    entries: list[tuple[Entry, Answered]] = field(default_factory=list)
    confirmations: list[Confirmation] = field(default_factory=list)
    hand_overs: dict[str, list[str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.entries or self.confirmations or self.hand_overs)


class Gathering:
    """Entries in order of submission, with the confirmations and hand-overs that came before their
    commit.

    An entry that was sent on a socket of this node may wait for its confirmation, which is then
    inserted with it, at a fraction of the cost of an update. It is *ripe* once it has its
    confirmation, is not awaited, or has waited for long enough; a batch is a ripe prefix, so that
    no entry overtakes another within a run. Confirmations of committed events are collected for
    longer: no caller waits for them, and writing one costs as much as writing many.

    Attributes:
        awaited: count of entries that were sent on a socket of this node, confirmed or not.
    """

    def __init__(self) -> None:
        self._entries: list[tuple[Entry, Answered]] = []
        self._by_id: dict[str, Entry] = {}
        self._confirmations: list[Confirmation] = []
        self._hand_overs: dict[str, list[str]] = {}
        self._ripe = 0
        self._marks: deque[tuple[float, int]] = deque()
        self._marked = 0
        self._confirmations_at: float | None = None
        self.awaited = 0

    def __bool__(self) -> bool:
        return bool(self._entries or self._confirmations or self._hand_overs)

    def add(self, entry: Entry, answered: Answered) -> None:
        """Append one entry."""
        self._entries.append((entry, answered))
        self._by_id.setdefault(entry.event.id, entry)
        self.awaited += entry.awaited

    def confirm(self, confirmations: Sequence[Confirmation]) -> None:
        """Attach each confirmation to its entry, or queue it if the entry is not here."""
        by_id = self._by_id
        for confirmation in confirmations:
            entry = by_id.get(confirmation.event_id)
            if entry is not None and entry.event.user_id == confirmation.user_id:
                entry.confirmations.append(confirmation)
            else:
                self._confirmations.append(confirmation)

    def hand_over(self, event_id: str, reason: str) -> None:
        """Hand an event over: in its insert if its entry is here, else queued."""
        entry = self._by_id.get(event_id)
        if entry is None:
            self._hand_overs.setdefault(reason, []).append(event_id)
            return
        self.awaited -= entry.awaited
        entry.sent = entry.awaited = False
        entry.hand_over = True
        entry.pushes.append((Outcome.FAILED, reason))

    def mark(self, now: float) -> None:
        """Date everything since the last mark to ``now``."""
        fresh = len(self._entries) - self._marked
        if fresh:
            self._marks.append((now, fresh))
            self._marked += fresh
        if self._confirmations and self._confirmations_at is None:
            self._confirmations_at = now

    @property
    def oldest(self) -> float | None:
        """When the first entry was marked."""
        return self._marks[0][0] if self._marks else None

    @property
    def late(self) -> int:
        """Count of confirmations without an entry."""
        return len(self._confirmations)

    @property
    def oldest_confirmation(self) -> float | None:
        """When the first of the confirmations without an entry was marked."""
        return self._confirmations_at

    def cut(self, ripe_since: float, limit: int, *, confirmations_since: float) -> Batch | None:
        """Take out the ripe prefix; ``None`` when nothing is ripe, or its first entry came after
        ``ripe_since`` and the rest may still get ripe. You must call ``mark`` before.

        Args:
            ripe_since: entries marked until then have waited for long enough.
            limit: entries in one batch.
            confirmations_since: the same for confirmations of committed events.
        """
        size = self._count_ripe(ripe_since)
        if size < len(self._entries) and self._marks[0][0] > ripe_since:
            size = 0
        size = min(size, limit)
        has_confirmations = (
            self._confirmations_at is not None and self._confirmations_at <= confirmations_since
        )
        if not (size or has_confirmations or self._hand_overs):
            return None
        batch = Batch(self._entries[:size])
        del self._entries[:size]
        for entry, _ in batch.entries:
            self._by_id.pop(entry.event.id, None)
            self.awaited -= entry.awaited
        self._forget_marks(size)
        if has_confirmations:
            batch.confirmations, self._confirmations = self._confirmations, []
            self._confirmations_at = None
        batch.hand_overs, self._hand_overs = self._hand_overs, {}
        return batch

    def _count_ripe(self, ripe_since: float) -> int:
        """Length of the ripe prefix; an entry stays ripe, so the count continues from the last."""
        old = 0
        for at, count in self._marks:
            if at > ripe_since:
                break
            old += count
        entries = self._entries
        ripe = max(self._ripe, old)
        end = len(entries)
        while ripe < end:
            entry = entries[ripe][0]
            if entry.awaited and not entry.confirmations:
                break
            ripe += 1
        self._ripe = ripe
        return ripe

    def _forget_marks(self, size: int) -> None:
        self._ripe -= size
        self._marked -= size
        while size and self._marks:
            at, count = self._marks.popleft()
            if count > size:
                self._marks.appendleft((at, count - size))
            size -= min(size, count)
