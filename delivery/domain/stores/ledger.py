"""The ledger: every store, by name."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from delivery.domain.stores.chain import (
    AlertStore,
    BreakerStore,
    ChainStore,
    DigestStore,
    NodeStore,
    ProviderRateStore,
    QueueCopyStore,
)
from delivery.domain.stores.events import (
    CloudEventStore,
    ConfirmationStore,
    EventStore,
    FeedStore,
    HistoryStore,
    OperationStore,
    PartitionStore,
    RecordingStore,
    RetentionStore,
    RunStore,
    SentMessageStore,
    StatisticsStore,
)
from delivery.domain.stores.users import (
    AuditStore,
    ContactStore,
    ErasureStore,
    InboxStore,
    PushTargets,
    ReceiptStore,
    RevocationStore,
    SuppressionStore,
    VerificationStore,
)
from delivery.domain.stores.webhooks import WebhookStore


class Ledger(Protocol):
    """The ledger, by store."""

    @property
    def recording(self) -> RecordingStore: ...
    @property
    def confirmations(self) -> ConfirmationStore: ...
    @property
    def events(self) -> EventStore: ...
    @property
    def cloud_events(self) -> CloudEventStore: ...
    @property
    def runs(self) -> RunStore: ...
    @property
    def feed(self) -> FeedStore: ...
    @property
    def operations(self) -> OperationStore: ...
    @property
    def retention(self) -> RetentionStore: ...
    @property
    def partitions(self) -> PartitionStore: ...
    @property
    def statistics(self) -> StatisticsStore: ...
    @property
    def sent_messages(self) -> SentMessageStore: ...
    @property
    def history(self) -> HistoryStore: ...
    @property
    def chain(self) -> ChainStore: ...
    @property
    def digests(self) -> DigestStore: ...
    @property
    def alerts(self) -> AlertStore: ...
    @property
    def contacts(self) -> ContactStore: ...
    @property
    def verifications(self) -> VerificationStore: ...
    @property
    def inbox(self) -> InboxStore: ...
    @property
    def receipts(self) -> ReceiptStore: ...
    @property
    def suppressions(self) -> SuppressionStore: ...
    @property
    def push_targets(self) -> PushTargets: ...
    @property
    def breakers(self) -> BreakerStore: ...
    @property
    def provider_rates(self) -> ProviderRateStore: ...
    @property
    def queue_copies(self) -> QueueCopyStore: ...
    @property
    def audit(self) -> AuditStore: ...
    @property
    def erasure(self) -> ErasureStore: ...
    @property
    def nodes(self) -> NodeStore: ...
    @property
    def revocations(self) -> RevocationStore: ...
    @property
    def webhooks(self) -> WebhookStore: ...
    def now(self) -> datetime: ...
    def ping(self) -> None: ...
    def close(self) -> None: ...
