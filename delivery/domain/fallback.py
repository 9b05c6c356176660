"""The fallback chain's one decision: given what was tried, what comes next.

Pure: the instant and the dice are passed in; the answer is a value that the executor carries out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from delivery.domain.lifecycle import Attempt, Outcome
from delivery.domain.policy import ChainStep, ClassPolicy

DIGEST_GRACE = 15.0
"""Seconds an event that may not open a digest waits past the window for one of its run."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What the ledger knows of one event on its way down the chain.

    Attributes:
        type: the event's type.
        entered_at: when this generation was handed over to the chain.
        attempts: the attempts of this generation on the chain's channels, any order.
        unreachable: channel -> why it cannot reach this user ("no address", "opted out").
        quiet_until: end of the user's quiet hours when they are in force now.
        digest_due: when the pending digest of this event's run is sent, by channel.
    """

    type: str
    entered_at: datetime
    attempts: Sequence[Attempt] = ()
    unreachable: Mapping[str, str] = field(default_factory=dict)
    quiet_until: datetime | None = None
    digest_due: Mapping[str, datetime] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Step:
    """Make attempt ``number`` on ``channel`` now."""

    channel: str
    number: int


@dataclass(frozen=True, slots=True)
class Wait:
    """The next thing happens on ``channel``, not before ``until``."""

    channel: str
    until: datetime


@dataclass(frozen=True, slots=True)
class Skip:
    """Record ``channel`` as skipped because of ``reason``, then ask again."""

    channel: str
    reason: str


@dataclass(frozen=True, slots=True)
class Exhausted:
    """The chain is over; ``alerted`` tells whether it ended with operators (dead) or parked."""

    alerted: bool


Decision = Step | Wait | Skip | Exhausted


def next_step(progress: Progress, policy: ClassPolicy, now: datetime, dice: float) -> Decision:
    """Decide what comes next for one event.

    Args:
        progress: the event's history in this generation.
        policy: its class's policy.
        now: the ledger's clock.
        dice: uniform in [0, 1), for the backoff's jitter.

    Returns:
        The first rung that is not over decides. A step is due at the later of the end of the last
        attempt and the start of the step before plus ``after``.
    """
    last_end = progress.entered_at
    previous_start = progress.entered_at
    for step in policy.chain:
        mine = sorted(
            (a for a in progress.attempts if a.channel == step.channel), key=lambda a: a.number
        )
        if not mine:
            due = max(last_end, previous_start + timedelta(seconds=step.after))
            return _open(step, progress, due, now)
        again = _again(step, mine, policy, dice)
        if again is not None:
            if step.channel in progress.unreachable:
                return Skip(step.channel, progress.unreachable[step.channel])
            return (
                Wait(step.channel, again)
                if now < again
                else Step(step.channel, mine[-1].number + 1)
            )
        previous_start = mine[0].started_at
        last_end = max(last_end, *(a.ended_at or a.started_at for a in mine))
    return Exhausted(alerted=policy.ends_in_alert)


def _open(step: ChainStep, progress: Progress, due: datetime, now: datetime) -> Decision:
    """The decision for a rung on which nothing was tried yet."""
    if step.channel in progress.unreachable:
        return Skip(step.channel, progress.unreachable[step.channel])
    if step.only and progress.type not in step.only:
        return _follow(step, progress, due, now)
    if progress.quiet_until is not None and "quiet_hours" in step.respects:
        due = max(due, progress.quiet_until)
    return Wait(step.channel, due) if now < due else Step(step.channel, 1)


def _follow(step: ChainStep, progress: Progress, due: datetime, now: datetime) -> Decision:
    """An event that may not open this step: it waits for a digest of its run, else is skipped."""
    if step.digest is None:
        return Skip(step.channel, f"{progress.type} does not open {step.channel}")
    until = due + timedelta(seconds=step.digest.window + DIGEST_GRACE)
    pending = progress.digest_due.get(step.channel)
    if pending is not None:
        until = max(until, pending + timedelta(seconds=DIGEST_GRACE))
    if now < until:
        return Wait(step.channel, until)
    return Skip(step.channel, "no digest of its run was sent")


def _again(
    step: ChainStep, mine: Sequence[Attempt], policy: ClassPolicy, dice: float
) -> datetime | None:
    """When the rung is tried again, ``None`` when it is over."""
    last = mine[-1]
    if last.number >= step.attempts or not _may_repeat(step, mine):
        return None
    pause = step.backoff.delay(last.number, dice)
    if last.outcome is Outcome.DELIVERED:
        pause = max(pause, policy.ack_timeout)
    if last.retry_after is not None:
        pause = max(pause, last.retry_after)
    return (last.ended_at or last.started_at) + timedelta(seconds=pause)


def _may_repeat(step: ChainStep, mine: Sequence[Attempt]) -> bool:
    last = mine[-1]
    if last.outcome is Outcome.FAILED:
        return last.retryable
    if last.outcome is Outcome.DELIVERED:
        # A resend reached a socket, but only an acknowledgement ends the event.
        return step.channel == "direct"
    if last.outcome in (Outcome.UNKNOWN, Outcome.STARTED):
        unknown = sum(a.outcome in (Outcome.UNKNOWN, Outcome.STARTED) for a in mine)
        return step.on_unknown == "retry" or (step.on_unknown == "once" and unknown <= 1)
    return False
