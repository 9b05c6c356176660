"""Receipts on their way from a provider's callback into the ledger.

Owns: what a receipt starts once it is recorded: a confirmation where the policy takes one, the next
step where the message failed. Never does: know a provider.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from delivery.domain.channels import Confirms
from delivery.domain.lifecycle import Confirmation
from delivery.domain.policy import Policies
from delivery.domain.ports import Reads, Writes
from delivery.domain.records import RecordedReceipt
from delivery.domain.users.receipts import ProviderReceipt

logger = logging.getLogger(__name__)

LOOKUP_DELAYS = (0.2, 0.5, 1.0, 2.0)
"""Seconds between lookups: a callback can arrive before the worker recorded the provider's id."""
PAGE = 50
"""Receipts recorded in one call, so that a long list leaves the ledger to others in between."""


class ReceiptIntake:
    """Records receipts and starts what follows.

    Args:
        on_confirmed: called with the ids that a receipt confirmed.
        wake_chain: a hint that steps are due now.
        delays: seconds between lookups of a message that is not recorded yet.
    """

    def __init__(
        self,
        *,
        reads: Reads,
        writes: Writes,
        policies: Policies,
        on_confirmed: Callable[[Sequence[str]], None],
        wake_chain: Callable[[], None] = lambda: None,
        delays: Sequence[float] = LOOKUP_DELAYS,
    ) -> None:
        self._reads = reads
        self._writes = writes
        self._policies = policies
        self._on_confirmed = on_confirmed
        self._wake_chain = wake_chain
        self._delays = delays

    async def take(self, receipts: Sequence[ProviderReceipt]) -> int:
        """Record receipts; returns how many are about a message of ours."""
        known = 0
        for start in range(0, len(receipts), PAGE):
            page = receipts[start : start + PAGE]
            answers = await self._writes.record_receipts(page)
            for receipt, answer in zip(page, answers, strict=True):
                if answer is not None:
                    known += 1
                    await self._follow(receipt, answer)
        return known

    async def take_late(self, receipts: Sequence[ProviderReceipt]) -> bool:
        """Record receipts whose message may be known in a moment; whether it is."""
        for delay in (*self._delays, None):
            if await self.take(receipts):
                return True
            if delay is not None:
                await asyncio.sleep(delay)
        return False

    async def _follow(self, receipt: ProviderReceipt, answer: RecordedReceipt) -> None:
        if answer.failed:
            logger.warning(
                "%s %s: %s, %d attempts failed",
                receipt.channel,
                answer.digest.id,
                receipt.error,
                len(answer.failed),
            )
            self._wake_chain()
        if answer.is_delivery:
            await self._confirm(receipt, answer)

    async def _confirm(self, receipt: ProviderReceipt, answer: RecordedReceipt) -> None:
        """Confirm the events of a delivered message whose policy takes a receipt as
        confirmation."""
        evidence = f"receipt:{receipt.references[0]}"[:255]
        confirmations = [
            Confirmation(
                stored.event.id,
                answer.digest.user_id,
                receipt.channel,
                receipt.provider,
                evidence,
            )
            for stored in await self._reads.events(answer.listed)
            if (
                step := self._policies.of(stored.event.event_class).step_of(
                    answer.digest.step_name, receipt.channel
                )
            )
            is not None
            and step.confirms == Confirms.RECEIPT
        ]
        if confirmations:
            confirmed = await self._writes.confirm(confirmations, digest_id=answer.digest.id)
            self._on_confirmed(confirmed.confirmed)
