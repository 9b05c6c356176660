"""The ``email`` and ``sms`` steps: events gather in a digest, which is claimed and sent as one.

Owns: when an event joins a digest, and when a digest is sent, retried or closed. The ledger reads
its members at the claim and keeps their attempt rows. Never does: render or send a message.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial

from delivery.domain.channels import Confirms, OnUnknown
from delivery.domain.event import EventClass
from delivery.domain.fallback import retry_at
from delivery.domain.health import RECOVERY
from delivery.domain.lifecycle import Attempt, Outcome
from delivery.domain.policy import SINGLE, Policies
from delivery.domain.ports import Jitter, Links, Message, Taken, Transport
from delivery.domain.records import Digest, DigestClaim, Result
from delivery.tasks.attempts import Work, result_of
from delivery.tasks.run import BREAKER_OPEN, Run, has_waited_long

logger = logging.getLogger(__name__)

UNKNOWN_LIMIT = {OnUnknown.SKIP: 0, OnUnknown.ONCE: 1, OnUnknown.RETRY: None}
"""Attempts of unknown outcome after which a member is left out, by the step's ``on_unknown``."""

TAKEN_RECHECK = 2.0
"""Seconds until the next decision on an event whose digest another worker is sending."""


class DigestStep:
    """Sends one message per digest; its outcome is recorded for every member."""

    def __init__(
        self,
        transport: Transport,
        policies: Policies,
        links: Links,
        callback_url: str | None,
        jitter: Jitter,
    ) -> None:
        self._transport = transport
        self._links = links
        self._callback_url = callback_url
        self._jitter = jitter
        self._types = _types_on(transport.name, policies)

    def run(self, run: Run, works: Sequence[Work]) -> list[Work]:
        """Let events join their digests, and send the digests that are due; see ``StepRunner``."""
        now = run.now()
        due: dict[str, list[Work]] = {}
        digests: dict[str, Digest] = {}

        def join(part: Sequence[Work]) -> list[Work]:
            for work in part:
                digest = self._pending(run, work) or self._join(run, work)
                if digest.due_at is not None and digest.due_at > now:
                    run.postpone([work], digest.due_at)
                else:
                    digests[digest.id] = digest
                    due.setdefault(digest.id, []).append(work)
            return []

        for work in works:
            run.guarded([work], join)
        kept: list[Work] = []
        for digest_id, group in due.items():
            if run.has_time():
                kept.extend(run.guarded(group, partial(self._serve, run, digests[digest_id])))
            else:
                run.publish_again(group)
        return kept

    def _pending(self, run: Run, work: Work) -> Digest | None:
        """The open digest that the event has joined already."""
        tried = [a.digest_id for a in work.attempts if a.channel == run.channel and a.digest_id]
        for digest_id in dict.fromkeys([*reversed(tried), work.claim.stored.digest_id]):
            found = run.ledger.digests.get(digest_id) if digest_id else None
            if found and found[0].channel == run.channel and found[0].state == "open":
                return found[0]
        return None

    def _join(self, run: Run, work: Work) -> Digest:
        rule = work.step(run.channel).digest or SINGLE
        return run.ledger.digests.join(
            work.claim,
            run.channel,
            by=rule.by,
            window=rule.window,
            min_interval=rule.min_interval,
        )

    def _serve(self, run: Run, digest: Digest, group: Sequence[Work]) -> list[Work]:
        """Send a digest that is due, unless the breaker or another worker has it."""
        # The member with the fewest attempts decides for the digest: it is retried as long as any
        # member may be.
        lead = min(group, key=lambda work: work.number)
        now = run.now()
        blocked = not run.may_call(group, self._transport)
        since = max(lead.due_at, digest.due_at or lead.due_at)
        if blocked and not has_waited_long(lead.step(run.channel), since, now):
            run.postpone(group, now + timedelta(seconds=RECOVERY))
            return []
        claim = run.ledger.digests.claim(
            digest.id,
            run.limits.lease,
            types=self._types,
            unknown_limit=UNKNOWN_LIMIT[lead.step(run.channel).on_unknown],
        )
        if claim is None:
            # Claimed by another worker, or nothing is left to send: the next decision tells.
            run.postpone(group, now + timedelta(seconds=TAKEN_RECHECK))
            return []
        if not claim.members:
            # Every member was confirmed or lost during the claim.
            nothing = Result(Outcome.SKIPPED, error="nothing was left to send")
            run.ledger.digests.end(claim, nothing, retry_in=None)
            run.postpone(group, now + timedelta(seconds=TAKEN_RECHECK))
            return []
        if claim.suppressed is not None:
            # Since the event was claimed: the contact or the list has changed.
            result = Result(Outcome.SKIPPED, error=claim.suppressed)
        else:
            result = BREAKER_OPEN if blocked else self._deliver(run, claim, lead)
        return self._record(run, claim, result, group, lead, started_at=now)

    def _deliver(self, run: Run, claim: DigestClaim, lead: Work) -> Result:
        def deliver() -> Taken:
            return self._transport.deliver(self._message(claim, lead), run.limits.attempt)

        return result_of(run.channel, deliver)

    def _message(self, claim: DigestClaim, lead: Work) -> Message:
        step = lead.step(self._transport.name)
        digest = claim.digest
        return Message(
            key=digest.message_id or digest.id,
            user_id=digest.user_id,
            run_id=digest.run_id,
            events=tuple(member.event for member in claim.members),
            contact=claim.contact,
            number=max(1, digest.number),
            confirm_url=self._links.confirm_url(digest.id)
            if step.confirms == Confirms.LINK
            else None,
            unsubscribe_url=(
                self._links.unsubscribe_url(digest.user_id, self._transport.name)
                if "opt_out" in step.respects
                else None
            ),
            callback_url=self._callback_url,
        )

    def _record(
        self,
        run: Run,
        claim: DigestClaim,
        result: Result,
        group: Sequence[Work],
        lead: Work,
        *,
        started_at: datetime,
    ) -> list[Work]:
        retry_in = self._retry_in(run, result, lead, started_at)
        recorded = run.ledger.digests.end(claim, result, retry_in=retry_in)
        if result is not BREAKER_OPEN:
            run.report_health(result)
        self._suppress(run, claim, result)
        if not recorded:
            logger.warning(
                "%s: digest %s was claimed by another worker meanwhile",
                run.channel,
                claim.digest.id,
            )
            run.postpone(group, run.now() + timedelta(seconds=TAKEN_RECHECK))
            return []
        step = lead.step(run.channel)
        if result.outcome is Outcome.DELIVERED and step.confirms == Confirms.ACCEPTED:
            events = [member.event for member in claim.members]
            run.confirm_accepted(events, result, claim.digest.message_id)
            run.note([work for work in group if work.event in events], result, started_at)
            return []
        sent = {member.event.id for member in claim.members}
        mine = [work for work in group if work.id in sent]
        # Others are no members: confirmed meanwhile, or left out by the claim.
        run.postpone(
            [work for work in group if work.id not in sent],
            run.now() + timedelta(seconds=TAKEN_RECHECK),
        )
        run.note(mine, result, started_at, claim.digest.id)
        return mine

    def _suppress(self, run: Run, claim: DigestClaim, result: Result) -> None:
        """Suppress the address if the provider's refusal says that no message can reach it."""
        channel = self._transport.name
        address = claim.contact.address_on(channel)
        if result.suppress is not None and address is not None:
            run.ledger.suppressions.add(
                channel, address, result.suppress, provider="refusal", code=result.code
            )

    def _retry_in(self, run: Run, result: Result, lead: Work, started_at: datetime) -> float | None:
        """Seconds until the digest is tried again, by the rule for the events' own retries."""
        now = run.now()
        made = Attempt(
            event_id=lead.id,
            generation=lead.claim.stored.generation,
            channel=run.channel,
            number=lead.number,
            outcome=result.outcome,
            started_at=started_at,
            ended_at=now,
            retryable=result.retryable,
            retry_after=result.retry_after,
        )
        before = [a for a in lead.attempts if a.channel == run.channel]
        again = retry_at(lead.step(run.channel), [*before, made], lead.policy, self._jitter())
        return None if again is None else max(0.0, (again - now).total_seconds())


def _types_on(channel: str, policies: Policies) -> tuple[str, ...]:
    """Types whose chain has this channel; ``()`` for all types, when unlisted types have it."""
    with_channel = [policy for policy in policies.classes.values() if policy.step(channel)]
    if any(policy.event_class is EventClass.STANDARD for policy in with_channel):
        return ()
    return tuple(sorted(name for policy in with_channel for name in policy.types))
