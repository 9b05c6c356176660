"""Figures by minute and hour.

Owns: their rows, which it deletes when they are old. Never does: compute a figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.domain.operators.history import HOUR, KEPT, MINUTE, Point, merged, start_of
from delivery.ledger.sql.database import Database
from delivery.ledger.sql.dialect import insert
from delivery.ledger.sql.rows import AnyRow
from delivery.ledger.sql.tables import figures

MAX_ROWS = 50_000
"""Rows of one read, at most: more than all minutes that are kept."""


class HistorySql:
    """``HistoryStore`` over SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, point: Point) -> None:
        """See the port."""
        hour = start_of(point.at, HOUR)
        with self._database.write() as connection:
            _put(connection, MINUTE, point)
            minutes = _read(connection, MINUTE, hour, hour + timedelta(seconds=HOUR))
            _put(connection, HOUR, merged(minutes, hour))
            connection.execute(sa.delete(figures).where(figures.c.at < point.at - KEPT))

    def read(self, step: int, since: datetime, until: datetime) -> list[Point]:
        """See the port."""
        with self._database.read() as connection:
            return _read(connection, step, since, until)


def _put(connection: Connection, step: int, point: Point) -> None:
    values = asdict(point)
    at = values.pop("at")
    row = insert(connection, figures).values(step_s=step, at=at, **values)
    connection.execute(row.on_conflict_do_update(index_elements=["step_s", "at"], set_=values))


def _read(connection: Connection, step: int, since: datetime, until: datetime) -> list[Point]:
    query = (
        sa.select(figures)
        .where(figures.c.step_s == step, figures.c.at >= since, figures.c.at < until)
        .order_by(figures.c.at)
        .limit(MAX_ROWS)
    )
    found: Sequence[AnyRow] = connection.execute(query).all()
    return [_point(row) for row in found]


def _point(row: AnyRow) -> Point:
    columns = dict(row._mapping)
    del columns["step_s"]
    return Point(**columns)
