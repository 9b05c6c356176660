"""What one transaction of the journal takes: entries, proofs and hand-overs that gathered."""

from __future__ import annotations

from delivery.domain.lifecycle import Confirmation
from delivery.domain.ports import Answered
from delivery.domain.records import Entry


class Batch:
    """Gathers on the loop's thread, is committed on the journal's; never both at once."""

    __slots__ = ("by_id", "entries", "hand_overs", "proofs")

    def __init__(self) -> None:
        self.entries: list[tuple[Entry, Answered]] = []
        self.by_id: dict[str, Entry] = {}
        self.proofs: list[Confirmation] = []
        self.hand_overs: dict[str, list[str]] = {}

    def __bool__(self) -> bool:
        return bool(self.entries or self.proofs or self.hand_overs)

    def split(self, limit: int) -> Batch:
        """Cut off what is over ``limit`` entries, with everything that may refer to it."""
        rest = Batch()
        rest.entries = self.entries[limit:]
        del self.entries[limit:]
        for entry, _ in rest.entries:
            rest.by_id.setdefault(entry.event.id, entry)
        rest.proofs, self.proofs = self.proofs, []
        rest.hand_overs, self.hand_overs = self.hand_overs, {}
        return rest
