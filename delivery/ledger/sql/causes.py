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
_BY_STATE = (
    ("28", LOGIN),
    ("53300", "it takes no more connections"),
    ("53100", "its disk is full"),
    ("3D000", "the database is not there"),
    ("57014", "a statement took too long"),
    ("55P03", "a lock was not to be had"),
    ("57P03", "it starts, or takes no connections"),
)
# Errors of connections that were not made carry no code, and SQLite's have none for these.
_BY_WORDS = (
    ("password authentication failed", LOGIN),
    ("no pg_hba.conf entry", LOGIN),
    ("not permitted to log in", LOGIN),
    ("remaining connection slots", "it takes no more connections"),
    ("too many clients", "it takes no more connections"),
    ("too many connections", "it takes no more connections"),
    ("no more connections allowed", "it takes no more connections"),
    (
        "statement pooling mode",
        "a pooler in statement mode takes no transactions",
    ),
    ("starting up", "it starts, or takes no connections"),
    ("not accepting connections", "it starts, or takes no connections"),
    ("could not translate host name", "its host's name is not found"),
    ("connection refused", "nothing listens at its address"),
    ("timeout expired", "it does not answer in time"),
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
