"""Which partitions there are, what they are called, and which ids belong into which.

Owns: names and bounds. A partition takes the ids of one period; an id of another time, as callers
may send, is in the default one. Source: RFC 9562, 5.7, the layout of a UUIDv7.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.ledger.sql.bulk import is_postgresql

TABLE = "events"
FIRST = "events_first"
"""The table as it was before the conversion."""
DEFAULT = "events_default"
RANGE = "events_range"
"""The check under which the first partition is proven without a scan under a lock."""
_COMMENT = "delivery: partitioned by "
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Period(StrEnum):
    """How much time one partition holds."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"

    def start(self, instant: datetime) -> datetime:
        """The beginning of the period that holds an instant, in UTC; weeks begin on Monday."""
        day = instant.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        if self is Period.MONTH:
            return day.replace(day=1)
        return day - timedelta(days=day.weekday() if self is Period.WEEK else 0)

    def next(self, start: datetime) -> datetime:
        """The beginning of the period after the one that begins at ``start``."""
        days = {Period.DAY: 1, Period.WEEK: 7, Period.MONTH: 31}[self]
        return self.start(start + timedelta(days=days))


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition.

    Attributes:
        start: of the ids' times, aware UTC; ``None`` for the default one.
        end: the first instant that is no longer in it.
        rows: the database's estimate; ``None`` before its first statistics.
        size: bytes with indexes.
    """

    name: str
    start: datetime | None
    end: datetime | None
    rows: int | None
    size: int

    @property
    def is_default(self) -> bool:
        """Whether it holds the ids that belong into no other."""
        return self.end is None


@dataclass(frozen=True, slots=True)
class Layout:
    """The partitions of ``events``.

    Attributes:
        partitions: in order of time, the default one last.
        detached: tables that are partitions no more and wait to be dropped.
        is_owner: this role may make and drop partitions.
    """

    period: Period
    partitions: tuple[Partition, ...]
    detached: tuple[str, ...]
    is_owner: bool

    @property
    def end(self) -> datetime:
        """Where the last partition ends."""
        return max(one.end for one in self.partitions if one.end is not None)

    def is_due(self, now: datetime) -> bool:
        """Whether the partition after the present one is missing."""
        return self.end <= self.period.next(self.period.start(now))


def name_of(start: datetime) -> str:
    """The name of the partition that begins then."""
    return f"events_p{start:%Y%m%d}"


def first_id(instant: datetime) -> str:
    """The least id of that instant."""
    milliseconds = int(instant.timestamp()) * 1000
    return str(UUID(int=max(0, milliseconds) << 80))


def bounds(text: str) -> tuple[datetime, datetime] | None:
    """The times of the two ids in a bound or a check; ``None`` for the default partition."""
    found = _UUID.findall(text)
    if len(found) != 2:
        return None
    start, end = (datetime.fromtimestamp((UUID(one).int >> 80) / 1000, UTC) for one in found)
    return start, end


_KIND = sa.text(
    "select c.relkind::text as kind, obj_description(c.oid, 'pg_class') as comment, "
    "pg_has_role(current_user, c.relowner, 'USAGE') as is_owner "
    "from pg_class c where c.oid = to_regclass('events')"
)
_PARTITIONS = sa.text(
    "select c.relname as name, pg_get_expr(c.relpartbound, c.oid) as bound, "
    "c.reltuples::bigint as rows, pg_total_relation_size(c.oid) as size "
    "from pg_inherits i join pg_class c on c.oid = i.inhrelid "
    "where i.inhparent = to_regclass('events')"
)
_DETACHED = sa.text(
    "select c.relname from pg_class c where c.relkind = 'r' and not c.relispartition "
    "and c.relnamespace = current_schema()::regnamespace "
    r"and (c.relname = 'events_first' or c.relname ~ '^events_p[0-9]{8}$') order by c.relname"
)


def look(connection: Connection) -> Layout | None:
    """The partitions; ``None`` where ``events`` is one table."""
    if not is_postgresql(connection):
        return None
    table = connection.execute(_KIND).one_or_none()
    if table is None or table.kind != "p":
        return None
    found = []
    for row in connection.execute(_PARTITIONS):
        start, end = bounds(row.bound) or (None, None)
        rows = row.rows if row.rows >= 0 else None
        found.append(Partition(row.name, start, end, rows, row.size))
    found.sort(key=lambda one: one.start or datetime.max.replace(tzinfo=UTC))
    period = Period((table.comment or "").removeprefix(_COMMENT) or Period.MONTH)
    detached = tuple(connection.execute(_DETACHED).scalars())
    return Layout(period, tuple(found), detached, table.is_owner)


def comment(period: Period) -> str:
    """What the table's comment says, from which later commands know the period."""
    return f"{_COMMENT}{period}"
