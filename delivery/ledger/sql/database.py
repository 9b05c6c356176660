"""One database, SQLite or PostgreSQL: connections, transactions, the clock, errors at the border.

Owns: the engine and its safety settings. Drivers' exceptions end here: those that mean "cannot be
reached now" become ``LedgerUnavailable``.
"""

from __future__ import annotations

import errno
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler
from sqlalchemy.engine import URL, Connection

from delivery.errors import InvalidEvent, LedgerReadOnly, LedgerUnavailable
from delivery.ledger.sql import driver
from delivery.ledger.sql.columns import UtcDateTime
from delivery.ledger.sql.connections import Connections, takes_writes
from delivery.ledger.sql.failures import is_bad_text, is_prepared_elsewhere, judge, unavailable
from delivery.ledger.sql.fair_lock import FairLock
from delivery.ledger.sql.private_file import make_private
from delivery.ledger.sql.url import parse_url, split_options

if TYPE_CHECKING:
    import psycopg

BUSY_TIMEOUT = 5.0
STATEMENT_TIMEOUT = 10.0
CONNECT_TIMEOUT = 3.0
# Longer than the server's own timeout: a server that answers ends the statement first.
ANSWER_TIMEOUT = STATEMENT_TIMEOUT + 1.0
MAX_AGE = 300
"""Seconds after which a connection is replaced: names and proxies may point elsewhere by then."""
# In place of what a role or a database may have by default, and the driver cannot work with.
_PLAIN_BEGIN = (
    "BEGIN ISOLATION LEVEL READ COMMITTED; "
    "SET LOCAL datestyle = 'ISO'; SET LOCAL intervalstyle = 'postgres'; "
    "SET LOCAL standard_conforming_strings = on; SET LOCAL extra_float_digits = 1"
)
# The server holds the limits: a statement ends even if its caller has ended before. They are set in
# each transaction, because a pooler may give each another session: none keeps a setting, and no
# start-up parameter reaches it.
_BEGIN = (
    f"{_PLAIN_BEGIN}; SET LOCAL statement_timeout = {int(STATEMENT_TIMEOUT * 1000)}; "
    f"SET LOCAL lock_timeout = {int(BUSY_TIMEOUT * 1000)}; "
    "SET LOCAL idle_in_transaction_session_timeout = 15000"
)
_CLOCK = sa.text("select clock_timestamp()")
_LAST = "delivery_last"
_SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""This process or its machine is short of descriptors or memory."""

LastWrites = Callable[[Connection, Sequence[Any]], None]
"""Writes what ``at_the_end`` collected in a transaction."""


class Database:
    """An engine with short transactions.

    On SQLite one lock makes all writes of this process take turns and ``BEGIN IMMEDIATE`` those of
    other processes, so a write never fails halfway for a lock it should have taken first.

    Args:
        answer_timeout: seconds that PostgreSQL may take for an answer before the connection is
            given up; ``None``, for migrations only, sets no limit.
    """

    _connections: Connections | None = None
    _turn_timeout = BUSY_TIMEOUT

    def __init__(
        self, url: str, *, pool_size: int = 8, answer_timeout: float | None = ANSWER_TIMEOUT
    ) -> None:
        parsed, options = split_options(parse_url(url))
        engine = _engine(parsed, pool_size)
        self._use(engine, _utcnow)
        if not self.is_sqlite:
            self._connections = Connections(
                engine,
                idle=CONNECT_TIMEOUT,
                busy=answer_timeout,
                options=options,
                begin=_BEGIN if options.sets_timeouts else _PLAIN_BEGIN,
            )

    def _use(self, engine: sa.Engine, wall: Callable[[], datetime]) -> None:
        self.url = engine.url
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.engine = engine
        self._writing = FairLock()
        self._wall = wall
        self.last_writes: LastWrites | None = None

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection for reading."""
        with self._translated(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction: committed at the end of the block, rolled back on any exception."""
        if not self.is_sqlite:
            with self._transaction() as connection:
                yield connection
            return
        if not self._writing.acquire(self._turn_timeout):
            raise LedgerUnavailable(
                f"other threads have been writing for {self._turn_timeout:g} s; try again"
            )
        try:
            with self._transaction() as connection:
                yield connection
        finally:
            self._writing.release()

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        last: list[Any] = []
        with self._translated(), self.engine.connect() as connection:
            connection = connection.execution_options(delivery_write=True, **{_LAST: last})
            with connection.begin():
                yield connection
                if last and self.last_writes is not None:
                    self.last_writes(connection, last)

    def ping(self) -> None:
        """Ask whether the database can be written.

        Raises:
            LedgerReadOnly: it answers, and is a standby or read-only.
            LedgerUnavailable: it does not answer.
        """
        if self.is_sqlite:
            self._ping_sqlite()
            return
        with self._translated(), self.engine.connect() as connection:
            reason = takes_writes(_driver_connection(connection))
        if reason is not None:
            self._discard()
            raise LedgerReadOnly(f"the ledger takes no writes: {reason}")

    def _ping_sqlite(self) -> None:
        """Take the lock of a writer, which a file that cannot be written refuses."""
        if not self._writing.acquire():
            return  # another thread writes just now
        try:
            with self.write():
                pass
        finally:
            self._writing.release()

    def truncate_log(self) -> None:
        """Empty SQLite's log of changes, which still holds what was just deleted."""
        if self.is_sqlite:
            with self.read() as connection:
                connection.exec_driver_sql("COMMIT")
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
                connection.exec_driver_sql("BEGIN")

    def now(self, connection: Connection | None = None) -> datetime:
        """The ledger's clock: the server's on PostgreSQL, this machine's on SQLite."""
        if self.is_sqlite:
            return self._wall()
        if connection is None:
            with self.read() as fresh:
                return self.now(fresh)
        value: datetime = connection.execute(_CLOCK).scalar_one()
        return value.astimezone(UTC)

    def clock(self) -> sa.ColumnElement[datetime]:
        """The ledger's clock as a part of a query, read at each execution, without a round trip of
        its own."""
        if self.is_sqlite:
            told = sa.bindparam(
                "clock", callable_=lambda: self.now(), type_=UtcDateTime(), unique=True
            )
            # The coercion keeps it apart from a literal in SQLAlchemy's cache of statements: one
            # that was compiled with a literal does not call the callable, and reads NULL.
            return sa.type_coerce(told, UtcDateTime())
        return sa.func.clock_timestamp(type_=UtcDateTime())

    def close(self) -> None:
        """Close all pooled connections."""
        self.engine.dispose()

    def _discard(self) -> None:
        if self._connections is not None:
            self._connections.discard()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Translate "cannot serve now" to ``LedgerUnavailable``, and discard the connections that
        the error condemns; other errors pass unchanged."""
        try:
            yield
        except _DRIVER_ERRORS as error:
            if self._connections is not None and is_prepared_elsewhere(error):
                self._connections.prepare_nothing()
            if judge(error).discards:
                self._discard()
            if is_bad_text(error):
                raise InvalidEvent(_BAD_TEXT) from error
            translated = unavailable(error)
            if translated is None:
                raise
            raise translated from error
        except UnicodeEncodeError as error:
            raise InvalidEvent(_BAD_TEXT) from error


def at_the_end(connection: Connection, items: Sequence[Any]) -> None:
    """Have ``Database.last_writes`` write these items when all else in the transaction is done."""
    connection.get_execution_options()[_LAST].extend(items)


def _engine(url: URL, pool_size: int) -> sa.Engine:
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url, pool_size)
    return sa.create_engine(
        url,
        hide_parameters=True,  # an error's text must hold no addresses and payloads
        pool_size=pool_size,
        max_overflow=4,
        pool_timeout=BUSY_TIMEOUT,
        pool_recycle=MAX_AGE,
        connect_args={
            "connect_timeout": int(CONNECT_TIMEOUT),
            "application_name": "delivery",
            "client_encoding": "utf8",  # sent at the start, and known to poolers
            "keepalives_idle": 10,
            "tcp_user_timeout": int(STATEMENT_TIMEOUT * 1000),
        },
    )


def _utcnow() -> datetime:
    return datetime.now(UTC)


def _sqlite_engine(url: URL, pool_size: int) -> sa.Engine:
    engine = sa.create_engine(
        url,
        hide_parameters=True,
        pool_size=pool_size,
        max_overflow=8,
        pool_timeout=BUSY_TIMEOUT,
        connect_args={"timeout": BUSY_TIMEOUT, "check_same_thread": False},
    )
    _keep_private(engine, Path(url.database or ""))
    configure_sqlite(
        engine,
        f"busy_timeout={int(BUSY_TIMEOUT * 1000)}",
        # Fewer, larger pages: most of a commit's time goes into writing them one by one. Takes
        # effect on a new file only.
        "page_size=8192",
        "journal_mode=WAL",
        "synchronous=NORMAL",
        "foreign_keys=ON",
        "wal_autocheckpoint=2000",
        "cache_size=-16000",
    )
    return engine


def _keep_private(engine: sa.Engine, path: Path) -> None:
    """Let only the owner read and write the file, made here or found; its journal files take their
    mode from it when they are made."""

    @event.listens_for(engine, "do_connect")
    def _make_private(*_args: Any) -> None:
        try:
            make_private(path)
        except OSError as error:
            if error.errno not in _SHORT:
                raise
            # As SQLite would say it: the ledger is away, and no event is at fault.
            reason = f"unable to open database file: {error.strerror}"
            raise sqlite3.OperationalError(reason) from error


class IndexHints(SQLiteCompiler):
    """Writes ``with_hint(table, "INDEXED BY …")``, which SQLAlchemy leaves out for SQLite."""

    def get_from_hint_text(self, table: Any, text: str | None) -> str | None:
        """The hint as it stands."""
        return text


def configure_sqlite(engine: sa.Engine, *pragmas: str) -> None:
    """Set these pragmas on each new connection, and begin a write as one."""
    engine.dialect.statement_compiler = IndexHints

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        # The driver must not open transactions by itself; ``begin`` below does.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in pragmas:
            if pragma == "journal_mode=WAL":
                _use_wal(cursor)
            else:
                cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        write = connection.get_execution_options().get("delivery_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _use_wal(cursor: sqlite3.Cursor) -> None:
    """Switch a new file to WAL, once. SQLite refuses at once, without the busy timeout, while
    another process makes the same switch. Source: sqlite.org/wal.html, "SQLITE_BUSY"."""
    deadline = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


_BAD_TEXT = "a text contains U+0000 or a lone surrogate"
# COPY and bulk inserts run on the drivers themselves, so their errors come unwrapped.
_DRIVER_ERRORS = (sa.exc.DBAPIError, sa.exc.TimeoutError, driver.Error, sqlite3.DatabaseError)


def _driver_connection(connection: Connection) -> psycopg.Connection[Any]:
    found: psycopg.Connection[Any] | None = connection.connection.driver_connection
    if found is None:
        raise LedgerUnavailable("the ledger connection was lost; try again")
    return found
