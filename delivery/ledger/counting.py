"""Counts of what the ledger recorded, by batch, after its commit.

Owns: the reasons and paths that metrics show. Never does: cost an event more than a fraction of a
microsecond; all that is done per event are comprehensions and ``Counter`` over them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import TypeVar, overload

from delivery.domain.event import EventClass
from delivery.domain.lifecycle import State
from delivery.domain.ports import Answered
from delivery.domain.records import Entry, First, Receipted, Recorded
from delivery.telemetry import metrics
from delivery.telemetry.id_ages import observe_ages

T = TypeVar("T")

_REASONS = (
    ("nobody connected", "not_connected"),
    ("no acknowledgement", "no_ack"),
    ("nack", "refused"),
    ("breaker open", "breaker_open"),
    ("the node is shutting down", "shutting_down"),
    ("not sent", "not_sent"),
    ("too many events", "overflow"),
    ("push raised", "error"),
)
"""Beginnings of the reasons of hand-overs, and their label: the rest of a reason may be a client's
or an error's text."""
Answer = Receipted | Exception
_CONFIRMED = State.CONFIRMED.value
_CHAIN = {State.FALLING_BACK.value, State.PARKED.value, State.DEAD.value}


def reason_label(reason: str | None) -> str:
    """The label of a hand-over's reason."""
    text = reason or ""
    return next((label for start, label in _REASONS if text.startswith(start)), "other")


def committed(
    entries: Sequence[tuple[Entry, Answered]], answers: Sequence[Answer], seconds: float
) -> None:
    """Count a group commit, of the ledger or the spool, with its duration."""
    metrics.journal_commit.observe(seconds)
    if not entries:
        return
    metrics.journal_batch.observe(float(len(entries)))
    if not _are_new(answers):
        entries = [one for one, answer in zip(entries, answers, strict=True) if _is_new(answer)]
        _count_repeated(answers)
    for event_class, count in _counts([entry.event.event_class for entry, _ in entries]).items():
        metrics.accepted.inc(count, str(event_class))
    types = [entry.event.type for entry, _ in entries]
    if started := types.count("agent_started"):
        metrics.runs_started.inc(started)
    if completed := types.count("agent_completed"):
        metrics.runs_completed.inc(completed)


def _are_new(answers: Sequence[Answer]) -> bool:
    """Whether every answer is that of a new event, in a fraction of the time of asking each."""
    try:
        outcomes = [one.outcome for one in answers]  # type: ignore[union-attr]
    except AttributeError:
        return False  # an error is among them
    return outcomes.count(Recorded.NEW) == len(outcomes)


def _is_new(answer: Answer) -> bool:
    return isinstance(answer, Receipted) and answer.outcome is Recorded.NEW


def _count_repeated(answers: Sequence[Answer]) -> None:
    results = Counter([one.outcome for one in answers if isinstance(one, Receipted)])
    for result in (Recorded.DUPLICATE, Recorded.CONFLICT):
        if results[result]:
            metrics.repeated.inc(results[result], result.value)


def inserted(entries: Sequence[Entry]) -> None:
    """Count events that were inserted as confirmed or handed over already."""
    channels = [made[0].channel for one in entries if (made := one.confirmations)]
    confirmed = entries
    if len(channels) < len(entries):
        confirmed = [one for one in entries if one.confirmations]
    if channels:
        _count_confirmed(_Ids(confirmed), channels, chained=0)
    if len(channels) < len(entries):
        reasons = Counter(
            [
                one.pushes[-1][1] if one.pushes else None
                for one in entries
                if one.hand_over and not one.confirmations
            ]
        )
        for reason, count in reasons.items():
            handed_over(reason, count)


def confirmed(first: Sequence[First]) -> None:
    """Count events that were confirmed for the first time."""
    if not first:
        return
    ids = [event_id for event_id, _, _ in first]
    channels = [channel for _, channel, _ in first]
    _count_confirmed(ids, channels, chained=sum([was in _CHAIN for _, _, was in first]))


def _count_confirmed(ids: Sequence[str], channels: Sequence[str], *, chained: int) -> None:
    metrics.ended.inc(len(ids), _CONFIRMED)
    if chained:
        metrics.delivered.inc(chained, "chain")
    if len(ids) > chained:
        metrics.delivered.inc(len(ids) - chained, "live")
    now = time.time()
    for channel, count in _counts(channels).items():
        metrics.confirmed.inc(count, channel)
        mine = ids
        if count < len(ids):
            mine = [one for one, its in zip(ids, channels, strict=True) if its == channel]
        observe_ages(metrics.time_to_confirmation, [(now, mine)], channel)


class _Ids(Sequence[str]):
    """Ids of entries, each looked up when it is asked for: ages ask for few of them."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = entries

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> _Ids: ...
    def __getitem__(self, index: int | slice) -> str | _Ids:
        if isinstance(index, slice):
            return _Ids(self._entries[index])
        return self._entries[index].event.id


def _counts(values: Sequence[T]) -> dict[T, int]:
    """How often each value stands there; mostly, all are the same."""
    if not values:
        return {}
    count = values.count(values[0])
    return {values[0]: count} if count == len(values) else dict(Counter(values))


def handed_over(reason: str | None, count: int) -> None:
    """Count events that were handed over to the chain."""
    if count:
        metrics.handed_over.inc(count, reason_label(reason))


def ended(state: State, count: int) -> None:
    """Count events whose way ended without a confirmation."""
    if count:
        metrics.ended.inc(count, state.value)


def finished(*, dead: int, parked: int) -> None:
    """Count events whose chain ended."""
    ended(State.DEAD, dead)
    if parked:
        metrics.parked.inc(parked)


def show_from_the_start() -> None:
    """Show the counts on which rates and alerts are based, before the first event."""
    for event_class in EventClass:
        if event_class.is_durable:
            metrics.accepted.start(event_class.value)
    for path in ("live", "chain"):
        metrics.delivered.start(path)
    for _, label in _REASONS:
        metrics.handed_over.start(label)
    for state in (State.CONFIRMED, State.DEAD, State.EXPIRED):
        metrics.ended.start(state.value)
    for bare in (metrics.runs_started, metrics.runs_completed, metrics.performance_activations):
        bare.start()
