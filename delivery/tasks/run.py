"""One task's run over a batch of claimed events: its time, its records, its decisions.

Owns: the order begin -> side effect -> end, the writing of decisions in one transaction each, and
what happens while a breaker is open. Never does: decide which channel comes next, know Celery.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import PurePath
from typing import TYPE_CHECKING

from delivery.domain.channels import DECISION, Channel
from delivery.domain.event import Event
from delivery.domain.fallback import FAULT_PAUSE, MAX_FAULTS, alert_only, faults_of
from delivery.domain.health import RECOVERY
from delivery.domain.lifecycle import Attempt, Confirmation, Outcome
from delivery.domain.policy import ChainStep
from delivery.domain.records import Claim, HandedOn, Result, Stored
from delivery.domain.stores.ledger import Ledger
from delivery.domain.transports import Checked
from delivery.domain.turns import take_turns
from delivery.errors import LedgerError
from delivery.tasks.attempts import Report, TimeLimits, Work, result_of
from delivery.telemetry import metrics
from delivery.telemetry.tracing import Traced, Tracing, active, sampled_event

if TYPE_CHECKING:
    from opentelemetry.trace import Span

logger = logging.getLogger(__name__)

PUBLISH_GRACE = 5.0
"""Seconds until a published event is due again in the ledger: its message may be lost."""

PROVIDERS = {
    Channel.EMERGENCY.value: "push",
    Channel.EMAIL.value: "smtp",
    Channel.SMS.value: "twilio",
    Channel.ALERT.value: "operators",
}
"""What carries the messages of a channel, as metrics name it."""

BREAKER_OPEN = Result(Outcome.FAILED, error="breaker open", retry_after=RECOVERY)


class Run:
    """The events of one task: claimed, attempted, moved and handed on."""

    def __init__(
        self,
        ledger: Ledger,
        channel: str,
        limits: TimeLimits,
        interruptions: tuple[type[Exception], ...] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ledger = ledger
        self.channel = channel
        self.limits = limits
        self._passing: tuple[type[Exception], ...] = (LedgerError, *interruptions)
        self.report = Report(channel)
        self._finishes: list[tuple[Work, bool]] = []
        self._skips: list[tuple[Work, ChainStep, str]] = []
        self._moves: list[tuple[Work, str, datetime]] = []
        self._hand_ons: list[tuple[Work, str, str]] = []
        self._clock = clock
        self._ends = clock() + limits.soft
        self._claimed: tuple[datetime, float] | None = None
        self._tracing = active()
        self._task: Span | None = None

    def claim(self, ids: Sequence[str]) -> list[Claim]:
        """Claim events that are in their chain and unclaimed; sets the run's clock."""
        claims = self.ledger.chain.claim(ids, self.limits.lease)
        self.report.claimed = len(claims)
        if self._tracing is not None:
            self._trace_claims(self._tracing, claims)
        if claims:
            self._claimed = claims[0].now, self._clock()
        return claims

    def _trace_claims(self, tracing: Tracing, claims: Sequence[Claim]) -> None:
        """Begin the task's span, and show how long each event waited for its first task."""
        self._task = tracing.task(self.channel, [one for c in claims if (one := _traced(c.stored))])
        for claim in claims:
            since, event = claim.stored.handed_over_at, _traced(claim.stored)
            if event is not None and since is not None and not claim.attempts:
                tracing.handed_over(self.channel, event, since, claim.now)

    def trace(self, events: Sequence[Stored], result: Result, started_at: datetime) -> None:
        """Show an attempt that carried these events in their traces. Thread-safe."""
        if self._tracing is None:
            return
        ended_at = self.now()
        for stored in events:
            if (event := _traced(stored)) is not None:
                self._tracing.attempted(
                    self.channel,
                    event,
                    result.outcome.value,
                    result.error,
                    started_at,
                    ended_at,
                    self._task,
                )

    def close(self) -> None:
        """End the task's span."""
        if self._task is not None:
            self._task.end()

    def now(self) -> datetime:
        """The ledger's clock: its time at the claim plus the time passed here since. A run ends
        within seconds, and reading the ledger's clock each time would cost more than the writes."""
        if self._claimed is None:
            return self.ledger.now()
        then, at = self._claimed
        return then + timedelta(seconds=self._clock() - at)

    def guarded(
        self, works: Sequence[Work], act: Callable[[Sequence[Work]], list[Work]]
    ) -> list[Work]:
        """Act for events; an error of ours is recorded for the event that caused it alone.

        Args:
            act: writes attempts; returns the events on which the next decision is due.

        Raises:
            LedgerError: the ledger is away, or the task was interrupted: nothing can be recorded.
        """
        try:
            return act(works)
        except self._passing:
            raise
        except Exception as error:
            if len(works) == 1:
                self.fault(works[0], error)
                return []
            logger.exception("%s: a batch of %d failed; one by one", self.channel, len(works))
        kept: list[Work] = []
        for work in works:
            if not self._is_moved(work):
                kept.extend(self.guarded([work], act))
        return kept

    def fault(self, work: Work, error: Exception) -> None:
        """Record an error of ours: the next decision follows after a pause, and after the second
        error operators are alerted.

        Effect: one failed attempt on ``decision``, which counts for no step of the chain.
        """
        logger.error(
            "event %s: unforeseen error on channel %s", work.id, self.channel, exc_info=error
        )
        work.number = 1 + len(faults_of(work.attempts))
        starts = [(work.claim, work.number)]
        result = Result(Outcome.FAILED, error=_place_of(error), retryable=False)
        if not all(self.ledger.chain.begin_all(starts, DECISION)):
            self.report.lost += 1
            return
        self.ledger.chain.end_all(starts, DECISION, result)
        if work.number == MAX_FAULTS:
            alert = alert_only(work.policy).chain[0]
            self.hand_on(work, alert.channel, alert.name)
        elif work.number > 2 * MAX_FAULTS:
            self.finish(work, alerted=False)  # the alert fails too: keep it for its user
        else:
            self.move(work, work.place(self.channel), self.now() + timedelta(seconds=FAULT_PAUSE))

    def _is_moved(self, work: Work) -> bool:
        done = (*self._moves, *self._hand_ons, *self._finishes)
        return any(entry[0] is work for entry in done)

    def has_time(self) -> bool:
        """Whether one more attempt fits in before the soft time limit."""
        return self._clock() + self.limits.attempt <= self._ends

    def remaining(self) -> float:
        """Seconds to the soft time limit, at least 0."""
        return max(0.0, self._ends - self._clock())

    def begin(self, works: Sequence[Work]) -> list[Work]:
        """Write ``started`` attempts; returns the events that are still ours and unconfirmed."""
        if not works:
            return []
        own = {w.id: w.step(self.channel).own_name for w in works}
        begun = self.ledger.chain.begin_all(
            [(w.claim, w.number) for w in works],
            self.channel,
            {event_id: name for event_id, name in own.items() if name is not None},
        )
        return self._kept(works, begun)

    def end(self, works: Sequence[Work], result: Result, started_at: datetime) -> list[Work]:
        """End begun attempts with one result; returns the events that are still ours."""
        if not works:
            return []
        starts = [(w.claim, w.number) for w in works]
        kept = self._kept(works, self.ledger.chain.end_all(starts, self.channel, result))
        self.note(kept, result, started_at)
        self.count(len(kept), result, started_at, [work.id for work in kept])
        self.trace([work.claim.stored for work in kept], result, started_at)
        return kept

    def count(
        self, events: int, result: Result, started_at: datetime, ids: Sequence[str] = ()
    ) -> None:
        """Add an attempt that carried this many events to the metrics. Thread-safe.

        Args:
            ids: of the events; the trace of the first one that has one is the exemplar.
        """
        if not events:
            return
        channel = str(self.channel)
        provider = result.provider or PROVIDERS.get(channel, "none")
        metrics.attempts.inc(events, channel, provider, result.outcome.value)
        if result is not BREAKER_OPEN:
            took = (self.now() - started_at).total_seconds()
            traces = map(sampled_event, ids) if self._tracing is not None else ()
            trace = next(filter(None, traces), None)
            metrics.attempt_duration.observe(max(0.0, took), channel, provider, trace_id=trace)

    def _kept(self, works: Sequence[Work], answers: Sequence[bool]) -> list[Work]:
        kept = [work for work, is_ours in zip(works, answers, strict=True) if is_ours]
        self.report.lost += len(works) - len(kept)
        return kept

    def note(
        self,
        works: Sequence[Work],
        result: Result,
        started_at: datetime,
        digest_id: str | None = None,
    ) -> None:
        """Add a recorded outcome to the events' attempts, for the next decision without a read."""
        ended_at = self.now()
        for work in works:
            self.report.outcomes[result.outcome] += 1
            work.attempts.append(
                Attempt(
                    event_id=work.id,
                    generation=work.claim.stored.generation,
                    channel=self.channel,
                    number=work.number,
                    outcome=result.outcome,
                    started_at=started_at,
                    ended_at=ended_at,
                    retryable=result.retryable,
                    error=result.error,
                    provider_id=result.provider_id,
                    digest_id=digest_id,
                    retry_after=result.retry_after,
                    step=work.step(self.channel).own_name,
                    provider=result.provider,
                )
            )

    def postpone(self, works: Sequence[Work], until: datetime) -> None:
        """Release claims: the events stay on their step, due then."""
        for work in works:
            self.move(work, work.place(self.channel), until)

    def move(self, work: Work, step: str, until: datetime) -> None:
        """Release a claim: the event stands on this step, due then. Written by ``settle``."""
        self._moves.append((work, step, until))

    def hand_on(self, work: Work, channel: str, step: str | None = None) -> None:
        """Release a claim for ``channel``'s own task, which is published when the run ends unless
        the event has to wait for its turn. Written by ``settle``.

        Args:
            step: on which the event stands then; the one that is named as the channel by default.
        """
        self._hand_ons.append((work, channel, step or channel))

    def skip(self, work: Work, step: ChainStep, reason: str, now: datetime) -> None:
        """Skip a step; the next decision sees it. Written by ``settle``."""
        self._skips.append((work, step, reason))
        made = (a.number for a in work.attempts if a.channel == step.channel)
        work.attempts.append(
            Attempt(
                event_id=work.id,
                generation=work.claim.stored.generation,
                channel=step.channel,
                number=1 + max(made, default=0),
                outcome=Outcome.SKIPPED,
                started_at=now,
                ended_at=now,
                error=reason,
                step=step.own_name,
            )
        )

    def finish(self, work: Work, alerted: bool) -> None:
        """End the event's chain. Written by ``settle``."""
        self._finishes.append((work, alerted))

    def settle(self, ready: Sequence[Work] = ()) -> list[Work]:
        """Write the decisions: skips, moves and ends in one transaction each.

        Returns:
            The events of ``ready`` that are still ours.
        """
        gone = self._write_skips()
        moves, self._moves = [move for move in self._moves if move[0].id not in gone], []
        if moves:
            self._write_moves(moves)
        hand_ons, self._hand_ons = [one for one in self._hand_ons if one[0].id not in gone], []
        if hand_ons:
            self._write_hand_ons(hand_ons)
        finishes, self._finishes = [end for end in self._finishes if end[0].id not in gone], []
        if finishes:
            self._write_finishes(finishes)
        self.report.lost += len(gone)
        return [work for work in ready if work.id not in gone]

    def _write_skips(self) -> set[str]:
        """Write the skips; returns the ids of events that were lost."""
        skips, self._skips = self._skips, []
        if not skips:
            return set()
        done = self.ledger.chain.skip_all(
            [(w.claim, step.channel, why, step.own_name) for w, step, why in skips]
        )
        self.report.outcomes[Outcome.SKIPPED] += sum(done)
        for (_, step, _), is_ours in zip(skips, done, strict=True):
            if is_ours:
                provider = PROVIDERS.get(step.channel, "none")
                metrics.attempts.inc(1.0, step.channel, provider, Outcome.SKIPPED.value)
        return {skip[0].id for skip, is_ours in zip(skips, done, strict=True) if not is_ours}

    def _write_moves(self, moves: Sequence[tuple[Work, str, datetime]]) -> None:
        done = self.ledger.chain.move_all([(w.claim, step, at) for w, step, at in moves])
        self.report.waiting += sum(done)
        self.report.lost += len(done) - sum(done)

    def _write_hand_ons(self, hand_ons: Sequence[tuple[Work, str, str]]) -> None:
        done = self.ledger.chain.hand_on_all(
            [(work.claim, step) for work, _, step in hand_ons], PUBLISH_GRACE
        )
        answered = zip(hand_ons, done, strict=True)
        # Users alternate in the messages, too.
        for (work, channel, _), handed in take_turns(answered, lambda one: one[0][0].event.user_id):
            match handed:
                case HandedOn.PUBLISH:
                    self.report.handed_on.setdefault(channel, []).append(work.id)
                    if work.priority is not None:
                        self.report.priorities[work.id] = work.priority
                case HandedOn.WAITS:
                    self.report.waiting += 1
                case HandedOn.LOST:
                    self.report.lost += 1

    def _write_finishes(self, finishes: Sequence[tuple[Work, bool]]) -> None:
        done = self.ledger.chain.finish_all([(w.claim, alerted) for w, alerted in finishes])
        self.report.finished += sum(done)
        self.report.lost += len(done) - sum(done)

    def publish_again(self, works: Sequence[Work]) -> None:
        """Publish events anew that this task has no time left for."""
        for work in works:
            self.hand_on(work, self.channel, work.place(self.channel))

    def wait_for_breaker(self, works: Sequence[Work]) -> list[Work]:
        """Postpone events whose channel's breaker is open.

        An open breaker must not use up an event's attempts, so the event waits for the breaker's
        next probe. But a provider that stays away must not stop the chain either: for an event
        that has been due for long (``has_waited_long``) a failed attempt is recorded.
        """
        now = self.now()
        late = [w for w in works if has_waited_long(w.step(self.channel), w.due_at, now)]
        again = now + timedelta(seconds=RECOVERY)
        self.postpone([w for w in works if w not in late], again)
        return self.end(self.begin(late), BREAKER_OPEN, now)

    def may_call(self, works: Sequence[Work], provider: object, breaker: str | None = None) -> bool:
        """Whether the provider may be called for these events now.

        An open breaker's probe is never an event that failed here before: if the event is the
        cause, the breaker would stay open for all users. Without another event the provider is
        checked by itself, if its transport can (``Checked``).

        Args:
            breaker: its name; the channel's by default.
        """
        name = breaker or self.channel
        breakers = self.ledger.breakers
        if not any(_has_failed(work, self.channel) for work in works):
            return breakers.allows(name)
        if breakers.allows(name, probe=False):
            return True
        if not isinstance(provider, Checked) or not breakers.allows(name):
            return False
        result = result_of(self.channel, partial(provider.check, self.limits.attempt))
        self.report_health(result, name)
        return result.health is True

    def report_health(self, result: Result, breaker: str | None = None) -> None:
        """Report an attempt to the provider's breaker (the channel's by default), if it tells
        whether the provider works."""
        if result.health is not None:
            self.ledger.breakers.report(breaker or self.channel, result.health)

    def confirm_accepted(
        self, events: Sequence[Event], result: Result, fallback_evidence: str
    ) -> None:
        """Confirm events whose policy takes the provider's acceptance as confirmation."""
        evidence = result.provider_id or fallback_evidence
        self.ledger.confirmations.confirm(
            [
                Confirmation(event.id, event.user_id, self.channel, "provider", evidence)
                for event in events
            ]
        )


def _place_of(error: Exception) -> str:
    """Type and place of an error: its message may quote an address or a credential."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {PurePath(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"unforeseen {type(error).__name__}{where}"


def _has_failed(work: Work, channel: str) -> bool:
    return any(
        attempt.channel == channel
        and attempt.outcome in (Outcome.FAILED, Outcome.UNKNOWN)
        and attempt.error != BREAKER_OPEN.error
        for attempt in work.attempts
    )


def has_waited_long(step: ChainStep, due_at: datetime, now: datetime) -> bool:
    """Whether an event due since ``due_at`` has waited long enough at an open breaker."""
    return now - due_at > timedelta(seconds=step.attempts * RECOVERY)


def _traced(stored: Stored) -> Traced | None:
    """The event with its trace; ``None`` if it has none."""
    found = None if stored.options is None else stored.options.traceparent
    return None if found is None else (stored.event.id, found)
