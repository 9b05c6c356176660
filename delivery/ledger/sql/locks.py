"""Named locks that last as long as the transaction.

Owns: their names. PostgreSQL has advisory locks; on SQLite a writing transaction already keeps
everybody else out, so these are no-ops there.
"""

from __future__ import annotations

import hashlib

import sqlalchemy as sa
from sqlalchemy.engine import Connection

SEALER = "audit sealer"
MIGRATION = "migration"


def key(*names: str) -> int:
    """A stable signed 64-bit number for a lock's name."""
    text = "\0".join(("delivery", *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], signed=True)


def lock(connection: Connection, *names: str) -> None:
    """Wait for the lock; the session's ``lock_timeout`` bounds the wait."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("select pg_advisory_xact_lock(:key)"), {"key": key(*names)})


def try_lock(connection: Connection, *names: str) -> bool:
    """Take the lock if it is free."""
    if connection.dialect.name != "postgresql":
        return True
    taken = sa.text("select pg_try_advisory_xact_lock(:key)")
    return bool(connection.execute(taken, {"key": key(*names)}).scalar_one())
