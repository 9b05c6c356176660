"""The disk under SQLite is full: events go to the spool, or are refused, and none is lost."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from delivery.domain.records import Entry, Receipted
from delivery.errors import SpoolFull
from delivery.ledger import SqlLedger
from delivery.ledger.journal.journal import JournalThread
from delivery.ledger.journal.spool import Spool
from delivery.testing import make_entry
from tests.faults.chain import opened
from tests.unit.tasks.fakes import make_event
from tests.waiting import until

PLENTY = 1_000_000
LARGE = {"text": "x" * 40_000}


class Disk:
    """The pages that the database may have; with too few SQLite says that the disk is full."""

    def __init__(self, ledger: SqlLedger) -> None:
        self.pages = PLENTY
        sa.event.listen(ledger.database.engine, "checkout", self._limit)

    def _limit(self, connection: Any, *_: object) -> None:
        connection.execute(f"PRAGMA max_page_count={self.pages}")


@pytest.fixture
def ledger(sqlite_template: Path, tmp_path: Path) -> Iterator[SqlLedger]:
    shutil.copy(sqlite_template, tmp_path / "ledger.db")
    with opened(f"sqlite:///{tmp_path / 'ledger.db'}") as made:
        yield made


async def submitted(journal: JournalThread, entry: Entry) -> Receipted | Exception:
    answer: asyncio.Future[Receipted | Exception] = asyncio.get_running_loop().create_future()
    journal.submit(entry, lambda _, given: answer.set_result(given))
    return await asyncio.wait_for(answer, 30)


@pytest.mark.parametrize("spool_bytes", [16 << 20, 200_000])
async def test_a_full_disk_under_sqlite_loses_no_accepted_event_and_keeps_no_refused_one(
    ledger: SqlLedger, tmp_path: Path, spool_bytes: int
) -> None:
    disk, spool = Disk(ledger), Spool(tmp_path / "spool", "node", spool_bytes)
    journal = JournalThread(ledger, spool=spool)
    journal.start(asyncio.get_running_loop())
    try:
        entries = [make_entry(make_event(data=LARGE)) for _ in range(20)]
        answers = [await submitted(journal, entry) for entry in entries[:2]]
        disk.pages = 1  # no more than there are
        answers += [await submitted(journal, entry) for entry in entries[2:]]
        assert not journal.is_ledger_up
        accepted = [isinstance(answer, Receipted) for answer in answers]
        if spool_bytes > 1 << 20:
            assert all(accepted)
        else:
            assert isinstance(answers[-1], SpoolFull)
        disk.pages = PLENTY
        ids = [entry.event.id for entry in entries]
        wanted = {id_ for id_, is_accepted in zip(ids, accepted, strict=True) if is_accepted}
        await until(lambda: len(ledger.events.read(ids)) == len(wanted))
        assert {stored.event.id for stored in ledger.events.read(ids)} == wanted
        assert isinstance(await submitted(journal, make_entry(make_event())), Receipted)
    finally:
        await journal.stop()
        spool.close()
