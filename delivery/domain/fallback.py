"""The fallback chain's one decision: given what was tried, what comes next.

Owns: the order of the steps, their due times, repeats, skips and the end of the chain.
Never does: read a clock, draw random numbers, write anything: both are passed in; the
answer is a value that the executor carries out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from delivery.domain.channels import DECISION, Channel, OnUnknown
from delivery.domain.lifecycle import Attempt, Outcome
from delivery.domain.policy import ChainStep, ClassPolicy

DIGEST_GRACE = 15.0
"""Seconds past the window that an event which may not open a digest waits for one of its run."""

RUNNING_RECHECK = 5.0
"""Seconds until the next decision on an event whose attempt another worker is making."""

RUNNING_TIMEOUT = 120.0
"""Seconds after which an attempt without an end counts as unknown."""

MAX_FAULTS = 2
"""Errors of ours after which the chain ends and operators are alerted."""

FAULT_PAUSE = 30.0
"""Seconds until the next decision after the first such error."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The history of one event in its chain, as the ledger has it.

    Attributes:
        type: the event's type.
        entered_at: when this generation was handed over to the chain.
        attempts: the attempts of this generation, any order; those on channels outside the
            chain (the fast path's) do not count.
        unreachable: step -> why it cannot reach this user ("no address", "opted out").
        quiet_until: end of the user's quiet hours when they are in force now.
        digest_due: when the pending digest of this event's run is sent, by step.
    """

    type: str
    entered_at: datetime
    attempts: Sequence[Attempt] = ()
    unreachable: Mapping[str, str] = field(default_factory=dict)
    quiet_until: datetime | None = None
    digest_due: Mapping[str, datetime] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Step:
    """Make attempt ``number`` for the step of this name now; due since ``due_at``."""

    step: str
    number: int
    due_at: datetime


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing is due before ``until``; then decide again, on this step."""

    step: str
    until: datetime


@dataclass(frozen=True, slots=True)
class Skip:
    """Record this step as skipped for ``reason``, then decide again."""

    step: str
    reason: str


@dataclass(frozen=True, slots=True)
class Exhausted:
    """The chain is over: the event is dead if operators were ``alerted``, else parked."""

    alerted: bool


Decision = Step | Wait | Skip | Exhausted


def next_step(progress: Progress, policy: ClassPolicy, now: datetime, draw: float) -> Decision:
    """Decide what comes next for one event.

    Args:
        progress: the event's history in this generation.
        policy: its class's policy.
        now: the ledger's clock.
        draw: uniform in [0, 1), for the backoff's jitter. Pass the same value for the same
            history: another number could turn a wait that is over into a new wait.

    Returns:
        The decision of the first step that is not over. A step is due at the later of two
        instants: the end of the last attempt, and the start of the step before plus ``after``. It
        is due at once when a receipt reported that the message of the step before has failed:
        ``after`` is the time for which that message was trusted.
    """
    last_end = progress.entered_at
    previous_start = progress.entered_at
    is_urgent = False
    for step in policy.chain:
        mine = attempts_of(step, policy, progress.attempts)
        if mine:
            decision = _repeat(step, mine, progress, policy, now, draw)
            if decision is not None:
                return decision
            previous_start = mine[0].started_at
            last_end = max(last_end, _end_of(step, mine, policy))
            # A skipped step takes no time: the one after it is as urgent.
            made = [a for a in mine if a.outcome is not Outcome.SKIPPED]
            is_urgent = made[-1].receipt is not None if made else is_urgent
        else:
            planned = previous_start + timedelta(seconds=step.after)
            due = last_end if is_urgent else max(last_end, planned)
            return _open(step, progress, due, now)
    return Exhausted(alerted=policy.ends_in_alert)


def attempts_of(step: ChainStep, policy: ClassPolicy, attempts: Sequence[Attempt]) -> list[Attempt]:
    """The attempts of one step of this chain among an event's, in order of number.

    Attempts whose step is not in the chain (it was renamed, or taken out, or the event was in a
    message for events of another class) count for the first step on their channel, as long as
    that has none of its own: what was sent is not sent again under another name.
    """
    on_channel = [a for a in attempts if a.channel == step.channel]
    mine = [a for a in on_channel if a.step_name == step.name]
    if not mine and on_channel and policy.step_on(step.channel) is step:
        mine = [a for a in on_channel if policy.step(a.step_name) is None]
    return sorted(mine, key=lambda a: a.number)


def faults_of(attempts: Sequence[Attempt]) -> tuple[str, ...]:
    """Errors of ours among an event's attempts of this generation."""
    return tuple(a.error or "" for a in attempts if a.channel == DECISION)


def alert_only(policy: ClassPolicy) -> ClassPolicy:
    """The policy of an event with ``MAX_FAULTS`` errors of ours: alert operators at once, even
    where the class has no alert step."""
    step = policy.step_on(Channel.ALERT) or ChainStep(Channel.ALERT)
    return replace(policy, chain=(replace(step, after=0.0),))


def retry_at(
    step: ChainStep, attempts: Sequence[Attempt], policy: ClassPolicy, draw: float
) -> datetime | None:
    """When a step is tried again, ``None`` when it is over.

    Args:
        attempts: the step's attempts, at least one, in order of number.
    """
    last = attempts[-1]
    if len(attempts) >= step.attempts or not _may_repeat(step, attempts):
        return None
    pause = step.backoff.delay(len(attempts), draw)
    if last.outcome is Outcome.DELIVERED:
        # A resend reached a socket: the client has the same time to acknowledge as for a push.
        pause = max(pause, policy.ack_timeout)
    if last.retry_after is not None:
        pause = max(pause, last.retry_after)
    return (last.ended_at or last.started_at) + timedelta(seconds=pause)


def _open(step: ChainStep, progress: Progress, due: datetime, now: datetime) -> Decision:
    """The decision for a step without an attempt."""
    if step.name in progress.unreachable:
        return Skip(step.name, progress.unreachable[step.name])
    due = _after_quiet(step, progress, due)
    if _is_follower(step, progress):
        return _follow(step, progress, due, now)
    return Wait(step.name, due) if now < due else Step(step.name, _next_number(step, progress), due)


def _repeat(
    step: ChainStep,
    mine: Sequence[Attempt],
    progress: Progress,
    policy: ClassPolicy,
    now: datetime,
    draw: float,
) -> Decision | None:
    """The decision for a step with attempts, ``None`` when it is over."""
    last = mine[-1]
    if last.outcome is Outcome.STARTED:
        unknown_at = last.started_at + timedelta(seconds=RUNNING_TIMEOUT)
        if now < unknown_at:
            recheck = now + timedelta(seconds=RUNNING_RECHECK)
            return Wait(step.name, min(recheck, unknown_at))
    again = retry_at(step, mine, policy, draw)
    if again is None:
        return None
    if step.name in progress.unreachable:
        return Skip(step.name, progress.unreachable[step.name])
    if _is_follower(step, progress):
        # A member of a digest that another event opened: that event decides about a retry.
        pending = progress.digest_due.get(step.name)
        if pending is None:
            return None
        again = max(again, pending + timedelta(seconds=DIGEST_GRACE))
        return Wait(step.name, again) if now < again else None
    again = _after_quiet(step, progress, again)
    return (
        Wait(step.name, again)
        if now < again
        else Step(step.name, _next_number(step, progress), again)
    )


def _follow(step: ChainStep, progress: Progress, due: datetime, now: datetime) -> Decision:
    """The decision for an event whose type may not open this step: wait for a digest of its run,
    else skip."""
    if step.digest is None:
        return Skip(step.name, f"{progress.type} does not open {step.name}")
    until = due + timedelta(seconds=step.digest.window + DIGEST_GRACE)
    pending = progress.digest_due.get(step.name)
    if pending is not None:
        until = max(until, pending + timedelta(seconds=DIGEST_GRACE))
    if now < until:
        return Wait(step.name, until)
    return Skip(step.name, "no digest of its run was sent")


def _next_number(step: ChainStep, progress: Progress) -> int:
    """Attempts are numbered by channel: of two steps with one, the later goes on counting."""
    made = (a.number for a in progress.attempts if a.channel == step.channel)
    return 1 + max(made, default=0)


def _is_follower(step: ChainStep, progress: Progress) -> bool:
    return bool(step.only) and progress.type not in step.only


def _after_quiet(step: ChainStep, progress: Progress, due: datetime) -> datetime:
    if progress.quiet_until is None or "quiet_hours" not in step.respects:
        return due
    return max(due, progress.quiet_until)


def _end_of(step: ChainStep, mine: Sequence[Attempt], policy: ClassPolicy) -> datetime:
    """When a step was over. A resend's end includes the time for its acknowledgement: the next step
    would otherwise overtake it."""
    end = max(a.ended_at or a.started_at for a in mine)
    if step.channel == Channel.DIRECT and mine[-1].outcome is Outcome.DELIVERED:
        end += timedelta(seconds=policy.ack_timeout)
    return end


def _may_repeat(step: ChainStep, mine: Sequence[Attempt]) -> bool:
    last = mine[-1]
    if last.outcome is Outcome.FAILED:
        return last.retryable
    if last.outcome is Outcome.DELIVERED:
        # A resend reached a socket; only an acknowledgement confirms the event.
        return step.channel == Channel.DIRECT
    if last.outcome in (Outcome.UNKNOWN, Outcome.STARTED):
        unknown = sum(a.outcome in (Outcome.UNKNOWN, Outcome.STARTED) for a in mine)
        return step.on_unknown == OnUnknown.RETRY or (
            step.on_unknown == OnUnknown.ONCE and unknown <= 1
        )
    return False
