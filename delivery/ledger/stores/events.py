"""The event store: recording, reading, operating, deleting and counting, as one port."""

from __future__ import annotations

from delivery.ledger.sql.database import Database
from delivery.ledger.stores.commit import Recording
from delivery.ledger.stores.feed import Feeding
from delivery.ledger.stores.operations import Operations
from delivery.ledger.stores.queries import Queries
from delivery.ledger.stores.retention import Retention
from delivery.ledger.stores.statistics import Statistics


class EventSql(Recording, Queries, Feeding, Operations, Retention, Statistics):
    """Implements the ``EventStore`` port."""

    def __init__(self, database: Database) -> None:
        self._database = database
