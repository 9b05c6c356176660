"""Inserts of many rows at once, in the fastest form that each database has.

Owns: COPY and arrays for PostgreSQL, multi-row statements on the driver for SQLite. Never does:
compute a value; rows come complete.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from itertools import chain
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.domain.inputs.foreign_text import storable
from delivery.domain.lifecycle import Confirmation
from delivery.ledger.sql.columns import MAX_FOREIGN_NAME
from delivery.ledger.sql.dialect import array

T = TypeVar("T")
_SIZES = (256, 64, 16, 4, 1)
"""Rows per statement: few different ones, so that each is compiled once and cached."""
PAGE = 500
"""Ids per statement: under SQLite's and PostgreSQL's parameter limits with room to spare."""

EVENT_OWN = ("id", "type", "user_id", "run_id", "seq", "at", "data")
EVENT_SHAPE = (
    "thread_id",
    "class",
    "meta",
    "state",
    "due_at",
    "expires_at",
    "handed_over_at",
    "recorded_at",
    "confirmed_at",
)
"""Columns in which the rows of a batch differ little: a batch has few shapes."""
EVENT_OPTIONS = ("class_chosen", "ttl_ms", "group_key", "not_before", "traceparent")
"""What callers chose: further columns of the shape, for a batch with events that have some."""

ATTEMPT_OWN = ("event_id", "started_at")
ATTEMPT_SHAPE = (
    "generation",
    "channel",
    "number",
    "outcome",
    "retryable",
    "error",
    "provider_id",
    "digest_id",
    "token",
    "retry_after_ms",
    "ended_at",
    "step",
)
"""Columns in which the attempts of a batch differ little."""

_OWN = ", ".join(f'"{name}"' for name in EVENT_OWN)
_SHAPE = ", ".join(f'"{name}"' for name in EVENT_SHAPE)
_CHOSEN = ", ".join(f'"{name}"' for name in EVENT_SHAPE + EVENT_OPTIONS)
_COPY_EVENTS = {
    has_options: f"COPY events ({_OWN}, {shape}) FROM STDIN"
    for has_options, shape in ((False, _SHAPE), (True, _CHOSEN))
}
_INSERT_EVENTS = {
    has_options: f"INSERT INTO events ({shape}, {_OWN}, position)"
    for has_options, shape in ((False, _SHAPE), (True, _CHOSEN))
}
_COPY_ATTEMPTS = f"COPY attempts ({', '.join(ATTEMPT_OWN + ATTEMPT_SHAPE)}) FROM STDIN"
_INSERT_ATTEMPTS = f"INSERT INTO attempts ({', '.join(ATTEMPT_SHAPE + ATTEMPT_OWN)})"
_INSERT_CONFIRMATIONS = 'INSERT INTO confirmations (channel, at, event_id, "by", evidence)'
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
{returning}
"""
_RETURNING = "RETURNING last_seq, user_id, run_id"
_ROW_SQLITE = "(?, ?, ?, ?, ?)"
_ROWS_POSTGRESQL = (
    "SELECT u, x, s, clock_timestamp(), clock_timestamp() "
    "FROM unnest(%(users)s::text[], %(runs)s::text[], %(seqs)s::bigint[]) AS t (u, x, s)"
)

Runs = Mapping[tuple[str, str], int]
Values = tuple[str | int | None, ...]
EventRow = tuple[list[str | int | None], Values]
"""The values of ``EVENT_OWN``, in a list that ``insert_events`` takes over, and those of
``EVENT_SHAPE``; rows of one shape should share one object."""


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


