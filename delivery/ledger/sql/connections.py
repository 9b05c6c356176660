"""Which pooled PostgreSQL connections may be used, and for how long each may wait.

Owns: the ping before a use, the end of every connection that was opened before an error that
condemns them, the waits of each. Never does: judge an error (see ``failures``), open a pool.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection

from delivery.ledger.sql import driver
from delivery.ledger.sql.failures import Verdict, judge
from delivery.ledger.sql.url import SessionOptions

if TYPE_CHECKING:
    import psycopg

    from delivery.ledger.sql.deadline_connection import DeadlineConnection

FRESH = 1.0
"""Seconds after its last use for which a connection is not pinged: in a busy process that would
cost a round trip per transaction."""
_STATE = "select pg_is_in_recovery(), current_setting('transaction_read_only')"


class Connections:
    """Rules for the pooled connections of an engine.

    Args:
        idle: seconds for opening a connection, and for the ping.
        busy: seconds for each answer while a connection is in use; ``None`` sets no limit.
        begin: the statements that begin a transaction, sent as one.
    """

    def __init__(
        self,
        engine: sa.Engine,
        *,
        idle: float,
        busy: float | None,
        options: SessionOptions,
        begin: str,
    ) -> None:
        self._idle = idle
        self._busy = busy
        self._threshold = options.prepare_threshold
        self._detects_poolers = options.detects_poolers
        self._begin_statements = begin
        self._discarded_at = float("-inf")
        event.listen(engine, "do_connect", self._connect)
        event.listen(engine, "checkout", self._check)
        event.listen(engine, "checkin", self._rest)
        event.listen(engine, "begin", self._begin)

    def discard(self) -> None:
        """Let none of the connections opened so far serve a further transaction."""
        self._discarded_at = time.monotonic()

    def prepare_nothing(self) -> None:
        """Use no prepared statements from now on: a pooler gives each transaction another session,
        and did not show itself."""
        self._threshold = None

    def _connect(self, _dialect: Any, _record: Any, args: Any, options: Any) -> DeadlineConnection:
        # Imported late: the driver may not be installed where the database is SQLite.
        from psycopg.types.string import TextLoader

        from delivery.ledger.sql.deadline_connection import DeadlineConnection

        began = time.monotonic()
        connection = DeadlineConnection.connect(*args, **options)
        connection.answer_timeout = self._idle
        connection.opened_at = began
        # Ids are text in this package; the driver would build an object for each.
        connection.adapters.register_loader("uuid", TextLoader)
        # The driver must not begin transactions by itself; ``_begin`` does, with their limits.
        connection.autocommit = True
        connection.prepare_threshold = self._threshold
        if self._threshold is not None and self._detects_poolers and _is_pooled(connection):
            connection.prepare_threshold = None
        return connection

    def _begin(self, connection: Connection) -> None:
        driver = connection.connection.driver_connection
        if driver is not None:
            # One round trip: without parameters the driver sends several statements as one query.
            driver.execute(self._begin_statements, prepare=False)

    def _check(self, connection: DeadlineConnection, _record: Any, _proxy: Any) -> None:
        # A new one is not looked at: the pool tries twice, and then raises an error of its own.
        if connection.used_at is not None:
            if connection.opened_at <= self._discarded_at:
                raise sa.exc.DisconnectionError("opened before a switchover or an outage")
            if time.monotonic() - connection.used_at > FRESH:
                self._ping(connection)
        connection.answer_timeout = self._busy

    def _rest(self, connection: DeadlineConnection | None, _record: Any) -> None:
        if connection is not None:
            connection.answer_timeout = self._idle
            connection.used_at = time.monotonic()

    def _ping(self, connection: DeadlineConnection) -> None:
        """Make the pool replace its connections when this one is gone, or takes no writes."""
        try:
            verdict = Verdict.KEEP if takes_writes(connection) is None else Verdict.READ_ONLY
        except driver.Error as error:
            verdict = judge(error)
        if verdict.discards:
            self.discard()
            raise sa.exc.DisconnectionError(f"the connection is {verdict.value}")


def _is_pooled(connection: psycopg.Connection[Any]) -> bool:
    """Whether a pooler stands between: it tells a process id of its own, and in transaction mode a
    prepared statement is in another session the next time."""
    row = connection.execute("select pg_backend_pid()", prepare=False).fetchone()
    return row is not None and row[0] != connection.info.backend_pid


def takes_writes(connection: psycopg.Connection[Any]) -> str | None:
    """Ask the server, outside of a transaction; why it takes no writes, ``None`` if it does.

    Raises:
        driver.Error: it did not answer.
    """
    row = connection.execute(_STATE, prepare=False).fetchone()
    is_standby, read_only = row or (False, "off")
    if is_standby:
        return "the server is a standby"
    return "the server is read-only" if read_only == "on" else None
