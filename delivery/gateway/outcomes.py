"""Outcomes of pushes on the live path: confirmed, refused, never sent.

Owns: turning a session's decisions into confirmations and hand-overs; all confirmations of one turn
of the loop leave it together. Never does: wait; the journal commits in a thread of its own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from delivery.domain.channels import Channel
from delivery.domain.lifecycle import Confirmation
from delivery.domain.ports import Journal, Writes
from delivery.errors import LedgerError
from delivery.gateway.disconnects import GRACE, ReconnectGrace
from delivery.gateway.expected import EXPECTED_FOR
from delivery.gateway.registry import Registry
from delivery.telemetry import metrics
from delivery.telemetry.id_ages import observe_ages

MAX_UNCOUNTED = 1_000
"""Turns of the loop whose acknowledgements may wait for the metrics."""

logger = logging.getLogger(__name__)

_CHANNEL = Channel.WEBSOCKET.value  # plain text: made once per acknowledged event


class Outcomes:
    """Passes outcomes to the journal, the receipts and the chain.

    Args:
        on_confirmed: called on the loop with the ids just confirmed; receipts wait for it.
        wake_chain: a hint for the sweeper that events were handed over.
    """

    def __init__(
        self,
        journal: Journal,
        writes: Writes,
        registry: Registry,
        *,
        on_confirmed: Callable[[Sequence[str]], None] = lambda ids: None,
        wake_chain: Callable[[], None] = lambda: None,
    ) -> None:
        self._journal = journal
        self._writes = writes
        self._registry = registry
        self.on_confirmed = on_confirmed
        self._wake_chain = wake_chain
        self.on_acked: Callable[[Sequence[str]], None] | None = None
        self._reconnect_grace = ReconnectGrace(self._is_away, self._expedite, GRACE)
        self._return_grace = ReconnectGrace(self._is_away, self._give_up, EXPECTED_FOR)
        registry.on_expected = self._return_grace.add
        self._confirmations: list[Confirmation] = []
        self._acked: list[tuple[float, Sequence[str]]] = []  # instants and ids, for metrics

    def confirmed(self, user_id: str, ids: Sequence[str], by: str, evidence: str) -> None:
        """Confirm events that a client acknowledged on connection ``evidence``.

        Effect: queues one confirmation per event for the ledger; notifies receipts, here and
        elsewhere.
        """
        confirmations = self._confirmations
        if not confirmations:
            asyncio.get_running_loop().call_soon(self._flush_confirmed)
        for event_id in ids:
            confirmations.append(Confirmation(event_id, user_id, _CHANNEL, by, evidence))

    def _flush_confirmed(self) -> None:
        confirmations, self._confirmations = self._confirmations, []
        ids = [confirmation.event_id for confirmation in confirmations]
        self._journal.confirm(confirmations)
        self._acked.append((time.time(), ids))
        if len(self._acked) >= MAX_UNCOUNTED:
            self.count_acks()
        self.on_confirmed(ids)
        if self.on_acked is not None:
            self.on_acked(ids)
        self._registry.peers.confirmed(ids)

    def count_acks(self) -> None:
        """Add the acknowledgements since the last call to the metrics: once per tick, not per
        event."""
        acked, self._acked = self._acked, []
        if acked:
            observe_ages(metrics.time_to_ack, acked)

    def refused(self, event_id: str, reason: str) -> None:
        """Hand over an event that a client refused."""
        self._journal.hand_over(event_id, reason)
        self._wake_chain()

    def left(self, user_id: str, ids: Sequence[str]) -> None:
        """Start the grace period of events that were in flight on a user's last connection when it
        ended. They are handed over after it, before their ``ack_timeout``, unless the user is
        connected again."""
        if not self._registry.is_closing:
            self._reconnect_grace.add(user_id, ids)

    def close(self) -> None:
        """Cancel all grace periods, because the node shuts down."""
        self._reconnect_grace.close()
        self._return_grace.close()

    def unsent(self, ids: Sequence[str], reason: str) -> None:
        """Hand over events that reached no connection."""
        if not ids:
            return
        for event_id in ids:
            self._journal.hand_over(event_id, reason)
        self._wake_chain()

    def _is_away(self, user_id: str) -> bool:
        registry = self._registry
        return not registry.connections_of(user_id) and not registry.peers.hosts_of(user_id)

    async def _give_up(self, ids: Sequence[str]) -> None:
        """Hand over events that were emitted for a user who did not come back."""
        self.unsent(ids, "nobody connected")

    async def _expedite(self, ids: Sequence[str]) -> None:
        try:
            await self._writes.expedite(ids)
        except LedgerError as error:
            logger.debug("unacknowledged events wait for their due time: ledger: %s", error)
            return
        self._wake_chain()