def insert_events(
    connection: Connection, rows: Sequence[EventRow], has_options: bool = False
) -> None:
    """Insert event rows, numbered in the order given; instants made by ``stamp``.

    Args:
        has_options: the shapes of all rows end with the values of ``EVENT_OPTIONS``.
    """
    if is_postgresql(connection):
        with cursor_of(connection) as cursor, cursor.copy(_COPY_EVENTS[has_options]) as copy:
            copy.write(_copy_lines(rows))
        return
    last = connection.execute(sa.text("SELECT coalesce(max(position), 0) FROM events")).scalar_one()
    groups: dict[Values, list[list[str | int | None]]] = {}
    group: list[list[str | int | None]] = []
    before: Values | None = None
    for number, (own, shape) in enumerate(rows, start=last + 1):
        own.append(number)
        if shape is not before:  # most rows have the shape of the one before
            group = groups.setdefault(shape, [])
            before = shape
        group.append(own)
    with cursor_of(connection) as cursor:
        for shape, group in groups.items():
            _insert_values(cursor, _INSERT_EVENTS[has_options], shape, group)


def _copy_lines(rows: Sequence[EventRow]) -> str:
    lines: list[str] = []
    ends: dict[Values, str] = {}
    end = ""
    before: Values | None = None
    for own, shape in rows:
        if shape is not before:
            end = ends.get(shape) or ends.setdefault(shape, f"\t{_copy_text(shape)}\n")
            before = shape
        lines.append(_copy_own(own) + end)
    return "".join(lines)


def _insert_values(
    cursor: Any,
    head: str,
    shared: Values,
    rows: Sequence[Sequence[str | int | None]],
    tail: str = "",
) -> None:
    """Insert on SQLite, many rows per statement, with the values that all rows share bound once.

    The driver releases and takes the interpreter lock for each statement, and waits for it while
    the loop is busy; and a bound value costs more than the rest of a row.
    """
    start = 0
    for size in _SIZES:
        if len(rows) - start >= size:
            statement = _values_statement(head, len(shared), len(rows[0]), size, tail)
            while len(rows) - start >= size:
                page = rows[start : start + size]
                cursor.execute(statement, list(chain(shared, *page)))
                start += size


@cache
def _values_statement(head: str, shared: int, own: int, size: int, tail: str) -> str:
    row = ", ".join([f"?{number}" for number in range(1, shared + 1)] + ["?"] * own)
    return f"{head} VALUES {', '.join([f'({row})'] * size)} {tail}"


def _copy_own(values: Sequence[str | int | None]) -> str:
    """``_copy_text`` of a row's own values; one check finds the most frequent case, no escapes."""
    id_, type_, user_id, run_id, seq, at, data = values
    text = f"{type_}{user_id}{run_id}{data}"
    if seq is None or "\\" in text or not text.isprintable():
        return _copy_text(values)
    return f"{id_}\t{type_}\t{user_id}\t{run_id}\t{seq}\t{at}\t{data}"


def _copy_text(values: Iterable[str | int | None]) -> str:
    """A part of a line in COPY's text format. Source: PostgreSQL manual, COPY, "Text Format"."""
    return "\t".join(["\\N" if value is None else _escaped(value) for value in values])


