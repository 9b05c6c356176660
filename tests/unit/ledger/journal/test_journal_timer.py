"""The journal's timer on a loop whose handles have no ``when``, as uvloop's for a past instant."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from delivery.domain.lifecycle import Confirmation
from delivery.domain.records import Entry
from delivery.ledger.journal.journal import JournalThread
from delivery.testing import make_event, make_id


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


@pytest.mark.parametrize(("events", "wait"), [(1, 0.005), (100, 0.04), (1_000, 0.1)])
def test_entries_wait_longer_for_their_confirmations_the_more_events_there_are(
    journal: JournalThread, loop: HandWoundLoop, events: int, wait: float
) -> None:
    for number in range(events):
        event = make_event(id=make_id(number))
        journal.submit(Entry(event, 5.0, 600.0, sent=True, awaited=True), lambda *_: None)
    loop.turn()
    assert loop.timers == pytest.approx([100.0 + wait])


def test_many_events_that_are_not_on_a_socket_make_none_wait(
    journal: JournalThread, loop: HandWoundLoop
) -> None:
    first = make_event(id=make_id(1_000))
    journal.submit(Entry(first, 5.0, 600.0, sent=True, awaited=True), lambda *_: None)
    for number in range(500):
        event = make_event(id=make_id(number))
        journal.submit(Entry(event, 5.0, 600.0), lambda *_: None)
    loop.turn()
    assert loop.timers == pytest.approx([100.005])
