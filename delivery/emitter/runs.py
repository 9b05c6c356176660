"""Sequence counters of the runs that this process emits to. Pure.

Owns: when a counter is valid, and when the ledger numbers instead. Never does: I/O. Bounded: the
next event of a forgotten run is pushed after its commit, nothing else.
"""

from __future__ import annotations

from collections import OrderedDict
from weakref import WeakValueDictionary


class Run:
    """Counter of one run in this process.

    Attributes:
        counter: the last ``seq`` of this run, ``None`` while only the ledger knows it.
        outstanding: count of events that the ledger is numbering now. Later events wait for them
            in the ledger, too: otherwise they would overtake them on the wire.
    """

    __slots__ = ("__weakref__", "counter", "outstanding")

    def __init__(self) -> None:
        self.counter: int | None = None
        self.outstanding = 0

    def take(self) -> int | None:
        """Take the next number, for an event that is pushed while it commits; ``None`` when the
        ledger must number the event, which is pushed afterwards."""
        counter = self.counter
        if counter is None or self.outstanding:
            return None
        self.counter = counter + 1
        return self.counter

    def distrust(self) -> None:
        """Forget the counter, because a number was not recorded; the ledger numbers next."""
        self.counter = None

    def on_recorded(self, seq: int | None) -> None:
        """Set the counter from an event that the ledger numbered; ``None``: it is in the spool."""
        self.counter = None if seq is None else max(seq, self.counter or 0)


class Runs:
    """The runs used most recently, at most ``capacity``, and those that are referenced elsewhere:
    two counters of one run would give out a number twice."""

    def __init__(self, capacity: int = 10_000) -> None:
        self._capacity = capacity
        self._recent: OrderedDict[tuple[str, str], Run] = OrderedDict()
        self._held: WeakValueDictionary[tuple[str, str], Run] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._held)

    def of(self, user_id: str, run_id: str) -> Run:
        """The run; without a counter if this process has not emitted to it lately."""
        key = (user_id, run_id)
        run = self._held.get(key)
        if run is None:
            run = self._held[key] = Run()
        self._recent[key] = run
        self._recent.move_to_end(key)
        if len(self._recent) > self._capacity:
            # Emitters and entries in the journal keep a reference.
            self._recent.popitem(last=False)
        return run
