"""Why a database does not serve, in words for operators that everybody may read.

Owns: the causes that can be told apart, each in fixed words: an error's own text may name hosts and
users. Never does: decide what follows (see ``failures``).
"""

from __future__ import annotations

import sqlalchemy as sa

from delivery.ledger.sql import driver

UNFIT_STATES = frozenset({"42501", "42P01", "42703", "3F000", "3D000"})
"""A right, a table, a column, a schema or the database is not there: a grant that was taken back, a
restore that is under way, a migration that has not run. The statements are the same for every
event, so no event is at fault. Source: PostgreSQL manual, "Error Codes"."""

LOGIN = "it refuses the user or the password"
UNFIT = "it lacks a table, a column or a right that events need"
_STARTS = "it starts, or takes no connections"
_FULL = "it takes no more connections"
_CLOSED = "it closed the connection"
_POOLER = "a pooler has no connection to it"
_BY_STATE = (
    ("28", LOGIN),
    ("53300", _FULL),
    ("53100", "its disk is full"),
    ("3D000", "the database is not there"),
    ("57014", "a statement took too long"),
    ("55P03", "a lock was not to be had"),
    ("57P01", "it shuts down, or an operator ended the session"),
    ("57P02", "it crashed"),
    ("57P03", _STARTS),
    ("57P04", "the database is not there"),
    ("57P05", "it ends sessions that are idle for a moment"),
    ("25P03", "it ends transactions that are idle for a moment"),
    ("25P04", "a transaction took too long"),
    ("40", "other transactions were in the way"),
    ("53", "it is short of memory or another resource"),
    ("58", "it cannot read or write its files"),
    ("XX", "it has an internal error, or its data is damaged"),
)
# Errors of connections that were not made carry no code, and SQLite's have none for these.
_BY_WORDS = (
    ("password authentication failed", LOGIN),
    ("no pg_hba.conf entry", LOGIN),
    ("not permitted to log in", LOGIN),
    ("remaining connection slots", _FULL),
    ("too many clients", _FULL),
    ("too many connections", _FULL),
    ("no more connections allowed", _FULL),
    (
        "statement pooling mode",
        "a pooler in statement mode takes no transactions",
    ),
    ("starting up", _STARTS),
    ("not accepting connections", _STARTS),
    ("not currently accepting connections", _STARTS),
    # PgBouncer's own words, which have one code for all.
    ("query_wait_timeout", _POOLER),
    ("server login has been failing", _POOLER),
    ("cannot connect to server", _POOLER),
    ("certificate", "its certificate is not the one of its name, or not trusted"),
    ("could not translate host name", "its host's name is not found"),
    ("connection refused", "nothing listens at its address"),
    ("server closed the connection", _CLOSED),
    ("connection is lost", _CLOSED),
    ("connection reset", _CLOSED),
    ("no route to host", "no way leads to its address"),
    ("network is unreachable", "no way leads to its address"),
    ("timeout expired", "it does not answer in time"),
    ("too many open files", "this process has no descriptors left"),
    ("unable to open database file", "its file cannot be opened"),
    ("database or disk is full", "its disk is full"),
    ("no such table", UNFIT),
    ("no such column", UNFIT),
    ("has no column", UNFIT),
)


def is_unfit(error: BaseException) -> bool:
    """Whether the server lacks what every statement needs."""
    original = _original(error)
    return isinstance(original, driver.Error) and original.sqlstate in UNFIT_STATES


def cause_of(error: BaseException) -> str | None:
    """The cause in fixed words; ``None`` where it cannot be told."""
    original = _original(error)
    state = original.sqlstate if isinstance(original, driver.Error) else None
    known = next((words for start, words in _BY_STATE if (state or "").startswith(start)), None)
    if known is not None or state in UNFIT_STATES:
        return known or UNFIT
    text = str(original).lower()
    if 'database "' in text and "does not exist" in text:
        return "the database is not there"
    if 'role "' in text and "does not exist" in text:
        return LOGIN
    return next((words for part, words in _BY_WORDS if part in text), None)


def _original(error: BaseException) -> BaseException:
    found = error.orig if isinstance(error, sa.exc.DBAPIError) else None
    return error if found is None else found
