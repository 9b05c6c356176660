"""What was recorded lately, as an even sample: figures cost the same at any rate of events.

Owns: where a stretch of time begins in the order of recording, and which rows stand for all of it.
A window of at most ``SAMPLE`` rows is read whole, and its figures are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.ledger.sql.any_of import among

SAMPLE = 2_000
STRETCH = 16
"""Neighbours are read together: they share pages."""


@dataclass(frozen=True, slots=True)
class Window:
    """The numbers that a table gave out since an instant, or stretches of them.

    Attributes:
        step: how many rows each row of the sample stands for.
    """

    since: datetime
    numbers: range
    step: int

    def rows(self, number: sa.Column[int], at: sa.Column[datetime]) -> sa.ColumnElement[bool]:
        """The sample's rows. A few before the beginning may have later numbers: left out."""
        starts = self.numbers[:: STRETCH * self.step]
        sample = (one for start in starts for one in range(start, start + STRETCH))
        return sa.and_(among(number, sample), at >= self.since)


def window(
    connection: Connection, number: sa.Column[int], at: sa.Column[datetime], since: datetime
) -> Window:
    """The rows of a table since an instant.

    Args:
        number: indexed, and given out in the order of ``at``, give or take some seconds.
    """
    first, last = _ends(connection, number)
    begin = _first_since(connection, number, at, since, range(first, last + 1))
    step = max(1, -(-(last + 1 - begin) // SAMPLE))
    return Window(since, range(begin, last + 1), step)


def _ends(connection: Connection, number: sa.Column[int]) -> Sequence[int]:
    # Two statements: asked for both at once, SQLite reads the whole index.
    first = connection.execute(sa.select(sa.func.min(number))).scalar()
    last = connection.execute(sa.select(sa.func.max(number))).scalar()
    return (1, 0) if first is None or last is None else (first, last)


def _first_since(
    connection: Connection,
    number: sa.Column[int],
    at: sa.Column[datetime],
    since: datetime,
    among_these: range,
) -> int:
    """The first number of the window, by halving: no index leads from an instant to a number."""
    after = sa.bindparam("after", type_=sa.BigInteger())
    query = sa.select(number, at).where(number >= after).order_by(number).limit(1)
    low, high = among_these.start, among_these.stop
    while low < high:
        middle = (low + high) // 2
        row = connection.execute(query, {"after": middle}).first()
        if row is None or row[1] >= since:
            high = middle
        else:
            low = row[0] + 1
    return low
