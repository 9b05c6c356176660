"""The sequence counter of each run that this process emits to.

Owns: when a counter may be trusted, and when the ledger must be asked instead. Pure and bounded: a
forgotten run costs one event that waits for its commit before it is pushed, nothing else.
"""

from __future__ import annotations

from collections import OrderedDict
from weakref import WeakValueDictionary


class Run:
    """One run as this process knows it.

    Attributes:
        counter: the last ``seq`` given in this run, ``None`` while only the ledger knows it.
        outstanding: events of this run that the ledger is numbering now. Until they are back, all
            later ones must queue behind them, or they would overtake on the wire.
    """

    __slots__ = ("__weakref__", "counter", "outstanding")

    def __init__(self) -> None:
        self.counter: int | None = None
        self.outstanding = 0

    def take(self) -> int | None:
        """The next number, for an event that is pushed while it commits; ``None`` when the ledger
        must number it, and it is pushed afterwards."""
        counter = self.counter
        if counter is None or self.outstanding:
            return None
        self.counter = counter + 1
        return self.counter

    def distrust(self) -> None:
        """A number given here was not recorded: let the ledger say where the run stands."""
        self.counter = None

    def on_recorded(self, seq: int | None) -> None:
        """The ledger has numbered a new event; ``None`` when only the spool has it so far."""
        self.counter = None if seq is None else max(seq, self.counter or 0)


class Runs:
    """The runs emitted to most recently, at most ``capacity``, and those that somebody holds: two
    counters of one run would give out a number twice."""

    def __init__(self, capacity: int = 10_000) -> None:
        self._capacity = capacity
        self._recent: OrderedDict[tuple[str, str], Run] = OrderedDict()
        self._held: WeakValueDictionary[tuple[str, str], Run] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._held)

    def of(self, user_id: str, run_id: str) -> Run:
        """The run, new and unknown if this process has not emitted to it lately."""
        key = (user_id, run_id)
        run = self._held.get(key)
        if run is None:
            run = self._held[key] = Run()
        self._recent[key] = run
        self._recent.move_to_end(key)
        if len(self._recent) > self._capacity:
            # Emitters and events under way keep their own reference.
            self._recent.popitem(last=False)
        return run
