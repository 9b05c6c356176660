"""The partitions of ``events``, for operators and for maintenance."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from delivery.domain.lifecycle import State
from delivery.ledger.partitions.converting import convert
from delivery.ledger.partitions.dropping import drop_old
from delivery.ledger.partitions.layout import Layout, Period, look
from delivery.ledger.partitions.making import make_ahead
from delivery.ledger.sql.database import Database


class PartitionSql:
    """``PartitionStore`` over SQL, and what only the tables' owner may do."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def layout(self) -> Layout | None:
        """The partitions; ``None`` where ``events`` is one table."""
        if self._database.is_sqlite:
            return None
        with self._database.read() as connection:
            return look(connection)

    def convert(self, period: Period) -> Sequence[str]:
        """Make ``events`` a partitioned table, and its next partitions; see ``converting``.

        Raises:
            ConfigError: SQLite, or a role that does not own the table.
            LedgerUnavailable: the table stayed locked; the next call goes on from there.
        """
        convert(self._database, period)
        return self.make_ahead()

    def make_ahead(self) -> Sequence[str]:
        """See the port."""
        return [] if self._database.is_sqlite else make_ahead(self._database)

    def drop_old(
        self, before: Mapping[State, datetime], sleep: Callable[[float], None] = time.sleep
    ) -> dict[State, int]:
        """Drop the partitions in which every event was recorded before the instant of its state;
        deleted events by state."""
        return {} if self._database.is_sqlite else drop_old(self._database, before, sleep)