def _escaped(value: str | int) -> str:
    text = str(value)
    if "\\" in text:
        text = text.replace("\\", "\\\\")
    if text.isprintable():
        return text
    return text.replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def insert_attempts(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Insert attempt rows made by ``rows.attempt_values``, numbered in the order given."""
    made = _attempt_rows(connection, rows)
    if is_postgresql(connection):
        lines = [_copy_text((*own, *shape)) + "\n" for own, shape in made]
        with cursor_of(connection) as cursor, cursor.copy(_COPY_ATTEMPTS) as copy:
            copy.write("".join(lines))
        return
    groups: dict[Values, list[Values]] = {}
    if len({own[0] for own, _ in made}) == len(made):
        for own, shape in made:
            groups.setdefault(shape, []).append(own)
    else:  # an event's attempts at one instant are read in the order of their numbers
        groups[()] = [(*shape, *own) for own, shape in made]
    with cursor_of(connection) as cursor:
        for shape, group in groups.items():
            _insert_values(cursor, _INSERT_ATTEMPTS, shape, group)


def _attempt_rows(
    connection: Connection, rows: Sequence[dict[str, Any]]
) -> list[tuple[Values, Values]]:
    """The values of ``ATTEMPT_OWN`` and of ``ATTEMPT_SHAPE``, as the columns' types make them."""
    texts: dict[datetime | None, str | None] = {None: None}

    def text_of(instant: datetime | None) -> str | None:
        if instant not in texts:  # a batch has few different ones
            texts[instant] = stamp(connection, instant) if instant is not None else None
        return texts[instant]

    return [
        (
            (row["event_id"], text_of(row["started_at"])),
            (
                row["generation"],
                row["channel"],
                row["number"],
                row["outcome"],
                int(row["retryable"]),
                _foreign(row["error"]),
                _foreign(row["provider_id"], MAX_FOREIGN_NAME),
                row["digest_id"],
                row["token"],
                row["retry_after_ms"],
                text_of(row["ended_at"]),
                row["step"],
            ),
        )
        for row in rows
    ]


def _foreign(text: str | None, length: int | None = None) -> str | None:
    return None if text is None else storable(text, length)


def insert_confirmations(
    connection: Connection, confirmations: Sequence[Confirmation], now: datetime
) -> None:
    """Insert confirmations; a repeated one adds no second row."""
    with cursor_of(connection) as cursor:
        if is_postgresql(connection):
            values = [(p.event_id, p.channel, p.by, p.evidence) for p in confirmations]
            cursor.execute(_UNNEST_CONFIRMATIONS, (now, *map(array, zip(*values, strict=True))))
            return
        at = stamp(connection, now)
        groups: dict[str, list[Values]] = {}
        for p in confirmations:
            groups.setdefault(p.channel, []).append((p.event_id, p.by, p.evidence))
        for channel, group in groups.items():
            _insert_values(cursor, _INSERT_CONFIRMATIONS, (channel, at), group, _DO_NOTHING)


def raise_runs(connection: Connection, assigned: Runs) -> None:
    """Record sequence numbers that a process assigned; ``last_seq`` never falls."""
    greatest = "greatest" if is_postgresql(connection) else "max"
    if assigned:
        _write_runs(connection, assigned, f"{greatest}(r.last_seq, excluded.last_seq)", "")


def advance_runs(connection: Connection, wanted: Runs) -> dict[tuple[str, str], int]:
    """Reserve that many numbers of each run; returns each run's new ``last_seq``."""
    if not wanted:
        return {}
    rows = _write_runs(connection, wanted, "r.last_seq + excluded.last_seq", _RETURNING)
    return {(user, run): last for last, user, run in rows}


def _write_runs(
    connection: Connection, values: Runs, last_seq: str, returning: str
) -> list[tuple[int, str, str]]:
    # Sorted: two batches that share runs lock them in the same order.
    keys = sorted(values)
    with cursor_of(connection) as cursor:
        if is_postgresql(connection):
            statement = _INSERT_RUNS.format(
                rows=_ROWS_POSTGRESQL, last_seq=last_seq, returning=returning
            )
            cursor.execute(
                statement,
                {
                    "users": array(user for user, _ in keys),
                    "runs": array(run for _, run in keys),
                    "seqs": array(values[key] for key in keys),
                },
            )
            return list(cursor.fetchall()) if returning else []
        at = stamp(connection, datetime.now(UTC))
        found: list[tuple[int, str, str]] = []
        for page in pages(keys):
            rows = "VALUES " + ", ".join([_ROW_SQLITE] * len(page))
            statement = _INSERT_RUNS.format(rows=rows, last_seq=last_seq, returning=returning)
            cursor.execute(
                statement, [value for key in page for value in (*key, values[key], at, at)]
            )
            found += cursor.fetchall()
        return found


class cursor_of:
    """The driver's cursor of this transaction; both drivers' cursors close the same way."""

    def __init__(self, connection: Connection) -> None:
        driver: Any = connection.connection.driver_connection
        self._cursor = driver.cursor()

    def __enter__(self) -> Any:
        return self._cursor

    def __exit__(self, *_: object) -> None:
        self._cursor.close()
