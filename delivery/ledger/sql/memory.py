"""A database for tests: SQLite in memory, with a clock and outages under the test's control.

Owns: the quick creation of such a database, and its outages. Never does: a rule of its own; all
SQL that runs on it is that of the real ledger.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cache

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.errors import LedgerUnavailable
from delivery.ledger.sql.columns import metadata
from delivery.ledger.sql.database import Database, configure_sqlite

OUTAGE = "the ledger cannot be reached: outage of a test"
TURN_TIMEOUT = 30.0
"""Seconds a thread waits for the connection."""


class MemoryDatabase(Database):
    """A new SQLite database that ends with this object; its tables are there.

    All threads take turns at one connection: a second one would see another database.

    Args:
        clock: tells the ledger's time, aware UTC.

    Attributes:
        is_away: while true, every call raises ``LedgerUnavailable``.
    """

    _turn_timeout = TURN_TIMEOUT

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self.is_away = False
        self._use(_engine(), clock)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """See ``Database``."""
        self._check()
        if not self._writing.acquire(TURN_TIMEOUT):
            raise LedgerUnavailable(f"other threads have read and written for {TURN_TIMEOUT:g} s")
        try:
            with super().read() as connection:
                yield connection
        finally:
            self._writing.release()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """See ``Database``."""
        self._check()
        with super().write() as connection:
            yield connection

    def ping(self) -> None:
        """See ``Database``."""
        self._check()

    def _check(self) -> None:
        if self.is_away:
            raise LedgerUnavailable(OUTAGE)


def _engine() -> sa.Engine:
    engine = sa.create_engine(
        "sqlite://",
        creator=_connect,
        hide_parameters=True,
        poolclass=sa.pool.QueuePool,
        pool_size=1,
        max_overflow=0,
        pool_timeout=TURN_TIMEOUT,
    )
    configure_sqlite(engine, "foreign_keys=ON")
    return engine


def _connect() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    connection.deserialize(_empty())
    return connection


@cache
def _empty() -> bytes:
    """The file of a database with all tables and no row: a copy takes less than their DDL does."""
    template = sqlite3.connect(":memory:", check_same_thread=False)
    engine = sa.create_engine("sqlite://", creator=lambda: template, poolclass=sa.pool.StaticPool)
    metadata.create_all(engine, checkfirst=False)
    file = template.serialize()
    engine.dispose()
    return file
