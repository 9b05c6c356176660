"""What an administrator sets on the role of PostgreSQL, or on its database: no such default decides
whether an event is recorded, and what keeps the ledger from working is named."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from delivery.domain.records import Recorded
from delivery.ledger import SqlLedger, migrate
from delivery.ledger.journal.journal import JournalThread
from delivery.ledger.journal.spool import Spool
from tests import databases
from tests.conformance.test_journal_refusing_server import accepted
from tests.waiting import until

ROLE = "delivery_defaults"


@pytest.fixture
def admin(postgres_url: str) -> Iterator[psycopg.Connection]:
    """An administrator's session in a migrated database, in which ``ROLE`` may do all."""
    migrate.upgrade(postgres_url)
    plain = databases.text(make_url(postgres_url).set(drivername="postgresql"))
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD 'first'")
        connection.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {ROLE}")
        connection.execute(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {ROLE}")
        yield connection
        connection.execute(f"DROP OWNED BY {ROLE}")
        connection.execute(f"DROP ROLE {ROLE}")


@pytest.fixture
def role_url(postgres_url: str) -> str:
    return databases.text(make_url(postgres_url).set(username=ROLE, password="first"))


@contextmanager
def journal_of(url: str, folder: Path) -> Iterator[tuple[SqlLedger, JournalThread]]:
    ledger, spool = SqlLedger(url), Spool(folder / "spool", "node")
    journal = JournalThread(ledger, spool=spool)
    journal.start(asyncio.get_running_loop())
    yield ledger, journal
    spool.close()
    ledger.close()


def reconnect(admin: psycopg.Connection) -> None:
    """End the role's sessions: only new ones have its defaults."""
    admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", [ROLE]
    )


@pytest.mark.parametrize("query", ["", "?timeouts=role"])
@pytest.mark.parametrize(
    "default",
    [
        "client_encoding = 'SQL_ASCII'",
        "client_encoding = 'LATIN1'",
        "datestyle = 'German'",
        "datestyle = 'SQL, DMY'",
        "intervalstyle = 'sql_standard'",
        "timezone = 'Pacific/Chatham'",
        "standard_conforming_strings = off",
        "extra_float_digits = -5",
        "bytea_output = 'escape'",
        "default_transaction_isolation = 'serializable'",
        "default_transaction_deferrable = on",
        "work_mem = '64kB'",
    ],
)
async def test_a_default_of_the_session_changes_nothing(
    admin: psycopg.Connection, role_url: str, tmp_path: Path, default: str, query: str
) -> None:
    admin.execute(f"ALTER ROLE {ROLE} SET {default}")
    with journal_of(role_url + query, tmp_path) as (ledger, journal):
        ids = [await accepted(journal) for _ in range(3)]
        assert [outcome for _, outcome in ids] == [Recorded.NEW] * 3
        assert not journal.outages()
        assert not journal.set_aside
        found = ledger.events.read([event_id for event_id, _ in ids])
        assert len(found) == 3
        with ledger.database.write() as connection:
            level = connection.exec_driver_sql("SHOW transaction_isolation").scalar_one()
        assert level == "read committed"
        await journal.stop()


@pytest.mark.parametrize(
    ("breaks", "mends", "says"),
    [
        (
            f"ALTER ROLE {ROLE} CONNECTION LIMIT 0",
            f"ALTER ROLE {ROLE} CONNECTION LIMIT -1",
            "no more",
        ),
        (f"ALTER ROLE {ROLE} NOLOGIN", f"ALTER ROLE {ROLE} LOGIN", "the user or the password"),
        (
            f"ALTER ROLE {ROLE} SET search_path = 'elsewhere'",
            f"ALTER ROLE {ROLE} RESET search_path",
            "lacks a table",
        ),
        (f"REVOKE INSERT ON events FROM {ROLE}", f"GRANT INSERT ON events TO {ROLE}", "a right"),
    ],
    ids=["connections", "login", "search_path", "right"],
)
async def test_what_keeps_the_ledger_from_working_is_named_until_it_is_mended(
    admin: psycopg.Connection, role_url: str, tmp_path: Path, breaks: str, mends: str, says: str
) -> None:
    with journal_of(role_url, tmp_path) as (ledger, journal):
        ids = [(await accepted(journal))[0]]
        admin.execute(breaks)
        reconnect(admin)

        async def is_named() -> bool:
            event_id, outcome = await accepted(journal)
            assert outcome is Recorded.NEW
            ids.append(event_id)
            return any(says in one.text for one in journal.outages())

        await until(is_named)
        admin.execute(mends)
        reconnect(admin)
        await until(lambda: not journal.outages())
        assert not journal.set_aside
        assert len(ledger.events.read(ids)) == len(ids)
        await journal.stop()
