"""From an instant to the number of a row, where no index leads there.

Owns: the bisection over numbers that follow the time. Never does: write.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection


def ends_of(connection: Connection, number: sa.Column[int]) -> Sequence[int]:
    """The first and the last number; ``(1, 0)`` for none."""
    # Two statements: for both in one, SQLite reads the whole index.
    first = connection.execute(sa.select(sa.func.min(number))).scalar()
    last = connection.execute(sa.select(sa.func.max(number))).scalar()
    return (1, 0) if first is None or last is None else (first, last)


def first_since(
    connection: Connection,
    number: sa.ColumnElement[int],
    at: sa.Column[datetime],
    since: datetime,
    candidates: range,
) -> int:
    """The first number of the window, by bisection: no index leads from an instant to a number."""
    after = sa.bindparam("after", type_=sa.BigInteger())
    query = sa.select(number, at).where(number >= after).order_by(number).limit(1)
    low, high = candidates.start, candidates.stop
    while low < high:
        middle = (low + high) // 2
        row = connection.execute(query, {"after": middle}).first()
        if row is None or row[1] >= since:
            high = middle
        else:
            low = row[0] + 1
    return low
