"""The ``email`` and ``sms`` steps: events gather in a digest, which is claimed and sent as one.

Owns: when an event joins a digest, and when a digest is sent, retried or closed. The ledger reads
its members at the claim and keeps their attempt rows. Never does: render or send a message.

Each digest is sent in a thread of its own, which also records the outcome: a task waits for it no
longer than for any attempt, and a server that takes a minute for a mail holds up no other one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

from delivery.domain.channels import Channel, Confirms, OnUnknown
from delivery.domain.fallback import retry_at
from delivery.domain.health import RECOVERY
from delivery.domain.inputs.address import comparable
from delivery.domain.lifecycle import Attempt, Outcome
from delivery.domain.policy import SINGLE, ChainStep, Policies
from delivery.domain.ports import Jitter
from delivery.domain.records import Digest, DigestClaim, Rendered, Result
from delivery.domain.transports import Links, Message
from delivery.errors import LedgerError
from delivery.tasks.attempts import Work
from delivery.tasks.deliveries import FULL_RECHECK, ROOM_TIMEOUT, Deliveries
from delivery.tasks.providers import (
    Choice,
    Providers,
    Trial,
    budget_of,
    choose,
    pause_of,
    try_in_turn,
)
from delivery.tasks.run import BREAKER_OPEN, Run, has_waited_long

logger = logging.getLogger(__name__)

UNKNOWN_LIMIT = {OnUnknown.SKIP: 0, OnUnknown.ONCE: 1, OnUnknown.RETRY: None}
"""Attempts of unknown outcome after which a member is left out, by the step's ``on_unknown``."""

TAKEN_RECHECK = 2.0
"""Seconds until the next decision on an event whose digest another worker is sending."""

RECORDING = 0.5
"""Seconds that a task waits for an outcome's record after the timeout of an attempt."""

LEASE_MARGIN = 30.0
"""Seconds for which a digest stays claimed after its message's timeout."""


@dataclass(frozen=True, slots=True)
class _Sending:
    """A digest that is being sent.

    Attributes:
        group: the events of this task that it is sent for.
        recorded: the outcome, once it is recorded; ``None`` in it for a digest that another worker
            has claimed since.
    """

    group: Sequence[Work]
    claim: DigestClaim
    lead: Work
    started_at: datetime
    recorded: Future[Result | None]


