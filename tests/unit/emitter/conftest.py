"""One emitter core on fakes, as most tests of this room need it."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from delivery.emitter.emitter import EmitterCore
from delivery.emitter.receipts import Receipts
from delivery.testing import (
    FakeClock,
    FakeIds,
    FakePush,
    ManualJournal,
    MemoryLedger,
    make_entry,
    make_event,
    make_id,
    make_policies,
)


class World:
    """A core with its fakes at hand."""

    def __init__(self, policies: Any = None, **options: Any) -> None:
        loop = asyncio.get_running_loop()
        self.clock = FakeClock()
        self.journal = ManualJournal(MemoryLedger(self.clock))
        self.push = FakePush()
        self.hints = 0
        self.confirmed_in_ledger: set[str] = set()
        self.receipts = Receipts(self._is_confirmed)
        self.core = EmitterCore(
            policies or make_policies(),
            self.journal,
            self.push,
            utcnow=self.clock.utcnow,
            new_id=FakeIds(),
            receipts=self.receipts,
            on_hand_over=self._on_hand_over,
            jitter=lambda: 0.5,
            **options,
        )
        self.core.start(loop)
        self.emitter = self.core.emitter("u1", "r1")

    def _on_hand_over(self) -> None:
        self.hints += 1

    async def _is_confirmed(self, event_id: str) -> bool:
        return event_id in self.confirmed_in_ledger

    def record_before(self, seq: int) -> None:
        """Another process has recorded an event of the run; its number is ``seq``."""
        entry = make_entry(make_event(id=make_id(0xFFFF), seq=seq))
        self.journal.ledger.recording.commit([entry])

    async def know_run(self) -> None:
        """Make the run's counter known: its first event goes through the ledger."""
        self.emitter.emit_nowait("note", {"first": True})
        self.journal.commit()
        self.push.pushed.clear()

    @property
    def pushed_seqs(self) -> list[int | None]:
        return [event.seq for event in self.push.pushed]


@pytest.fixture
async def world() -> World:
    return World()


@pytest.fixture
def make_world() -> Callable[..., World]:
    """Must be called inside a test that runs on a loop."""
    return World
