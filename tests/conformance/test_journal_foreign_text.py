"""Text that no database takes stays one record's affair: its neighbours are committed, as is its
own event."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import uuid_utils

from delivery.domain.event import EventClass
from delivery.domain.lifecycle import Confirmation, Outcome, State
from delivery.domain.records import Confirmed, Entry, EventFilter, Receipted, Recorded
from delivery.errors import InvalidEvent, LedgerUnavailable
from delivery.ledger import SqlLedger
from delivery.ledger.journal.journal import JournalThread
from delivery.ledger.journal.spool import Spool
from delivery.testing import make_entry, make_event
from tests.waiting import until

BAD = ["a\x00b", "a\ud800b", "\udfff\x00\ufffe", "\x00" * 5_000]


def entry(**changes: Any) -> Entry:
    event = make_event(
        id=str(uuid_utils.uuid7()),
        type="auth_completed",
        user_id="ada",
        run_id="run",
        seq=changes.pop("seq", None),
        at=datetime.now(UTC),
        event_class=EventClass.AUTH,  # the only class with rows in the audit log
        data={},
    )
    return make_entry(event, ack_timeout=5.0, ttl=600.0, **changes)


def confirmation(event_id: str, by: str = "ada", evidence: str = "c1") -> Confirmation:
    return Confirmation(event_id, "ada", "websocket", by, evidence)


class Recording:
    """The real recording store, which a test can switch off or let refuse an event."""

    def __init__(self, ledger: SqlLedger) -> None:
        self._recording = ledger.recording
        self.is_away = False
        self.refused: set[str] = set()
        self.calls = 0

    def commit(
        self, entries: Sequence[Entry], confirmations: Sequence[Confirmation] = (), **options: Any
    ) -> list[Receipted]:
        if self.is_away:
            raise LedgerUnavailable("switched off")
        self.calls += 1
        if any(one.event.id in self.refused for one in entries):
            raise ValueError("refused for good")
        return self._recording.commit(entries, confirmations, **options)


@pytest.fixture
def recording(ledger: SqlLedger) -> Recording:
    ledger.recording = made = Recording(ledger)  # type: ignore[assignment]
    return made


@pytest_asyncio.fixture
async def journal(
    ledger: SqlLedger, recording: Recording, tmp_path: Path
) -> AsyncIterator[JournalThread]:
    spool = Spool(tmp_path / "spool", "node")
    thread = JournalThread(ledger, spool=spool)
    thread.start(asyncio.get_running_loop())
    yield thread
    await thread.stop()
    spool.close()


def submit(journal: JournalThread, one: Entry) -> asyncio.Future[Receipted | Exception]:
    future: asyncio.Future[Receipted | Exception] = asyncio.get_running_loop().create_future()
    journal.submit(one, lambda _, answer: future.set_result(answer))
    return future


async def all_of(journal: JournalThread, entries: Sequence[Entry]) -> list[Receipted | Exception]:
    answers = await asyncio.wait_for(asyncio.gather(*(submit(journal, one) for one in entries)), 30)
    await journal.flush()
    return list(answers)


def outcomes(answers: Sequence[Receipted | Exception]) -> list[object]:
    return [one.outcome if isinstance(one, Receipted) else one for one in answers]


@pytest.mark.parametrize("text", BAD)
async def test_a_reason_or_a_name_that_no_database_takes_fails_no_event(
    journal: JournalThread, ledger: SqlLedger, text: str
) -> None:
    nacked = entry(pushes=[(Outcome.FAILED, f"nack: {text}")], hand_over=True)
    confirmed = entry(confirmations=[])
    confirmed.confirmations.append(confirmation(confirmed.event.id, by=text, evidence=text))
    others = [entry() for _ in range(3)]
    journal.hand_over(others[0].event.id, f"nack: {text}")
    answers = await all_of(journal, [nacked, confirmed, *others])
    assert outcomes(answers) == [Recorded.NEW] * 5
    journal.confirm([confirmation(others[1].event.id, by=text)])
    journal.confirm([confirmation(others[2].event.id)])
    journal.hand_over(others[0].event.id, f"nack: {text}")
    await journal.flush()
    states = {one.event.id: one.state for one in ledger.events.read([e.event.id for e in others])}
    assert [states[one.event.id] for one in others] == [
        State.FALLING_BACK,
        State.CONFIRMED,
        State.CONFIRMED,
    ]
    found = ledger.events.get(nacked.event.id)
    assert found is not None
    [error] = [str(one.error) for one in found.attempts if one.channel == "websocket"]
    assert error.startswith("nack: ")
    assert "\ufffd" in error
    assert "\x00" not in error
    [kept] = ledger.events.get(confirmed.event.id).confirmations  # type: ignore[union-attr]
    assert "\ufffd" in kept.by


@pytest.mark.parametrize("text", BAD)
async def test_a_hand_over_with_a_bad_reason_after_the_commit_is_recorded(
    journal: JournalThread, ledger: SqlLedger, text: str
) -> None:
    one, other = entry(), entry()
    await all_of(journal, [one, other])
    journal.hand_over(one.event.id, text)
    assert outcomes(await all_of(journal, [entry()])) == [Recorded.NEW]
    [stored] = ledger.events.read([one.event.id])
    assert stored.state is State.FALLING_BACK


@pytest.mark.parametrize("text", BAD)
async def test_what_was_spooled_with_such_a_text_is_drained(
    journal: JournalThread, ledger: SqlLedger, recording: Recording, text: str, tmp_path: Path
) -> None:
    recording.is_away = True
    bad = entry(seq=1, pushes=[(Outcome.FAILED, text)])
    entries = [bad, *(entry(seq=number) for number in range(2, 7))]
    journal.confirm([confirmation(entries[3].event.id, by=text)])
    assert outcomes(await all_of(journal, entries)) == [Recorded.NEW] * 6
    recording.is_away = False

    async def is_drained() -> bool:
        return len(ledger.events.read([one.event.id for one in entries])) == 6

    await until(is_drained, 30.0)
    assert not list((tmp_path / "spool").glob("*.refused"))


async def test_a_batch_is_divided_until_the_bad_entry_is_alone(
    journal: JournalThread, ledger: SqlLedger, recording: Recording
) -> None:
    entries = [entry() for _ in range(256)]
    bad = entries[100]
    recording.refused.add(bad.event.id)
    answers = await all_of(journal, entries)
    assert [n for n, one in enumerate(answers) if isinstance(one, Exception)] == [100]
    assert len(ledger.events.read([one.event.id for one in entries])) == 255
    assert recording.calls < 60, "halves, and not one by one"


async def test_a_fault_of_the_rest_of_a_batch_fails_no_event_of_it(
    journal: JournalThread, ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Confirmations and hand-overs of other events travel in the same batch."""
    old = [entry() for _ in range(4)]
    await all_of(journal, old)
    confirm, hand_over = ledger.confirmations.confirm, ledger.operations.hand_over

    def confirm_others(confirmations: Sequence[Confirmation]) -> Confirmed:
        if any(one.event_id == old[0].event.id for one in confirmations):
            raise ValueError("refused for good")
        return confirm(confirmations)

    def hand_over_others(ids: Sequence[str], reason: str) -> None:
        if old[2].event.id in ids:
            raise ValueError("refused for good")
        hand_over(ids, reason)

    commit = ledger.recording.commit

    def commit_others(
        entries: Sequence[Entry], confirmations: Sequence[Confirmation] = (), **options: Any
    ) -> list[Receipted]:
        if confirmations:
            confirm_others(confirmations)
        return commit(entries, confirmations, **options)

    monkeypatch.setattr(ledger.recording, "commit", commit_others)
    monkeypatch.setattr(ledger.confirmations, "confirm", confirm_others)
    monkeypatch.setattr(ledger.operations, "hand_over", hand_over_others)
    journal.confirm([confirmation(one.event.id) for one in old[:2]])
    for one in old[2:]:
        journal.hand_over(one.event.id, "gone")
    new = [entry() for _ in range(3)]
    assert outcomes(await all_of(journal, new)) == [Recorded.NEW] * 3
    states = {one.event.id: one.state for one in ledger.events.read([e.event.id for e in old])}
    assert states[old[1].event.id] is State.CONFIRMED
    assert states[old[3].event.id] is State.FALLING_BACK


@pytest.mark.parametrize("text", ["a\x00b", "a\ud800b"])
def test_a_name_that_no_database_takes_matches_nothing_or_is_the_callers_fault(
    ledger: SqlLedger, text: str
) -> None:
    """The borders refuse it; what comes through one all the same is no error of ours."""
    for look in (
        lambda: ledger.contacts.get(text),
        lambda: ledger.events.find(EventFilter(user_id=text))[0],
        lambda: ledger.feed.page(text, None, by=text, limit=5)[0],
    ):
        with contextlib.suppress(InvalidEvent):
            assert not look()
