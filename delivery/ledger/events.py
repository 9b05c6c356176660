"""The event store: recording, reading, operating, deleting and counting, as one port."""

from __future__ import annotations

from delivery.ledger.database import Database
from delivery.ledger.feeding import Feeding
from delivery.ledger.operations import Operations
from delivery.ledger.queries import Queries
from delivery.ledger.recording import Recording
from delivery.ledger.retention import Retention
from delivery.ledger.statistics import Statistics


class EventSql(Recording, Queries, Feeding, Operations, Retention, Statistics):
    """Implements the ``EventStore`` port."""

    def __init__(self, database: Database) -> None:
        self._database = database
