"""Messages that ask the owners of unverified addresses whether they may get messages.

Owns: sending them, each at most once: a message whose outcome is unknown is not sent again. Never
does: choose who is asked, or how often (the ledger's store does, where the contact is set).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from delivery.domain.lifecycle import Outcome
from delivery.domain.records import Result
from delivery.domain.stores.ledger import Ledger
from delivery.domain.transports import Links, Message, Taken, Transport
from delivery.domain.users.verification import Verification
from delivery.tasks.attempts import result_of

logger = logging.getLogger(__name__)

MAX_SECONDS = 10.0


class Verifier:
    """Sends what waits on a channel. Safe to use from several threads.

    Args:
        transports: of the external channels, by channel; messages of others wait for their worker.
        timeout: seconds of one attempt.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        transports: Mapping[str, Transport],
        links: Links,
        *,
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._transports = transports
        self._links = links
        self._timeout = timeout
        self._clock = clock

    def run(self, channel: str) -> int:
        """Send a channel's messages until none waits, the provider does not work, or time is up
        (the next task continues).

        Returns:
            The number of attempts.

        Raises:
            LedgerUnavailable: the ledger is away; a sweep announces the rest again.
        """
        transport = self._transports.get(channel)
        if transport is None:
            return 0
        ends = self._clock() + MAX_SECONDS
        made = 0
        while self._clock() < ends and self._ledger.breakers.allows(channel):
            verification = self._ledger.verifications.claim(channel)
            if verification is None:
                break
            made += 1
            if not self._serve(transport, verification):
                break
        return made

    def _serve(self, transport: Transport, verification: Verification) -> bool:
        """Make one attempt; ``False`` if the provider does not work now."""
        channel = verification.channel

        def deliver() -> Taken:
            return transport.deliver(self._message(verification), self._timeout)

        reason = transport.unreachable(verification.contact)
        if reason is None:
            result = result_of(channel, deliver)
        else:
            result = Result(Outcome.FAILED, error=reason, retryable=False)
        if result.health is not None:
            self._ledger.breakers.report(channel, result.health)
        if result.suppress is not None:
            self._ledger.suppressions.add(
                channel,
                verification.address,
                result.suppress,
                provider="refusal",
                code=result.code,
                user_id=verification.contact.user_id,
            )
        is_sent = result.outcome in (Outcome.DELIVERED, Outcome.UNKNOWN)
        retry_in = None if is_sent or not result.retryable else verification.retry_in
        if retry_in is not None and result.retry_after is not None:
            retry_in = max(retry_in, result.retry_after)
        self._ledger.verifications.end(verification, is_sent=is_sent, retry_in=retry_in)
        if not is_sent:
            # The error may quote what a provider says about the address.
            what = "is tried again" if retry_in is not None else "is given up"
            logger.warning("%s: verification message %s %s", channel, verification.id, what)
        return result.health is not False

    def _message(self, verification: Verification) -> Message:
        return Message(
            key=verification.id,
            user_id=verification.user_id,
            run_id=None,
            events=(),
            contact=verification.contact,
            number=verification.attempts,
            verify_url=self._links.verify_url(
                verification.user_id, verification.channel, verification.address
            ),
        )
