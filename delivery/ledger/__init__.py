"""The ledger: accepted events, their attempts and confirmations, and when each event is due next.

Owns: the tables, all SQL, group commit and the spool. Other parts reach it through the ports.
"""

from __future__ import annotations

from datetime import datetime
from typing import Self

from delivery.domain.audit import AuditKeys
from delivery.ledger.partitions.partitions import PartitionSql
from delivery.ledger.sql.database import Database
from delivery.ledger.stores.audit.audit import AuditSql
from delivery.ledger.stores.breakers import BreakerSql, ProviderRateSql
from delivery.ledger.stores.cloud_events import CloudEventSql
from delivery.ledger.stores.confirmations import ConfirmationSql
from delivery.ledger.stores.events import EventSql
from delivery.ledger.stores.fallback.alerts import AlertSql
from delivery.ledger.stores.fallback.chain import ChainSql
from delivery.ledger.stores.fallback.digests import DigestSql
from delivery.ledger.stores.feed import FeedSql
from delivery.ledger.stores.nodes import NodeSql
from delivery.ledger.stores.operations import OperationSql
from delivery.ledger.stores.operators.history import HistorySql
from delivery.ledger.stores.operators.sent_messages import SentMessageSql
from delivery.ledger.stores.queue_copies import QueueCopySql
from delivery.ledger.stores.receipts import ReceiptSql
from delivery.ledger.stores.recording import RecordingSql
from delivery.ledger.stores.retention import RetentionSql
from delivery.ledger.stores.revocations import RevocationSql
from delivery.ledger.stores.runs import RunSql
from delivery.ledger.stores.statistics import StatisticsSql
from delivery.ledger.stores.users.contacts import ContactSql
from delivery.ledger.stores.users.erasure import ErasureSql
from delivery.ledger.stores.users.inbox import InboxSql
from delivery.ledger.stores.users.suppressions import PushTargetSql, SuppressionSql
from delivery.ledger.stores.users.verifications import VerificationSql
from delivery.ledger.stores.webhooks.webhooks import WebhookSql


class SqlLedger:
    """Implements the ``Ledger`` port on SQLite or PostgreSQL. Synchronous and thread-safe.

    Attributes:
        database: what its stores share; the product asks the stores only.
    """

    def __init__(
        self, url: str, *, pool_size: int = 8, audit_keys: AuditKeys | None = None
    ) -> None:
        """Prepare an engine; connects on first use.

        Args:
            url: SQLAlchemy URL of a SQLite file or a PostgreSQL database.
            audit_keys: keys of the compliance log. Without them its codes show accidents only.

        Raises:
            ConfigError: the URL is malformed or names another database.
        """
        self._open(Database(url, pool_size=pool_size), audit_keys)

    @classmethod
    def on(cls, database: Database, audit_keys: AuditKeys | None = None) -> Self:
        """A ledger on a database that is open already, which it shares and closes."""
        made = cls.__new__(cls)
        made._open(database, audit_keys)
        return made

    def _open(self, database: Database, audit_keys: AuditKeys | None = None) -> None:
        self.database = database
        self.recording = RecordingSql(database)
        self.confirmations = ConfirmationSql(database)
        self.events = EventSql(database)
        self.cloud_events = CloudEventSql(database)
        self.runs = RunSql(database)
        self.feed = FeedSql(database)
        self.operations = OperationSql(database)
        self.retention = RetentionSql(database)
        self.partitions = PartitionSql(database)
        self.statistics = StatisticsSql(database)
        self.history = HistorySql(database)
        self.sent_messages = SentMessageSql(database)
        self.chain = ChainSql(database)
        self.digests = DigestSql(database)
        self.alerts = AlertSql(database)
        self.contacts = ContactSql(database)
        self.verifications = VerificationSql(database)
        self.inbox = InboxSql(database)
        self.receipts = ReceiptSql(database)
        self.suppressions = SuppressionSql(database)
        self.push_targets = PushTargetSql(database, self.contacts.forget_web_push)
        self.breakers = BreakerSql(database)
        self.provider_rates = ProviderRateSql(database)
        self.queue_copies = QueueCopySql(database)
        self.audit = AuditSql(database, audit_keys)
        self.erasure = ErasureSql(database, self.audit)
        self.nodes = NodeSql(database)
        self.revocations = RevocationSql(database)
        self.webhooks = WebhookSql(database)

    def now(self) -> datetime:
        """The ledger's clock, aware UTC."""
        return self.database.now()

    def ping(self) -> None:
        """Raises ``LedgerUnavailable`` when the database does not answer, ``LedgerReadOnly`` when
        it takes no writes."""
        self.database.ping()

    def close(self) -> None:
        """Close every pooled connection."""
        self.database.close()


__all__ = ["SqlLedger"]
