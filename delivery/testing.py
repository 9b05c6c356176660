"""A ledger and a bus in memory, fakes of the small ports, and builders: for tests.

Owns: nothing in production: import-linter keeps this module out of it. The ledger and the bus are
the real ones without a file and a network; nothing happens until a test says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import msgspec

from delivery.bus.in_process import LocalBus as MemoryBus
from delivery.bus.in_process import LocalHub as MemoryHub
from delivery.domain.event import Event, EventClass
from delivery.domain.lifecycle import Confirmation
from delivery.domain.limits import DEFAULT_TTL
from delivery.domain.policy import Policies, parse_policies
from delivery.domain.ports import Answered, Pushed
from delivery.domain.records import Entry, Receipted, Recorded
from delivery.errors import Overloaded
from delivery.ledger import SqlLedger
from delivery.ledger.sql.memory import MemoryDatabase

__all__ = [
    "START",
    "FakeClock",
    "FakeIds",
    "FakePush",
    "ManualJournal",
    "MemoryBus",
    "MemoryHub",
    "MemoryLedger",
    "make_entry",
    "make_event",
    "make_id",
    "make_policies",
]

START = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


def make_id(number: int = 1) -> str:
    """A valid UUIDv7 that shows its number: tests read ``make_id(3)``, logs end in ``…003``."""
    return f"01900000-0000-7000-8000-{number:012x}"


def make_event(**changes: Any) -> Event:
    """A standard event of user ``u1``, run ``r1``; any field can be given."""
    plain = Event.of(
        id=make_id(),
        type="note",
        user_id="u1",
        run_id="r1",
        seq=1,
        at=START,
        event_class=EventClass.STANDARD,
        data={"text": "hello"},
    )
    return plain.evolve(**changes)


def make_entry(event: Event | None = None, **changes: Any) -> Entry:
    """An entry around ``event`` with an ack timeout of 5 s and a time to live of 3 days."""
    plain = Entry(event or make_event(), ack_timeout=5.0, ttl=DEFAULT_TTL)
    return msgspec.structs.replace(plain, **changes)


def make_policies(**classes: Mapping[str, Any]) -> Policies:
    """Policies from ``class.*`` tables, e.g. ``make_policies(standard={"linger": 0.05})``.

    ``progress`` is ephemeral unless the test says otherwise.
    """
    tables: dict[str, Any] = {"ephemeral": {"types": ["progress"]}}
    return parse_policies({"class": tables | classes}, source="test")


class FakeClock:
    """A clock that only ``advance`` moves; both UTC and monotonic."""

    def __init__(self, start: datetime = START) -> None:
        self._now = start

    def utcnow(self) -> datetime:
        """The instant as aware UTC."""
        return self._now

    def monotonic(self) -> float:
        """Seconds since the fake's start."""
        return (self._now - START).total_seconds()

    def advance(self, seconds: float) -> None:
        """Move the time ahead."""
        self._now += timedelta(seconds=seconds)


class MemoryLedger(SqlLedger):
    """The real ledger on a database in memory, whose time only the test moves.

    All stores, all rules and all SQL are those of the ledger on SQLite.

    Args:
        clock: tells the time; its own from ``START`` on when left out.
    """

    def __init__(self, clock: FakeClock | None = None) -> None:
        self.clock = clock or FakeClock()
        self._memory = MemoryDatabase(self.clock.utcnow)
        self._open(self._memory)

    @property
    def is_away(self) -> bool:
        """Whether every call raises ``LedgerUnavailable``."""
        return self._memory.is_away

    def go_away(self) -> None:
        """From now on the database cannot be reached."""
        self._memory.is_away = True

    def come_back(self) -> None:
        """The database can be reached again; nothing was lost."""
        self._memory.is_away = False

    def advance(self, seconds: float) -> None:
        """Move the time ahead."""
        self.clock.advance(seconds)


class FakeIds:
    """``make_id(1)``, ``make_id(2)``, …"""

    def __init__(self, first: int = 1) -> None:
        self._numbers = count(first)

    def __call__(self) -> str:
        return make_id(next(self._numbers))


