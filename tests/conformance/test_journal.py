"""The journal on a real ledger: batches, answers, spooling, and the return of the ledger."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import uuid_utils

from delivery.domain.event import EventClass
from delivery.domain.lifecycle import Confirmation, State
from delivery.domain.records import Entry, Receipted, Recorded
from delivery.errors import LedgerUnavailable, Overloaded, SpoolFull
from delivery.ledger import SqlLedger
from delivery.ledger.journal.journal import JournalThread
from delivery.ledger.journal.spool import Spool
from delivery.testing import make_entry, make_event
from tests.waiting import until


def entry(run: str = "run", **changes: Any) -> Entry:
    event = make_event(
        id=str(uuid_utils.uuid7()),
        type="agent_started",
        user_id="ada",
        run_id=run,
        seq=changes.pop("seq", None),
        at=datetime.now(UTC),
        event_class=EventClass.CRITICAL,
        data=changes.pop("data", {}),
    )
    return make_entry(event, ack_timeout=5.0, ttl=600.0, **changes)


def confirmation(one: Entry) -> Confirmation:
    return Confirmation(one.event.id, "ada", "websocket", "ada", "c1")


class Outage:
    """The real recording store, which a test can switch off."""

    def __init__(self, ledger: SqlLedger) -> None:
        self._recording = ledger.recording
        self.is_away = False
        self.refused_ids: set[str] = set()
        self.batches: list[int] = []

    def commit(
        self, entries: Sequence[Entry], confirmations: Sequence[Confirmation] = (), **options: Any
    ) -> list[Receipted]:
        if self.is_away:
            raise LedgerUnavailable("switched off")
        if any(e.event.id in self.refused_ids for e in entries):
            raise ValueError("poison")
        self.batches.append(len(entries))
        return self._recording.commit(entries, confirmations, **options)


@pytest_asyncio.fixture
async def journal(ledger: SqlLedger, tmp_path: Path) -> AsyncIterator[JournalThread]:
    ledger.recording = Outage(ledger)  # type: ignore[assignment]
    spool = Spool(tmp_path / "spool", "node")
    thread = JournalThread(ledger, spool=spool, max_pending=1_000)
    thread.start(asyncio.get_running_loop())
    yield thread
    await thread.stop()
    spool.close()


def submit(journal: JournalThread, one: Entry) -> asyncio.Future[Receipted]:
    future: asyncio.Future[Receipted] = asyncio.get_running_loop().create_future()

    def answered(_: Entry, answer: Receipted | Exception) -> None:
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)

    journal.submit(one, answered)
    return future


async def test_an_answer_comes_when_the_event_is_in_the_ledger(
    journal: JournalThread, ledger: SqlLedger
) -> None:
    one = entry()
    answer = await asyncio.wait_for(submit(journal, one), 10)
    assert answer == Receipted(one.event.id, Recorded.NEW, 1)
    assert ledger.events.get(one.event.id) is not None


async def test_entries_that_come_during_a_commit_are_one_batch(
    journal: JournalThread, ledger: SqlLedger
) -> None:
    answers = await asyncio.wait_for(
        asyncio.gather(*(submit(journal, entry()) for _ in range(500))), 20
    )
    assert [a.seq for a in answers] == list(range(1, 501))
    assert journal.commits < 50


async def test_a_confirmation_finds_its_event_before_and_after_the_commit(
    journal: JournalThread, ledger: SqlLedger
) -> None:
    early, late = entry(seq=1, sent=True), entry(seq=2, sent=True)
    pending = submit(journal, early)
    journal.confirm([confirmation(early)])
    await asyncio.wait_for(pending, 10)
    await asyncio.wait_for(submit(journal, late), 10)
    journal.confirm([confirmation(late)])
    await journal.flush()
    states = [one.state for one in ledger.events.read([early.event.id, late.event.id])]
    assert states == [State.CONFIRMED, State.CONFIRMED]


async def test_a_confirmation_finds_the_event_that_another_node_records_later(
    journal: JournalThread, ledger: SqlLedger
) -> None:
    theirs = entry("theirs")
    journal.confirm([confirmation(theirs)])
    await journal.flush()
    ledger.recording.commit([theirs])

    async def is_confirmed() -> bool:
        return ledger.events.read([theirs.event.id])[0].state is State.CONFIRMED

    await until(is_confirmed)


async def test_a_hand_over_follows_its_insert(journal: JournalThread, ledger: SqlLedger) -> None:
    one = entry()
    pending = submit(journal, one)
    journal.hand_over(one.event.id, "nobody connected")
    await asyncio.wait_for(pending, 10)
    await journal.flush()
    [stored] = ledger.events.read([one.event.id])
    assert stored.state is State.FALLING_BACK


async def test_events_of_an_outage_are_spooled_and_arrive_in_order_afterwards(
    journal: JournalThread, ledger: SqlLedger
) -> None:
    outage: Any = ledger.recording
    outage.is_away = True
    entries = [entry(seq=number) for number in range(1, 51)]
    answers = await asyncio.wait_for(asyncio.gather(*(submit(journal, e) for e in entries)), 20)
    assert {a.outcome for a in answers} == {Recorded.NEW}
    journal.confirm([confirmation(entries[0])])
    await journal.flush()
    assert not journal.is_ledger_up
    outage.is_away = False

    async def drained() -> bool:
        return len(ledger.events.read([e.event.id for e in entries])) == 50

    await until(drained)
    fed, _ = ledger.feed.page("ada", None, by="ada", limit=100)
    assert [one.event.seq for one in fed] == list(range(2, 51))
    [first] = ledger.events.read([entries[0].event.id])
    assert first.state is State.CONFIRMED


async def test_a_journal_that_is_never_idle_notices_that_its_ledger_is_back(
    journal: JournalThread, ledger: SqlLedger
) -> None:
    outage: Any = ledger.recording
    outage.is_away = True
    await asyncio.wait_for(submit(journal, entry(seq=1)), 10)
    outage.is_away = False
    numbers = iter(range(2, 100_000))

    async def is_back() -> bool:
        await asyncio.wait_for(submit(journal, entry(seq=next(numbers))), 10)
        return journal.is_ledger_up

    await until(is_back)


async def test_a_journal_that_is_never_idle_adopts_the_spool_of_a_dead_process(
    journal: JournalThread, ledger: SqlLedger, tmp_path: Path
) -> None:
    left, numbers = entry("theirs", seq=1), iter(range(1, 100_000))
    dead = Spool(tmp_path / "spool", "dead")
    dead.append([left])
    dead.close()

    async def is_adopted() -> bool:
        await asyncio.wait_for(submit(journal, entry(seq=next(numbers))), 10)
        return ledger.events.get(left.event.id) is not None

    await until(is_adopted, 15.0)


async def test_no_entry_waits_for_the_ping_of_a_frozen_ledger(
    journal: JournalThread, ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage: Any = ledger.recording
    asked, thawed = threading.Event(), threading.Event()

    def ping() -> None:
        asked.set()
        assert thawed.wait(10)

    monkeypatch.setattr(ledger, "ping", ping)
    outage.is_away = True
    await asyncio.wait_for(submit(journal, entry(seq=1)), 10)

    async def is_asking() -> bool:
        return asked.is_set()

    await until(is_asking)
    begun = time.monotonic()
    await asyncio.wait_for(submit(journal, entry(seq=2)), 10)
    assert time.monotonic() - begun < 5.0
    outage.is_away = False
    thawed.set()

    async def is_back() -> bool:
        return journal.is_ledger_up

    await until(is_back)


async def test_a_full_spool_refuses_instead_of_accepting(ledger: SqlLedger, tmp_path: Path) -> None:
    outage = Outage(ledger)
    outage.is_away = True
    ledger.recording = outage  # type: ignore[assignment]
    spool = Spool(tmp_path / "small", "node", max_bytes=100)
    journal = JournalThread(ledger, spool=spool)
    journal.start(asyncio.get_running_loop())
    assert journal.refusal is None
    with pytest.raises(SpoolFull):
        await asyncio.wait_for(submit(journal, entry(data={"text": "x" * 200})), 10)
    assert "bring the ledger back" in str(journal.refusal), "a balancer is told before it tries"
    outage.is_away = False

    async def accepts() -> bool:
        return journal.refusal is None

    await until(accepts)
    await asyncio.wait_for(submit(journal, entry(data={"text": "x" * 200})), 10)
    await journal.stop()
    assert journal.refusal is not None


async def test_without_a_spool_an_outage_is_an_error_and_nothing_is_accepted(
    ledger: SqlLedger,
) -> None:
    outage = Outage(ledger)
    outage.is_away = True
    ledger.recording = outage  # type: ignore[assignment]
    journal = JournalThread(ledger)
    journal.start(asyncio.get_running_loop())
    with pytest.raises(LedgerUnavailable):
        await asyncio.wait_for(submit(journal, entry()), 10)
    await journal.stop()


async def test_an_event_that_cannot_be_recorded_does_not_fail_its_batch(
    journal: JournalThread, ledger: SqlLedger
) -> None:
    outage: Any = ledger.recording
    good, bad, last = entry(), entry(), entry()
    outage.refused_ids.add(bad.event.id)
    futures = [submit(journal, one) for one in (good, bad, last)]
    results = await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), 10)
    assert isinstance(results[1], ValueError)
    assert [r.outcome for r in (results[0], results[2])] == [Recorded.NEW] * 2  # type: ignore[union-attr]


async def test_a_spooled_event_that_cannot_be_recorded_is_set_aside_and_the_rest_is_drained(
    journal: JournalThread, ledger: SqlLedger, tmp_path: Path
) -> None:
    outage: Any = ledger.recording
    outage.is_away = True
    good, bad, last = entry(seq=1), entry(seq=2), entry(seq=3)
    outage.refused_ids.add(bad.event.id)
    await asyncio.wait_for(asyncio.gather(*(submit(journal, e) for e in (good, bad, last))), 10)
    outage.is_away = False

    async def drained() -> bool:
        return len(ledger.events.read([good.event.id, last.event.id])) == 2

    async def kept() -> bool:
        refused = (tmp_path / "spool").glob("*.refused")
        return any(bad.event.id in file.read_text() for file in refused)

    await until(drained)
    await until(kept)  # written after the rest was committed

    async def told() -> bool:
        return journal.set_aside == 1

    await until(told)


async def test_a_full_buffer_refuses_at_once(ledger: SqlLedger) -> None:
    journal = JournalThread(ledger, max_pending=2)  # not started: nothing leaves the buffer
    for _ in range(2):
        journal.submit(entry(), lambda entry, answer: None)
    with pytest.raises(Overloaded):
        journal.submit(entry(), lambda entry, answer: None)


async def test_stopping_commits_what_is_queued(ledger: SqlLedger) -> None:
    journal = JournalThread(ledger)
    journal.start(asyncio.get_running_loop())
    entries = [entry() for _ in range(100)]
    for one in entries:
        journal.submit(one, lambda entry, answer: None)
    await journal.stop()
    assert len(ledger.events.read([e.event.id for e in entries])) == 100
    with pytest.raises(Overloaded):
        journal.submit(entry(), lambda entry, answer: None)


async def test_a_flush_waits_for_queued_entries_and_not_for_later_ones(
    journal: JournalThread, ledger: SqlLedger
) -> None:
    """A journal under load is never idle, and a flush must not wait until it is."""
    over = asyncio.Event()

    async def load() -> None:
        while not over.is_set():
            if journal.backlog < 500:
                submit(journal, entry())
            await asyncio.sleep(0)

    loading = asyncio.create_task(load())
    try:
        one = entry(sent=True, awaited=True)
        submit(journal, one)
        await asyncio.wait_for(journal.flush(5.0), 10)
        assert ledger.events.get(one.event.id) is not None
    finally:
        over.set()
        await loading
