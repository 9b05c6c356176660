"""Writing many rows at once, by the fastest way each database has.

PostgreSQL takes COPY and arrays, SQLite ``executemany`` on its own driver. Nothing here decides
anything; the rows come complete.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.engine import Connection

from delivery.domain.lifecycle import Confirmation
from delivery.ledger.models import attempts, confirmations, runs

T = TypeVar("T")
PAGE = 500
"""Ids per statement: under SQLite's and PostgreSQL's parameter limits with room to spare."""

EVENT_INSERT = (
    "id", "type", "user_id", "run_id", "thread_id", "seq", "at", "class", "data", "meta", "state",
    "due_at", "expires_at", "handed_over_at", "recorded_at", "confirmed_at",
)  # fmt: skip

_COLUMNS = ", ".join(f'"{name}"' for name in EVENT_INSERT)
_COPY_EVENTS = f"COPY events ({_COLUMNS}) FROM STDIN"
_INSERT_EVENTS = (
    f"INSERT INTO events ({_COLUMNS}, position) "  # noqa: S608 - constants only
    f"VALUES ({', '.join('?' * (len(EVENT_INSERT) + 1))})"
)
_RUNS = """
INSERT INTO runs AS r (user_id, run_id, last_seq, started_at, updated_at)
SELECT u, x, s, %(now)s, %(now)s
FROM unnest(%(users)s::text[], %(runs)s::text[], %(seqs)s::bigint[]) AS t (u, x, s)
ON CONFLICT (user_id, run_id) DO UPDATE SET last_seq = {last_seq}, updated_at = %(now)s
RETURNING user_id, run_id, last_seq
"""
_RAISE = _RUNS.format(last_seq="greatest(r.last_seq, excluded.last_seq)")
_ADVANCE = _RUNS.format(last_seq="r.last_seq + excluded.last_seq")

Runs = Mapping[tuple[str, str], int]


def pages(items: Sequence[T], size: int = PAGE) -> Iterator[Sequence[T]]:
    """Slices of at most ``size``."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def is_postgresql(connection: Connection) -> bool:
    """Whether the connection speaks to PostgreSQL (else SQLite)."""
    return connection.dialect.name == "postgresql"


def insert_events(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert event rows (in the order of ``EVENT_INSERT``), numbered in the order given."""
    if is_postgresql(connection):
        with _cursor(connection) as cursor, cursor.copy(_COPY_EVENTS) as copy:
            for row in rows:
                copy.write_row(row)
        return
    last = connection.execute(sa.text("SELECT coalesce(max(position), 0) FROM events")).scalar_one()
    with _cursor(connection) as cursor:
        cursor.executemany(
            _INSERT_EVENTS,
            [
                (*(_sqlite_value(value) for value in row), position)
                for position, row in enumerate(rows, start=last + 1)
            ],
        )


def insert_attempts(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Insert attempt rows made by ``rows.attempt_values``."""
    connection.execute(sa.insert(attempts), list(rows))


def insert_confirmations(
    connection: Connection, proofs: Sequence[Confirmation], now: datetime
) -> None:
    """Insert proofs; one that stands there already adds no second row."""
    if is_postgresql(connection):
        columns = list(zip(*((p.event_id, p.channel, p.by, p.evidence) for p in proofs),
                           strict=True))  # fmt: skip
        with _cursor(connection) as cursor:
            cursor.execute(
                'INSERT INTO confirmations (event_id, channel, "by", evidence, at) '
                "SELECT e, c, b, v, %s FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::text[])"
                " AS t (e, c, b, v) ON CONFLICT DO NOTHING",
                (now, *(list(column) for column in columns)),
            )
        return
    connection.execute(
        sqlite_insert(confirmations).on_conflict_do_nothing(),
        [
            {"event_id": p.event_id, "channel": p.channel, "by": p.by, "evidence": p.evidence,
             "at": now}
            for p in proofs
        ],
    )  # fmt: skip


def raise_runs(connection: Connection, told: Runs, now: datetime) -> None:
    """Note sequence numbers that were handed out in process; ``last_seq`` never falls."""
    if told:
        _write_runs(connection, told, now, _RAISE, lambda old, new: sa.func.max(old, new))


def advance_runs(connection: Connection, wanted: Runs, now: datetime) -> dict[tuple[str, str], int]:
    """Take so many numbers of each run; returns each run's new ``last_seq``."""
    if not wanted:
        return {}
    return _write_runs(connection, wanted, now, _ADVANCE, lambda old, new: old + new)


def _write_runs(
    connection: Connection, values: Runs, now: datetime, statement: str, combine: Any
) -> dict[tuple[str, str], int]:
    keys = sorted(values)
    if is_postgresql(connection):
        with _cursor(connection) as cursor:
            cursor.execute(statement, {
                "now": now,
                "users": [user for user, _ in keys],
                "runs": [run for _, run in keys],
                "seqs": [values[key] for key in keys],
            })  # fmt: skip
            return {(user, run): last for user, run, last in cursor.fetchall()}
    insert = sqlite_insert(runs)
    query = insert.on_conflict_do_update(
        index_elements=["user_id", "run_id"],
        set_={"last_seq": combine(runs.c.last_seq, insert.excluded.last_seq), "updated_at": now},
    ).returning(runs.c.last_seq)
    return {
        key: connection.execute(query, {
            "user_id": key[0], "run_id": key[1], "last_seq": values[key],
            "started_at": now, "updated_at": now,
        }).scalar_one()
        for key in keys
    }  # fmt: skip


def _sqlite_value(value: Any) -> Any:
    """Instants as ``UtcDateTime`` writes them: fixed width, so that text sorts as time."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    return value


class _cursor:
    """The driver's cursor of this transaction; both drivers' cursors close the same way."""

    def __init__(self, connection: Connection) -> None:
        driver: Any = connection.connection.driver_connection
        self._cursor = driver.cursor()

    def __enter__(self) -> Any:
        return self._cursor

    def __exit__(self, *_: object) -> None:
        self._cursor.close()
