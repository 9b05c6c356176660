"""The journal's timer on a loop whose handles have no ``when``, as uvloop's for a past instant."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from delivery.domain.lifecycle import Confirmation
from delivery.domain.records import Entry
from delivery.ledger.journal.journal import JournalThread
from delivery.testing import make_event


class SilentHandle:
    """A handle without ``when``."""

    def cancel(self) -> None:
        """Does nothing: no callback runs by itself here."""


class HandWoundLoop:
    """Runs the callbacks of the turn's end on demand."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], Any]] = []
        self.timers: list[float] = []

    def time(self) -> float:
        return 100.0

    def call_soon(self, call: Callable[[], Any]) -> None:
        self.soon.append(call)

    def call_at(self, at: float, _call: Callable[[], Any]) -> SilentHandle:
        self.timers.append(at)
        return SilentHandle()

    def is_closed(self) -> bool:
        return True

    def turn(self) -> None:
        soon, self.soon = self.soon, []
        for call in soon:
            call()


@pytest.fixture
def loop() -> HandWoundLoop:
    return HandWoundLoop()


@pytest.fixture
def journal(loop: HandWoundLoop) -> Iterator[JournalThread]:
    thread = JournalThread(None)  # type: ignore[arg-type]
    thread.start(loop)  # type: ignore[arg-type]
    yield thread
    thread._inbox.put(None)
    thread._thread.join(5)


def test_a_second_offer_does_not_read_the_handles_time(
    journal: JournalThread, loop: HandWoundLoop
) -> None:
    loop.turn()
    event = make_event()
    entry = Entry(event, 5.0, 600.0, sent=True, awaited=True)
    journal.submit(entry, lambda *_: None)
    loop.turn()
    journal.confirm([Confirmation("another", event.user_id, "websocket", "ada", "c1")])
    loop.turn()
    assert len(loop.timers) == 1, "the first timer is earlier and stays"
