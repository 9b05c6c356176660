"""A database that answers and refuses what every event needs is one that is away: what is accepted
meanwhile waits in the spool, and none of it is set aside as if it were at fault."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
import uuid_utils

from delivery.domain.event import EventClass
from delivery.domain.operators.outages import OutageKind
from delivery.domain.records import Receipted, Recorded
from delivery.ledger import SqlLedger
from delivery.ledger.journal.journal import JournalThread
from delivery.ledger.journal.spool import Spool
from delivery.testing import make_entry, make_event
from tests.waiting import until


def do(ledger: SqlLedger, statement: str) -> None:
    with ledger.database.write() as connection:
        connection.execute(sa.text(statement))


async def accepted(journal: JournalThread) -> tuple[str, object]:
    event = make_event(
        id=str(uuid_utils.uuid7()),
        type="note",
        user_id="u",
        run_id="r",
        seq=None,
        at=datetime.now(UTC),
        event_class=EventClass.STANDARD,
        data={},
    )
    future: asyncio.Future[Receipted | Exception] = asyncio.get_running_loop().create_future()
    journal.submit(
        make_entry(event, ack_timeout=5.0, ttl=600.0),
        lambda _, answer: future.set_result(answer),
    )
    answer = await asyncio.wait_for(future, 30)
    return event.id, answer.outcome if isinstance(answer, Receipted) else answer


@pytest.mark.parametrize(
    ("breaks", "mends"),
    [
        ("ALTER TABLE events RENAME TO kept", "ALTER TABLE kept RENAME TO events"),
        (
            "ALTER TABLE events RENAME COLUMN run_id TO kept",
            "ALTER TABLE events RENAME COLUMN kept TO run_id",
        ),
    ],
    ids=["table", "column"],
)
async def test_a_ledger_without_a_table_or_a_column_is_away(
    ledger: SqlLedger, tmp_path: Path, breaks: str, mends: str
) -> None:
    spool = Spool(tmp_path / "spool", "node")
    journal = JournalThread(ledger, spool=spool)
    journal.start(asyncio.get_running_loop())
    do(ledger, breaks)
    ids = []
    for _ in range(3):
        event_id, outcome = await accepted(journal)
        assert outcome is Recorded.NEW
        ids.append(event_id)
    [outage] = journal.outages()
    assert outage.kind is OutageKind.SPOOLING
    assert outage.text.endswith("it lacks a table, a column or a right that events need")
    do(ledger, mends)
    await until(lambda: not journal.outages())
    assert len(ledger.events.read(ids)) == len(ids)
    assert not journal.set_aside
    await journal.stop()
    spool.close()
