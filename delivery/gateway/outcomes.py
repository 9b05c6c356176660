"""What the fast path tells the rest: confirmed, refused, never sent.

Owns: turning a session's decisions into proofs and hand-overs; what is confirmed in one turn of the
loop is told at its end, as one. Never does: wait; the journal commits what has gathered in its own
thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from delivery.domain.channels import Channel
from delivery.domain.lifecycle import Confirmation
from delivery.domain.ports import Journal, Writes
from delivery.errors import LedgerError
from delivery.gateway.departures import Departures
from delivery.gateway.registry import Registry

logger = logging.getLogger(__name__)

_CHANNEL = Channel.WEBSOCKET.value  # plain text: made once per acknowledged event


class Outcomes:
    """The gateway's way to the journal, the receipts and the chain.

    Args:
        on_confirmed: told on the loop which events were just confirmed; receipts wait for it.
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
        self._departures = Departures(self._is_away, self._give_up)
        self._proofs: list[Confirmation] = []

    def confirmed(self, user_id: str, ids: Sequence[str], by: str, evidence: str) -> None:
        """A client acknowledged these events on connection ``evidence``.

        Effect: one proof each is queued for the ledger; receipts here and on other nodes hear it.
        """
        proofs = self._proofs
        if not proofs:
            asyncio.get_running_loop().call_soon(self._tell)
        for event_id in ids:
            proofs.append(Confirmation(event_id, user_id, _CHANNEL, by, evidence))

    def _tell(self) -> None:
        proofs, self._proofs = self._proofs, []
        ids = [proof.event_id for proof in proofs]
        self._journal.confirm(proofs)
        self.on_confirmed(ids)
        self._registry.peers.confirmed(ids)

    def refused(self, event_id: str, reason: str) -> None:
        """A client cannot handle the event: its chain starts at once."""
        self._journal.hand_over(event_id, reason)
        self._wake_chain()

    def left(self, user_id: str, ids: Sequence[str]) -> None:
        """These were in flight to a user's last connection when it ended: unless the client is back
        in a moment, the chain has them, and not only when their ``ack_timeout`` is over."""
        if not self._registry.is_closing:
            self._departures.add(user_id, ids)

    def close(self) -> None:
        """The node ends."""
        self._departures.close()

    def unsent(self, ids: Sequence[str], reason: str) -> None:
        """These were queued for a connection that ended before they left, and nobody else of the
        user is connected."""
        if not ids:
            return
        for event_id in ids:
            self._journal.hand_over(event_id, reason)
        self._wake_chain()

    def _is_away(self, user_id: str) -> bool:
        registry = self._registry
        return not registry.connections_of(user_id) and not registry.peers.hosts_of(user_id)

    async def _give_up(self, ids: Sequence[str]) -> None:
        try:
            await self._writes.expedite(ids)
        except LedgerError as error:
            logger.debug("what a client left unacknowledged waits for its time: %s", error)
            return
        self._wake_chain()
