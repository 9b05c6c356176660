"""Executes the fallback chain: claim -> decide -> attempt -> classify -> record -> schedule.

Owns: one channel's task over a batch of ids. Never does: know Celery, SQL or a vendor; decide what
comes next (``domain.fallback`` does); keep state between two runs.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType

from delivery.domain.channels import DIGESTED, EXTERNAL, Channel
from delivery.domain.event import Event, EventClass
from delivery.domain.fallback import (
    MAX_FAULTS,
    Exhausted,
    Progress,
    Skip,
    Step,
    Wait,
    alert_only,
    faults_of,
    next_step,
)
from delivery.domain.policy import CHANNELS, ChainStep, Policies, Priority
from delivery.domain.ports import Jitter, Resend, TaskQueue
from delivery.domain.records import Claim
from delivery.domain.stores.ledger import Ledger
from delivery.domain.transports import Alerts, Links, Transport
from delivery.domain.users.contact import Contact
from delivery.tasks.alerting import AlertStep
from delivery.tasks.attempts import Report, TimeLimits, Work, batches
from delivery.tasks.digests import DigestStep
from delivery.tasks.providers import Provider, Providers
from delivery.tasks.run import Run
from delivery.tasks.steps import DatabaseStep, DirectStep, EmergencyStep, QueueStep, StepRunner

logger = logging.getLogger(__name__)

MAX_GONE = 100
"""Classes without a policy that a process names in its log."""

__all__ = ["Executor", "Reachable", "Report", "TimeLimits"]

Reachable = Callable[[Contact], str | None]
"""Why a contact cannot be reached on a channel, ``None`` if it can."""


class Executor:
    """Runs one channel's step for a batch of events. Safe to use from several threads.

    Args:
        transports: of the external channels, by channel; a step without one is skipped.
        queue_copy: writes queue copies of events (Redis stream or mailbox).
        publish: publishes the next channel's tasks.
        drain_spool: commits the events in this machine's spools.
        jitter: asked once per executor, to spread retries of different processes.
        elsewhere: external channels without a transport here whose own worker has one, with why a
            contact cannot be reached there, ``None`` if it can; of providers by their names.
        named: the providers that steps name and that this process has opened, by name.
        callback_url: where providers post their status; ``None`` for nowhere.
        keeps_messages: keep mails and texts in the ledger, as they go out.
        interruptions: errors that a worker raises in a task over its time limit.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        policies: Policies,
        transports: Mapping[str, Transport],
        alerts: Alerts,
        resend: Resend,
        queue_copy: Callable[[Sequence[Event]], None],
        publish: TaskQueue,
        links: Links,
        drain_spool: Callable[[], None],
        jitter: Jitter,
        limits: TimeLimits,
        elsewhere: Mapping[str, Reachable] = MappingProxyType({}),
        named: Mapping[str, Provider] = MappingProxyType({}),
        callback_url: str | None = None,
        keeps_messages: bool = False,
        interruptions: tuple[type[Exception], ...] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._policies = policies
        self._transports: dict[str, Transport] = {
            name: transports[name] for name in EXTERNAL if name in transports
        }
        self._named = named
        self._elsewhere = elsewhere
        self._publish_to = publish
        self._limits = limits
        self._interruptions = interruptions
        self._clock = clock
        self._salt = jitter()
        self._gone: set[str] = set()
        self._runners: dict[str, StepRunner] = {
            Channel.DATABASE: DatabaseStep(drain_spool),
            Channel.QUEUE: QueueStep(queue_copy, resend),
            Channel.DIRECT: DirectStep(resend),
            Channel.ALERT: AlertStep(alerts),
        }
        if Channel.EMERGENCY in self._transports:
            self._runners[Channel.EMERGENCY] = EmergencyStep(self._transports[Channel.EMERGENCY])
        for name in DIGESTED:
            providers = self._providers_on(name)
            if providers.own is not None or providers.named:
                self._runners[name] = DigestStep(
                    providers, policies, links, callback_url, jitter, keeps=keeps_messages
                )

    def run(self, channel: str, ids: Sequence[str]) -> Report:
        """Make ``channel``'s attempts for the events among ``ids`` whose next step it is; move the
        others on.

        Effect: attempts, moves and ends in the ledger. Safe to repeat and to run early, late or
            twice: events that are not due wait, events that another worker claimed are left alone.

        Raises:
            LedgerUnavailable: a sweep publishes the rest again.
            ValueError: there is no such channel.
        """
        if channel not in CHANNELS:
            raise ValueError(f"no channel {channel!r}; known: {', '.join(CHANNELS)}")
        run = Run(self._ledger, channel, self._limits, self._interruptions, self._clock)
        try:
            works = [self._take(claim) for claim in run.claim(ids)]
            while works:
                now = run.now()
                ready = run.settle([work for work in works if self._is_ready(run, work, now)])
                if ready and not run.has_time():
                    run.publish_again(ready)
                    break
                works = self._act(run, ready)
        finally:
            # Decisions already made are written, even after an error.
            try:
                run.settle()
            finally:
                run.close()
                self._publish(run.report)
        return run.report

    def close(self, timeout: float) -> None:
        """Let messages under way end, within ``timeout`` seconds per channel."""
        for runner in self._runners.values():
            if isinstance(runner, DigestStep | EmergencyStep):
                runner.close(timeout)

    def _providers_on(self, channel: str) -> Providers:
        own = self._transports.get(channel)
        return Providers(
            channel,
            None if own is None else Provider(own),
            {name: one for name, one in self._named.items() if one.transport.name == channel},
        )

    def _act(self, run: Run, ready: Sequence[Work]) -> list[Work]:
        if not ready:  # as where the channel has no transport: every event was skipped
            return []
        runner = self._runners[run.channel]
        return run.guarded(ready, lambda part: runner.run(run, part))

    def _publish(self, report: Report) -> None:
        for name, handed in report.handed_on.items():
            by_priority: dict[Priority | None, list[str]] = {}
            for one in handed:
                by_priority.setdefault(report.priorities.get(one), []).append(one)
            for priority, ids in by_priority.items():
                for batch in batches(name, ids):
                    self._publish_to.publish(name, batch, priority)

    def _take(self, claim: Claim) -> Work:
        policy = self._policies.of(claim.stored.event.event_class)
        priority = self._policies.priority_of(claim.stored.event.event_class)
        if policy.event_class != claim.stored.event.event_class:
            self._note_gone(claim.stored.event)
        if len(faults_of(claim.attempts)) >= MAX_FAULTS:
            policy = alert_only(policy)
        attempts = list(claim.attempts)
        return Work(claim, policy, attempts, number=0, due_at=claim.now, priority=priority)

    def _note_gone(self, event: Event) -> None:
        """Log once that a class of recorded events is not in the policies any more."""
        name = event.event_class.value
        if name not in self._gone and len(self._gone) < MAX_GONE:
            self._gone.add(name)
            logger.warning(
                "class %s of event %s has left the policies: its events go on as %s",
                name,
                event.id,
                EventClass.STANDARD.value,
            )

    def _is_ready(self, run: Run, work: Work, now: datetime) -> bool:
        """Whether an attempt on this channel is due; carries out every other decision."""
        return bool(run.guarded([work], lambda _: [work] if self._decide(run, work, now) else []))

    def _decide(self, run: Run, work: Work, now: datetime) -> bool:
        while True:
            decision = next_step(self._progress(run, work, now), work.policy, now, self._draw(work))
            match decision:
                case Step(name, number, due_at):
                    step = _named(work, name)
                    if step.channel != run.channel:
                        run.hand_on(work, step.channel, step.name)
                        return False
                    work.number, work.due_at, work.decided = number, due_at, step
                    return True
                case Wait(name, until):
                    run.move(work, name, until)
                    return False
                case Skip(name, reason):
                    run.skip(work, _named(work, name), reason, now)
                case Exhausted(alerted):
                    run.finish(work, alerted)
                    return False

    def _progress(self, run: Run, work: Work, now: datetime) -> Progress:
        stored = work.claim.stored
        return Progress(
            type=stored.event.type,
            entered_at=stored.handed_over_at or stored.recorded_at,
            attempts=work.attempts,
            unreachable=self._unreachable(run, work),
            quiet_until=(
                work.claim.contact.quiet_until(now)
                if any("quiet_hours" in step.respects for step in work.policy.chain)
                else None
            ),
            digest_due=work.claim.digests,
        )

    def _unreachable(self, run: Run, work: Work) -> dict[str, str]:
        """Step -> why it cannot reach this user, for the chain's steps on external channels."""
        contact = work.claim.contact
        found: dict[str, str] = {}
        for step in work.policy.chain:
            if step.channel not in EXTERNAL:
                continue
            unreachable = self._reach(run, step)
            if unreachable is None:
                found[step.name] = "not configured"
            elif "opt_out" in step.respects and contact.refuses(
                step.channel, work.claim.stored.event.event_class
            ):
                found[step.name] = "opted out"
            else:
                reason = work.claim.suppressed.get(step.channel) or unreachable(contact)
                if reason:
                    found[step.name] = reason
        return found

    def _reach(self, run: Run, step: ChainStep) -> Reachable | None:
        """The step's rule for contacts; ``None`` where it has no transport."""
        for name in step.providers or (step.channel,):
            named = self._named.get(name)
            transport = self._transports.get(name) if named is None else named.transport
            if transport is not None:
                return transport.unreachable
        # This is the channel's own worker: there is no other that has the transport.
        if step.channel == run.channel:
            return None
        return self._elsewhere.get(step.providers[0] if step.providers else step.channel)

    def _draw(self, work: Work) -> float:
        """The random number of an event's next decision. It follows from the history, so that a
        wait that is over stays over."""
        history = f"{work.id}:{work.claim.stored.generation}:{len(work.attempts)}"
        return (zlib.crc32(history.encode()) / 2**32 + self._salt) % 1.0


def _named(work: Work, name: str) -> ChainStep:
    step = work.policy.step(name)
    if step is None:  # pragma: no cover - decisions name steps of this chain only
        raise LookupError(f"class {work.policy.event_class} has no step {name}")
    return step