class ManualJournal:
    """A journal that commits to its ledger when it is told to.

    Attributes:
        ledger: what it commits to; one in memory of its own when none is given.
        entries: submitted and not yet committed, in order.
        committed: the entries of which the ledger recorded a new event, in order.
        hand_overs: ``(id, reason)`` in order; confirmations likewise. Neither is recorded.
        is_spooling: the ledger is away: events are taken, and none is numbered or recorded.
        auto: commit at once, inside ``submit``.
    """

    def __init__(
        self, ledger: MemoryLedger | None = None, *, auto: bool = False, max_pending: int = 1_000
    ) -> None:
        self.ledger = ledger or MemoryLedger()
        self.entries: list[tuple[Entry, Answered]] = []
        self.committed: list[Entry] = []
        self.hand_overs: list[tuple[str, str]] = []
        self.confirmations: list[Confirmation] = []
        self.is_spooling = False
        self.auto = auto
        self.max_pending = max_pending

    @property
    def backlog(self) -> int:
        """Entries not committed yet."""
        return len(self.entries)

    @property
    def refusal(self) -> str | None:
        """See the port."""
        return "the manual journal is full" if len(self.entries) >= self.max_pending else None

    @property
    def set_aside(self) -> int:
        """See the port."""
        return 0

    def submit(self, entry: Entry, answered: Answered) -> None:
        """See the port."""
        if len(self.entries) >= self.max_pending:
            raise Overloaded("the manual journal is full")
        self.entries.append((entry, answered))
        if self.auto:
            self.commit()

    def commit(self, limit: int | None = None) -> None:
        """Commit what was submitted (the first ``limit``), answering in order."""
        batch, self.entries = self.entries[:limit], self.entries[len(self.entries[:limit]) :]
        answers = self._record([entry for entry, _ in batch])
        for (entry, answered), answer in zip(batch, answers, strict=True):
            if answer.outcome is Recorded.NEW:
                self.committed.append(entry)
            answered(entry, answer)

    def fail(self, error: Exception) -> None:
        """Answer everything submitted with an error; nothing is recorded."""
        batch, self.entries = self.entries, []
        for entry, answered in batch:
            answered(entry, error)

    def _record(self, entries: Sequence[Entry]) -> list[Receipted]:
        if self.is_spooling:
            return [Receipted(one.event.id, Recorded.NEW, one.event.seq) for one in entries]
        return self.ledger.recording.commit(entries)

    def confirm(self, confirmations: Sequence[Confirmation]) -> None:
        """See the port."""
        self.confirmations.extend(confirmations)

    def hand_over(self, event_id: str, reason: str) -> None:
        """See the port."""
        self.hand_overs.append((event_id, reason))

    async def flush(self, timeout: float = 10.0) -> None:
        """Commits."""
        self.commit()


class FakePush:
    """Records pushed events and gives the prepared answers.

    Attributes:
        answers: used up first, one per push; ``answer`` afterwards.
        absent: users without a connection.
        waiting: ids of events that wait for their user, and whether they were recorded.
    """

    def __init__(self, connections: int = 1) -> None:
        self.pushed: list[Event] = []
        self.encoded: list[bytes] = []
        self.answers: list[Pushed | Exception] = []
        self.answer = Pushed(connections, None if connections else "nobody connected")
        self.score = 100
        self.absent: set[str] = set()
        self.waiting: list[tuple[str, bool]] = []

    def is_absent(self, user_id: str) -> bool:
        """See the port."""
        return user_id in self.absent

    def keep_waiting(self, event: Event, *, is_recorded: bool) -> None:
        """See the port."""
        self.waiting.append((event.id, is_recorded))

    def health(self, user_id: str) -> int:
        """See the port; the same for every user."""
        return self.score

    def push(self, event: Event, encoded: bytes) -> Pushed:
        """See the port."""
        self.pushed.append(event)
        self.encoded.append(encoded)
        answer = self.answers.pop(0) if self.answers else self.answer
        if isinstance(answer, Exception):
            raise answer
        return answer
