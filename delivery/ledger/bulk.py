"""Writing many rows at once, by the fastest way each database has.

PostgreSQL takes COPY and arrays, SQLite ``executemany`` on its own driver. Nothing here decides
anything; the rows come complete.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.domain.lifecycle import Confirmation
from delivery.ledger.models import attempts

T = TypeVar("T")
_SIZES = (100, 10, 1)
"""Rows per statement: few different ones, so that each is compiled once and cached."""
PAGE = 500
"""Ids per statement: under SQLite's and PostgreSQL's parameter limits with room to spare."""

EVENT_INSERT = (
    "id", "type", "user_id", "run_id", "thread_id", "seq", "at", "class", "data", "meta", "state",
    "due_at", "expires_at", "handed_over_at", "recorded_at", "confirmed_at",
)  # fmt: skip

_COLUMNS = ", ".join(f'"{name}"' for name in EVENT_INSERT)
_COPY_EVENTS = f"COPY events ({_COLUMNS}) FROM STDIN"
_INSERT_EVENTS = f"INSERT INTO events ({_COLUMNS}, position)"
_INSERT_CONFIRMATIONS = 'INSERT INTO confirmations (event_id, channel, "by", evidence, at)'
_DO_NOTHING = "ON CONFLICT DO NOTHING"
_UNNEST_CONFIRMATIONS = (
    'INSERT INTO confirmations (event_id, channel, "by", evidence, at) '
    "SELECT e, c, b, v, %s FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::text[]) "
    "AS t (e, c, b, v) ON CONFLICT DO NOTHING"
)
_INSERT_RUNS = """
INSERT INTO runs AS r (user_id, run_id, last_seq, started_at, updated_at) {rows}
ON CONFLICT (user_id, run_id)
DO UPDATE SET last_seq = {last_seq}, updated_at = excluded.updated_at
RETURNING last_seq, user_id, run_id
"""
_ROW_SQLITE = "(?, ?, ?, ?, ?)"
_ROWS_POSTGRESQL = (
    "SELECT u, x, s, %(now)s, %(now)s "
    "FROM unnest(%(users)s::text[], %(runs)s::text[], %(seqs)s::bigint[]) AS t (u, x, s)"
)

Runs = Mapping[tuple[str, str], int]
EventRow = tuple[str | int | None, ...]


def pages(items: Sequence[T], size: int = PAGE) -> Iterator[Sequence[T]]:
    """Slices of at most ``size``."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def is_postgresql(connection: Connection) -> bool:
    """Whether the connection speaks to PostgreSQL (else SQLite)."""
    return connection.dialect.name == "postgresql"


def stamp(connection: Connection, instant: datetime) -> str:
    """An instant as the driver's own text: fixed width, so that on SQLite text sorts as time."""
    utc = instant if instant.tzinfo is UTC else instant.astimezone(UTC)
    text = utc.isoformat(" ", "microseconds")
    return text if is_postgresql(connection) else text[:26]


def insert_events(connection: Connection, rows: Sequence[EventRow]) -> None:
    """Insert event rows, numbered in the order given.

    Args:
        rows: in the order of ``EVENT_INSERT``, instants made by ``stamp``.
    """
    if is_postgresql(connection):
        lines = "".join([_copy_line(row) for row in rows])
        with _cursor(connection) as cursor, cursor.copy(_COPY_EVENTS) as copy:
            copy.write(lines)
        return
    last = connection.execute(sa.text("SELECT coalesce(max(position), 0) FROM events")).scalar_one()
    with _cursor(connection) as cursor:
        numbered = [(*row, number) for number, row in enumerate(rows, start=last + 1)]
        _insert_values(cursor, _INSERT_EVENTS, numbered)


def _insert_values(
    cursor: Any, head: str, rows: Sequence[tuple[object, ...]], tail: str = ""
) -> None:
    """Insert on SQLite, many rows by one statement: its driver lets the interpreter lock go and
    takes it again for every single one, and a busy loop then makes each of them wait."""
    start = 0
    for size in _SIZES:
        while len(rows) - start >= size:
            page = rows[start : start + size]
            row = f"({', '.join('?' * len(page[0]))})"
            statement = f"{head} VALUES {', '.join([row] * size)} {tail}"
            cursor.execute(statement, list(chain.from_iterable(page)))
            start += size


def _copy_line(row: EventRow) -> str:
    """One line of COPY's text format. Source: PostgreSQL manual, COPY, "Text Format"."""
    return "\t".join(["\\N" if value is None else _escaped(value) for value in row]) + "\n"


def _escaped(value: str | int) -> str:
    text = str(value)
    if "\\" in text:
        text = text.replace("\\", "\\\\")
    if text.isprintable():
        return text
    return text.replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def insert_attempts(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Insert attempt rows made by ``rows.attempt_values``."""
    connection.execute(sa.insert(attempts), list(rows))


def insert_confirmations(
    connection: Connection, proofs: Sequence[Confirmation], now: datetime
) -> None:
    """Insert proofs; one that stands there already adds no second row."""
    values = [(p.event_id, p.channel, p.by, p.evidence) for p in proofs]
    with _cursor(connection) as cursor:
        if is_postgresql(connection):
            columns = [list(column) for column in zip(*values, strict=True)]
            cursor.execute(_UNNEST_CONFIRMATIONS, (now, *columns))
        else:
            at = stamp(connection, now)
            _insert_values(
                cursor, _INSERT_CONFIRMATIONS, [(*value, at) for value in values], _DO_NOTHING
            )


def raise_runs(connection: Connection, told: Runs, now: datetime) -> None:
    """Note sequence numbers that were handed out in process; ``last_seq`` never falls."""
    greatest = "greatest" if is_postgresql(connection) else "max"
    if told:
        _write_runs(connection, told, now, f"{greatest}(r.last_seq, excluded.last_seq)")


def advance_runs(connection: Connection, wanted: Runs, now: datetime) -> dict[tuple[str, str], int]:
    """Take so many numbers of each run; returns each run's new ``last_seq``."""
    if not wanted:
        return {}
    return _write_runs(connection, wanted, now, "r.last_seq + excluded.last_seq")


def _write_runs(
    connection: Connection, values: Runs, now: datetime, last_seq: str
) -> dict[tuple[str, str], int]:
    # Sorted: two batches that share runs lock them in the same order.
    keys = sorted(values)
    with _cursor(connection) as cursor:
        if is_postgresql(connection):
            statement = _INSERT_RUNS.format(rows=_ROWS_POSTGRESQL, last_seq=last_seq)
            cursor.execute(statement, {
                "now": now,
                "users": [user for user, _ in keys],
                "runs": [run for _, run in keys],
                "seqs": [values[key] for key in keys],
            })  # fmt: skip
            return {(user, run): last for last, user, run in cursor.fetchall()}
        at = stamp(connection, now)
        found: dict[tuple[str, str], int] = {}
        for page in pages(keys, _SIZES[0]):
            statement = _INSERT_RUNS.format(
                rows="VALUES " + ", ".join([_ROW_SQLITE] * len(page)), last_seq=last_seq
            )
            cursor.execute(
                statement, [value for key in page for value in (*key, values[key], at, at)]
            )
            found.update(((user, run), last) for last, user, run in cursor.fetchall())
        return found


class _cursor:
    """The driver's cursor of this transaction; both drivers' cursors close the same way."""

    def __init__(self, connection: Connection) -> None:
        driver: Any = connection.connection.driver_connection
        self._cursor = driver.cursor()

    def __enter__(self) -> Any:
        return self._cursor

    def __exit__(self, *_: object) -> None:
        self._cursor.close()
