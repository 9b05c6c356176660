"""One database, SQLite or PostgreSQL: connections, transactions, the clock, errors at the border.

Owns: the engine and its safety settings. Drivers' exceptions end here: those that mean "cannot be
reached now" become ``LedgerUnavailable``.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, make_url

from delivery.errors import ConfigError, LedgerUnavailable
from delivery.ledger.sql.deadline_connection import limit
from delivery.ledger.sql.tables import UtcDateTime

BUSY_TIMEOUT = 5.0
STATEMENT_TIMEOUT = 10.0
CONNECT_TIMEOUT = 3.0
# Longer than the server's own timeout: a server that answers ends the statement first.
ANSWER_TIMEOUT = STATEMENT_TIMEOUT + 1.0
_CLOCK = sa.text("select clock_timestamp()")


def parse_url(text: str) -> URL:
    """A SQLAlchemy URL with the drivers this package uses.

    Raises:
        ConfigError: not a URL, or neither SQLite nor PostgreSQL.
    """
    try:
        url = make_url(text)
    except sa.exc.ArgumentError:
        raise ConfigError(
            "DELIVERY_DATABASE_URL is not a database URL; write e.g. "
            "postgresql://user:password@host/name or sqlite:////path/to/file.db"
        ) from None
    backend = url.get_backend_name()
    if backend == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if backend == "sqlite":
        if not url.database or url.database == ":memory:":
            raise ConfigError("DELIVERY_DATABASE_URL: SQLite needs a file, memory is not durable")
        return url.set(drivername="sqlite")
    raise ConfigError(
        f"DELIVERY_DATABASE_URL: {backend} is not supported; use postgresql or sqlite"
    )


class Database:
    """An engine with short transactions.

    On SQLite one lock makes all writes of this process take turns and ``BEGIN IMMEDIATE`` those of
    other processes, so a write never fails halfway for a lock it should have taken first.

    Args:
        answer_timeout: seconds that PostgreSQL may take for an answer before the connection is
            given up; ``None``, for migrations only, sets no limit.
    """

    def __init__(
        self, url: str, *, pool_size: int = 8, answer_timeout: float | None = ANSWER_TIMEOUT
    ) -> None:
        parsed = parse_url(url)
        self._use(_engine(parsed, pool_size, answer_timeout), _utcnow)

    def _use(self, engine: sa.Engine, wall: Callable[[], datetime]) -> None:
        self.url = engine.url
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.engine = engine
        self._writing = threading.RLock()
        self._wall = wall

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection for reading."""
        with _translated(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction: committed at the end of the block, rolled back on any exception."""
        if not self.is_sqlite:
            with _translated(), self.engine.begin() as connection:
                yield connection
            return
        if not self._writing.acquire(timeout=BUSY_TIMEOUT):
            raise LedgerUnavailable("another thread has been writing for 5 s; try again")
        try:
            with _translated(), self.engine.connect() as connection:
                connection = connection.execution_options(delivery_write=True)
                with connection.begin():
                    yield connection
        finally:
            self._writing.release()

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
            return sa.bindparam(
                "clock", callable_=lambda: self.now(), type_=UtcDateTime(), unique=True
            )
        return sa.func.clock_timestamp(type_=UtcDateTime())

    def close(self) -> None:
        """Close all pooled connections."""
        self.engine.dispose()


def _engine(url: URL, pool_size: int, answer_timeout: float | None) -> sa.Engine:
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url, pool_size)
    # The session holds the limits: a statement ends even if its caller has ended before.
    options = (
        f"-c statement_timeout={int(STATEMENT_TIMEOUT * 1000)}"
        f" -c lock_timeout={int(BUSY_TIMEOUT * 1000)}"
        " -c idle_in_transaction_session_timeout=15000"
    )
    engine = sa.create_engine(
        url,
        hide_parameters=True,  # an error's text must hold no addresses and payloads
        pool_size=pool_size,
        max_overflow=4,
        pool_timeout=BUSY_TIMEOUT,
        connect_args={
            "connect_timeout": int(CONNECT_TIMEOUT),
            "options": options,
            "application_name": "delivery",
            "keepalives_idle": 10,
            "tcp_user_timeout": int(STATEMENT_TIMEOUT * 1000),
        },
    )
    limit(engine, idle=CONNECT_TIMEOUT, busy=answer_timeout)
    return engine


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


def configure_sqlite(engine: sa.Engine, *pragmas: str) -> None:
    """Set these pragmas on each new connection, and begin a write as one."""

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


@contextmanager
def _translated() -> Iterator[None]:
    """Translate "cannot be reached now" to ``LedgerUnavailable``; other errors pass unchanged."""
    try:
        yield
    except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.InternalError) as error:
        raise LedgerUnavailable(f"the ledger cannot be reached: {_reason(error)}") from error
    except (psycopg.OperationalError, psycopg.InterfaceError, psycopg.InternalError) as error:
        # COPY runs on the driver itself, so its errors come unwrapped. A server that became
        # read-only reports an internal error.
        raise LedgerUnavailable(f"the ledger cannot be reached: {type(error).__name__}") from error
    except sa.exc.TimeoutError as error:
        raise LedgerUnavailable("every ledger connection is busy; try again") from error
    except sa.exc.DBAPIError as error:
        if error.connection_invalidated:
            raise LedgerUnavailable("the ledger connection was lost; try again") from error
        raise


def _reason(error: sa.exc.DBAPIError) -> str:
    """The driver's first line; it holds no secret (libpq never repeats the password)."""
    return str(error.orig).strip().splitlines()[0][:200] if error.orig else "connection lost"