class DigestStep:
    """Sends one message per digest; its outcome is recorded for every member."""

    def __init__(
        self,
        providers: Providers,
        policies: Policies,
        links: Links,
        callback_url: str | None,
        jitter: Jitter,
        *,
        keeps: bool = False,
    ) -> None:
        """
        Args:
            keeps: keep each message in the ledger, as it goes out.
        """
        self._keeps = keeps
        self._providers = providers
        self._channel = providers.channel
        self._policies = policies
        self._links = links
        self._callback_url = callback_url
        self._jitter = jitter
        self._classes = tuple(
            policy.event_class.value
            for policy in policies.classes.values()
            if policy.step_on(providers.channel)
        )
        self._deliveries: Deliveries[Result | None] = Deliveries(providers.channel)

    def close(self, timeout: float) -> None:
        """Let the messages under way end within ``timeout`` seconds; the outcome of one that does
        not is unknown once its lease ends."""
        if not self._deliveries.wait(timeout):
            logger.warning("%s: stopped with messages under way", self._channel)

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
        return self._serve(run, [(digests[digest_id], group) for digest_id, group in due.items()])

    def _serve(self, run: Run, due: Sequence[tuple[Digest, list[Work]]]) -> list[Work]:
        """Send the digests that are due, all at once."""
        kept: list[Work] = []
        under_way: list[_Sending] = []
        full: set[str] = set()
        for digest, group in due:
            if run.has_time():
                start = partial(self._start, run, digest, under_way, full)
                kept.extend(run.guarded(group, start))
            else:
                run.publish_again(group)
        outcomes = [sending.recorded for sending in under_way]
        wait(outcomes, timeout=min(run.remaining(), run.limits.attempt + RECORDING))
        for sending in under_way:
            kept.extend(run.guarded(sending.group, partial(self._follow, run, sending)))
        return kept

    def _pending(self, run: Run, work: Work) -> Digest | None:
        """The open digest that the event has joined already."""
        step = work.step(run.channel)
        tried = [made.digest_id for made in work.made(run.channel) if made.digest_id]
        for digest_id in dict.fromkeys([*reversed(tried), work.claim.stored.digest_id]):
            found = run.ledger.digests.get(digest_id) if digest_id else None
            if found and found[0].state == "open" and _is_of(found[0], step):
                return found[0]
        return None

    def _join(self, run: Run, work: Work) -> Digest:
        step = work.step(run.channel)
        rule = step.digest or SINGLE
        return run.ledger.digests.join(
            work.claim,
            run.channel,
            by=rule.by,
            window=rule.window,
            min_interval=rule.min_interval,
            step=step.own_name,
        )

    def _start(
        self,
        run: Run,
        digest: Digest,
        under_way: list[_Sending],
        full: set[str],
        group: Sequence[Work],
    ) -> list[Work]:
        """Start to send a digest that is due, unless the breaker or another worker has it, or there
        is no room for another message to its place."""
        place = self._place(group[0])
        if place in full or not self._deliveries.enter(place, ROOM_TIMEOUT):
            full.add(place)
            run.postpone(group, run.now() + timedelta(seconds=FULL_RECHECK))
            return []
        sending = None
        try:
            sending = self._claim(run, digest, group, place)
        finally:
            if sending is None:
                self._deliveries.leave(place)
        if sending is not None:
            under_way.append(sending)
        return []

    def _claim(
        self, run: Run, digest: Digest, group: Sequence[Work], place: str
    ) -> _Sending | None:
        # The member with the fewest attempts decides for the digest: it is retried as long as any
        # member may be.
        lead = min(group, key=lambda work: len(work.made(run.channel)))
        step, now = lead.step(run.channel), run.now()
        providers = self._providers.of(step)
        choice = choose(run, group, providers)
        since = max(lead.due_at, digest.due_at or lead.due_at)
        if (again := self._wait(choice, step, since, now)) is not None:
            run.postpone(group, again)
            return None
        budget = budget_of(providers, self._timeout(run), run.limits.mail)
        claim = run.ledger.digests.claim(
            digest.id,
            max(run.limits.lease, budget + LEASE_MARGIN),
            classes=self._classes,
            unknown_limit=UNKNOWN_LIMIT[step.on_unknown],
            refusable=_refusable_on(digest, self._policies),
        )
        if claim is None:
            # Claimed by another worker, or nothing is left to send: the next decision tells.
            run.postpone(group, now + timedelta(seconds=TAKEN_RECHECK))
            return None
        if not claim.members:
            # Every member was confirmed or lost during the claim.
            nothing = Result(Outcome.SKIPPED, error="nothing was left to send")
            run.ledger.digests.end(claim, nothing, retry_in=None)
            run.postpone(group, now + timedelta(seconds=TAKEN_RECHECK))
            return None

        def send() -> Result | None:
            if claim.suppressed is not None:
                # Since the event was claimed: the contact or the list has changed.
                trial = Trial(Result(Outcome.SKIPPED, error=claim.suppressed))
            elif choice.first is None:
                trial = Trial(BREAKER_OPEN)
            else:
                message = self._message(claim, lead)
                if self._keeps:
                    message = replace(message, on_rendered=partial(self._keep, run, claim))
                trial = try_in_turn(run.ledger, providers[choice.first :], message, budget)
            return trial.result if self._record(run, claim, trial, lead, now) else None

        return _Sending(group, claim, lead, now, self._deliveries.start(place, send))

    def _wait(
        self, choice: Choice, step: ChainStep, since: datetime, now: datetime
    ) -> datetime | None:
        """When an event without a provider that may be called now is decided on again; ``None`` if
        an attempt is made, also one that records that breakers have been open for long."""
        if choice.first is not None:
            return None
        if choice.pause is not None:
            waited = (now - since).total_seconds()
            return now + timedelta(seconds=pause_of(choice, waited, self._jitter()))
        if has_waited_long(step, since, now):
            return None
        return now + timedelta(seconds=RECOVERY)

    def _follow(self, run: Run, sending: _Sending, group: Sequence[Work]) -> list[Work]:
        """What follows for the events of this task from the outcome of their digest."""
        result = sending.recorded.result() if sending.recorded.done() else None
        if result is None:
            # It is still being sent, or was claimed by another worker: the next decision tells.
            run.postpone(group, run.now() + timedelta(seconds=TAKEN_RECHECK))
            return []
        members = {member.event.id for member in sending.claim.members}
        mine = [work for work in group if work.id in members]
        if self._is_confirmed(run, result, sending.lead):
            run.note(mine, result, sending.started_at)
            return []
        # Others are no members: confirmed meanwhile, or left out by the claim.
        others = [work for work in group if work.id not in members]
        run.postpone(others, run.now() + timedelta(seconds=TAKEN_RECHECK))
        run.note(mine, result, sending.started_at, sending.claim.digest.id)
        return mine

    def _place(self, work: Work) -> str:
        """Where the user's address is: a mail's domain; ``""`` where one provider serves all."""
        channel = self._channel
        address = work.claim.contact.address_on(channel)
        if channel != Channel.EMAIL or address is None:
            return ""
        return (comparable(channel, address) or address).rpartition("@")[2]

    def _timeout(self, run: Run) -> float:
        return run.limits.mail if self._channel == Channel.EMAIL else run.limits.attempt

    def _keep(self, run: Run, claim: DigestClaim, content: Rendered) -> None:
        """Keep a message as it goes out; what cannot be kept is sent all the same."""
        digest, channel = claim.digest, self._channel
        to, number = claim.contact.address_on(channel) or "", max(1, digest.number)
        try:
            run.ledger.sent_messages.keep(digest.id, digest.user_id, channel, to, number, content)
        except LedgerError as error:
            logger.warning("%s: message of digest %s is not kept: %s", channel, digest.id, error)

    def _message(self, claim: DigestClaim, lead: Work) -> Message:
        step = lead.step(self._channel)
        digest = claim.digest
        return Message(
            key=digest.message_id or digest.id,
            user_id=digest.user_id,
            run_id=digest.run_id,
            events=tuple(member.event for member in claim.members),
            contact=claim.contact,
            number=max(1, digest.number),
            confirm_url=self._link(digest.id) if step.confirms == Confirms.LINK else None,
            unsubscribe_url=(
                self._links.unsubscribe_url(digest.user_id, self._channel)
                if "opt_out" in step.respects
                else None
            ),
            callback_url=self._callback_url,
        )

    def _link(self, digest_id: str) -> str:
        if self._channel == Channel.SMS:
            return self._links.short_url(digest_id)
        return self._links.confirm_url(digest_id)

    def _record(
        self, run: Run, claim: DigestClaim, trial: Trial, lead: Work, started_at: datetime
    ) -> bool:
        """Record an outcome and what follows from it for provider and address; ``False`` if another
        worker has claimed the digest since."""
        result = trial.result
        retry_in = self._retry_in(run, result, lead, started_at)
        recorded = run.ledger.digests.end(claim, result, retry_in=retry_in)
        for provider, made in trial.made:
            run.report_health(made, provider.breaker)
        self._suppress(run, claim, result)
        if not recorded:
            logger.warning(
                "%s: digest %s was claimed by another worker meanwhile",
                run.channel,
                claim.digest.id,
            )
            return False
        for _, made in trial.made[:-1]:
            run.count(len(claim.members), made, started_at)
        ids = [member.event.id for member in claim.members]
        run.count(len(claim.members), result, started_at, ids)
        run.trace(claim.members, result, started_at)
        if self._is_confirmed(run, result, lead):
            events = [member.event for member in claim.members]
            run.confirm_accepted(events, result, claim.digest.message_id)
        return True

    def _is_confirmed(self, run: Run, result: Result, lead: Work) -> bool:
        """Whether the provider's acceptance confirms the events."""
        accepted = lead.step(run.channel).confirms == Confirms.ACCEPTED
        return accepted and result.outcome is Outcome.DELIVERED

    def _suppress(self, run: Run, claim: DigestClaim, result: Result) -> None:
        """Suppress the address if the provider's refusal says that no message can reach it."""
        channel = self._channel
        address = claim.contact.address_on(channel)
        if result.suppress is not None and address is not None:
            run.ledger.suppressions.add(
                channel,
                address,
                result.suppress,
                provider="refusal",
                code=result.code,
                user_id=claim.contact.user_id,
            )

    def _retry_in(self, run: Run, result: Result, lead: Work, started_at: datetime) -> float | None:
        """Seconds until the digest is tried again, by the rule for the events' own retries."""
        now = run.now()
        step = lead.step(run.channel)
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
            step=step.own_name,
        )
        attempts = [*lead.made(run.channel), made]
        again = retry_at(step, attempts, lead.policy, self._jitter())
        return None if again is None else max(0.0, (again - now).total_seconds())


def _is_of(digest: Digest, step: ChainStep) -> bool:
    return digest.channel == step.channel and digest.step_name == step.name


def _refusable_on(digest: Digest, policies: Policies) -> tuple[str, ...]:
    """Classes of events that a user may refuse in the message of this step."""
    return tuple(
        policy.event_class.value
        for policy in policies.classes.values()
        if (step := policy.step_of(digest.step_name, digest.channel)) is not None
        and "opt_out" in step.respects
    )
