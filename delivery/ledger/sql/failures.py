"""What a database error says about the connection that it came from.

Owns: the one judgement of drivers' errors, for gateways, workers, beat and commands alike. Never
does: discard a connection, or retry.
"""

from __future__ import annotations

import sqlite3
from enum import Enum

import sqlalchemy as sa

from delivery.errors import LedgerReadOnly, LedgerUnavailable
from delivery.ledger.sql import driver
from delivery.ledger.sql.causes import cause_of, is_unfit

READ_ONLY_STATES = frozenset({"25006"})
"""The server takes no writes: a standby, or read-only by setting."""

PREPARED_STATES = frozenset({"26000", "42P05"})
"""A prepared statement is not there, or one of its name is: a pooler gave the transaction another
session."""

GONE_STATES = frozenset(
    {
        "55000",  # among others: recovery is in progress
        "57P01",  # the server shuts down, or an operator ended the session
        "57P02",  # it crashed
        "57P03",  # it starts, or is a standby that takes no connections
        "57P04",  # the database was dropped
        "57P05",  # the session was idle for too long
    }
)
"""The server has ended the session, or is not the one that it was. Source: PostgreSQL manual,
"Error Codes"."""
_GONE_CLASSES = ("08", "25")
"""Connections that broke; transactions whose state is not what was asked for, or that the server
ended for being idle or too long."""
# libpq's own words for a server that ``target_session_attrs`` passes over; they have no SQLSTATE.
_PASSED_OVER = ("session is read-only", "in hot standby mode", "read-only transaction")


class Verdict(Enum):
    """What to do with a connection after an error."""

    KEEP = "keep"
    NOT_MADE = "not made"
    GONE = "gone"
    READ_ONLY = "read-only"

    @property
    def discards(self) -> bool:
        """Whether this connection and all that were opened before are of no use any more."""
        return self in (Verdict.GONE, Verdict.READ_ONLY)


def judge(error: BaseException) -> Verdict:
    """Judge an error of SQLAlchemy or of the driver."""
    if isinstance(error, sa.exc.DBAPIError):
        if error.orig is None:
            return Verdict.GONE if error.connection_invalidated else Verdict.KEEP
        found = judge(error.orig)
        return Verdict.GONE if found is Verdict.KEEP and error.connection_invalidated else found
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        return Verdict.READ_ONLY if code == sqlite3.SQLITE_READONLY else Verdict.KEEP
    if not isinstance(error, driver.Error):
        return Verdict.KEEP
    state = error.sqlstate
    if state in READ_ONLY_STATES or (state is None and _is_passed_over(error)):
        return Verdict.READ_ONLY
    if state in GONE_STATES | PREPARED_STATES or (state or "").startswith(_GONE_CLASSES):
        return Verdict.GONE
    if error.pgconn is not None:
        # A further connection that a server refuses, for having too many, says nothing of others.
        return Verdict.NOT_MADE
    if state is None and isinstance(error, (driver.OperationalError, driver.InterfaceError)):
        return Verdict.GONE  # libpq's own: the connection broke
    return Verdict.KEEP


def is_prepared_elsewhere(error: BaseException) -> bool:
    """Whether a prepared statement clashed: the session is not the one that it was prepared in."""
    original = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    return isinstance(original, driver.Error) and original.sqlstate in PREPARED_STATES


def is_bad_text(error: BaseException) -> bool:
    """Whether U+0000 in a text was the fault, which PostgreSQL and its driver refuse. Source:
    PostgreSQL manual, "Error Codes", 22021."""
    original = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    return isinstance(original, driver.DataError) and original.sqlstate in (None, "22021")


def unavailable(error: BaseException) -> LedgerUnavailable | None:
    """The ledger's error for one that means "it cannot serve now"; ``None`` for any other."""
    if isinstance(error, sa.exc.TimeoutError):
        return LedgerUnavailable("every ledger connection is busy; try again")
    verdict = judge(error)
    is_unable = is_unfit(error) or _is_damaged(error)
    if not (verdict.discards or is_unable or isinstance(error, _TEMPORARY)):
        return None
    if verdict is Verdict.READ_ONLY:
        return LedgerReadOnly(f"the ledger takes no writes: {_reason(error)}")
    failed = "refuses" if is_unable else "cannot be reached"
    return LedgerUnavailable(f"the ledger {failed}: {_reason(error)}", cause=cause_of(error))


# A statement cancelled by its time limit, a lock not to be had, a full disk, a locked file.
_TEMPORARY = (
    sa.exc.OperationalError,
    sa.exc.InterfaceError,
    sa.exc.InternalError,
    driver.OperationalError,
    driver.InterfaceError,
    driver.InternalError,
    sqlite3.OperationalError,
)


def _is_damaged(error: BaseException) -> bool:
    """Whether SQLite cannot read its file, or the file is something else. Source:
    sqlite.org/rescode.html, "SQLITE_CORRUPT" and "SQLITE_NOTADB"."""
    original = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    code = getattr(original, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _is_passed_over(error: BaseException) -> bool:
    return any(words in str(error) for words in _PASSED_OVER)


def _reason(error: BaseException) -> str:
    """The driver's first line; it holds no secret (libpq never repeats the password). COPY's errors
    come from the driver itself and may repeat a row: their name has to do."""
    if isinstance(error, driver.Error):
        return type(error).__name__
    if isinstance(error, sqlite3.Error):
        return str(error)[:200]  # as SQLite words it: no values
    original = getattr(error, "orig", None)
    lines = str(original).strip().splitlines() if original is not None else []
    return lines[0][:200] if lines else "connection lost"
