"""The ledger's clock moved ahead, on either database, in whatever way a store asks for it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.ledger.sql.columns import UtcDateTime
from delivery.ledger.sql.database import Database

_now, _clock = Database.now, Database.clock


def moved(ahead: Callable[[], timedelta]) -> dict[str, Callable[..., object]]:
    """Replacements for the methods of ``Database`` that tell the time, by name."""

    def now(self: Database, connection: Connection | None = None) -> datetime:
        if connection is None:
            with self.read() as fresh:
                return _now(self, fresh) + ahead()
        return _now(self, connection) + ahead()

    def clock(self: Database) -> sa.ColumnElement[datetime]:
        if self.is_sqlite:
            return _clock(self)  # asks ``now``
        later = sa.bindparam("later", callable_=ahead, type_=sa.Interval(), unique=True)
        return sa.type_coerce(sa.func.clock_timestamp() + later, UtcDateTime())

    return {"now": now, "clock": clock}
