"""Steps of the chain: the internal channels, and the emergency push.

Owns: the side effect of ``database``, ``queue``, ``direct`` and ``emergency`` for a batch of
claimed events. Never does: decide what comes next, know Celery or SQL.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Protocol

from delivery.domain.channels import Channel
from delivery.domain.event import Event
from delivery.domain.lifecycle import Outcome
from delivery.domain.ports import Resend
from delivery.domain.records import Result
from delivery.domain.transports import Message, Taken, Transport
from delivery.errors import ChannelError, NotConnected
from delivery.tasks.attempts import Work, result_of
from delivery.tasks.deliveries import FULL_RECHECK, ROOM_TIMEOUT, Deliveries
from delivery.tasks.run import Run

logger = logging.getLogger(__name__)

MAX_PROBES = 16
"""Users probed at a time: probing a user without a connection takes the whole timeout."""

PROBE_TIMEOUT = 2.0

MAX_PUSHES = 5
PUSHES_IN = 60.0
"""A user gets at most ``MAX_PUSHES`` push messages in as many seconds; events that come sooner wait
at most that long, and share a message."""
TOO_MANY = f"{MAX_PUSHES} push messages in {PUSHES_IN:g} s are enough"

ANSWER_MARGIN = 1.0
"""Seconds after the soft time limit at which a task waits for its pushes no longer."""
NO_ANSWER = Result(Outcome.UNKNOWN, error="no answer in time")


class StepRunner(Protocol):
    """Makes one channel's attempts."""

    def run(self, run: Run, works: Sequence[Work]) -> list[Work]:
        """Make the attempts that are due.

        Returns:
            Events whose attempt was recorded: the next decision on them is due. Every other event
            was moved or lost.
        """


class DatabaseStep:
    """Commits the spool. The event itself is in the ledger: it was just claimed there."""

    def __init__(self, drain_spool: Callable[[], None]) -> None:
        self._drain_spool = drain_spool

    def run(self, run: Run, works: Sequence[Work]) -> list[Work]:
        started_at = run.now()
        begun = run.begin(works)
        if not begun:
            return []

        def drain() -> None:
            self._drain_spool()

        return run.end(begun, result_of(run.channel, drain), started_at)


class QueueStep:
    """Writes queue copies of the batch and wakes the gateways."""

    def __init__(self, queue_copy: Callable[[Sequence[Event]], None], resend: Resend) -> None:
        self._queue_copy = queue_copy
        self._resend = resend

    def run(self, run: Run, works: Sequence[Work]) -> list[Work]:
        started_at = run.now()
        begun = run.begin(works)
        if not begun:
            return []
        events = [work.event for work in begun]

        def copy() -> None:
            self._queue_copy(events)

        result = result_of(run.channel, copy)
        kept = run.end(begun, result, started_at)
        if result.outcome is Outcome.DELIVERED:
            self._wake(events)
        return kept

    def _wake(self, events: Sequence[Event]) -> None:
        try:
            self._resend.wake(sorted({event.user_id for event in events}))
        except ChannelError as error:
            # Only a hint: clients read the copies when they connect.
            logger.warning("queue: gateways not woken: %s", error)


class DirectStep:
    """Probes each user's sockets and resends; only an acknowledgement confirms."""

    def __init__(self, resend: Resend) -> None:
        self._resend = resend

    def run(self, run: Run, works: Sequence[Work]) -> list[Work]:
        started_at = run.now()
        by_user: dict[str, list[Work]] = {}
        for work in run.begin(works):
            by_user.setdefault(work.event.user_id, []).append(work)
        if not by_user:
            return []
        results = self._probe(run, {user: [w.id for w in ws] for user, ws in by_user.items()})
        by_result: dict[Result, list[Work]] = {}
        for user, mine in by_user.items():
            by_result.setdefault(results[user], []).extend(mine)
        kept: list[Work] = []
        for result, alike in by_result.items():
            kept.extend(run.end(alike, result, started_at))
        return kept

    def _probe(self, run: Run, ids: dict[str, list[str]]) -> dict[str, Result]:
        timeout = min(PROBE_TIMEOUT, run.limits.attempt)
        pool = ThreadPoolExecutor(min(MAX_PROBES, len(ids)), thread_name_prefix=Channel.DIRECT)
        try:
            probes: dict[str, Future[Result]] = {
                user: pool.submit(self._resend_to, user, mine, timeout)
                for user, mine in ids.items()
            }
            wait(probes.values(), timeout=max(timeout, run.remaining()))
            no_answer = Result(Outcome.FAILED, error="no answer from the gateways in time")
            return {
                user: probe.result(timeout=0) if probe.done() else no_answer
                for user, probe in probes.items()
            }
        finally:
            # A probe that hangs must not block the task: its thread ends with its call.
            pool.shutdown(wait=False, cancel_futures=True)

    def _resend_to(self, user_id: str, ids: Sequence[str], timeout: float) -> Result:
        def resend() -> None:
            if self._resend.resend(user_id, ids, timeout) == 0:
                raise NotConnected("not connected")

        return result_of(Channel.DIRECT, resend)


@dataclass(frozen=True, slots=True)
class _Push:
    """A push message under way."""

    begun: Sequence[Work]
    started_at: datetime
    answer: Future[Result]


class EmergencyStep:
    """Sends one push message per user, and few to one user in a minute; one attempt row per event.

    All messages of a task are sent at once: a target that hangs holds up no other user's.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._deliveries: Deliveries[Result] = Deliveries(transport.name)

    def close(self, timeout: float) -> None:
        """Let the messages under way end within ``timeout`` seconds; the outcome of one that does
        not is unknown."""
        if not self._deliveries.wait(timeout):
            logger.warning("%s: stopped with messages under way", self._transport.name)

    def run(self, run: Run, works: Sequence[Work]) -> list[Work]:
        groups: dict[str, list[Work]] = {}
        for work in works:
            groups.setdefault(work.event.user_id, []).append(work)
        kept: list[Work] = []
        under_way: list[_Push] = []
        for group in groups.values():
            kept.extend(run.guarded(group, lambda part: self._serve(run, part, under_way)))
        # Each ends within the timeout of an attempt: its transport sees to that.
        wait([push.answer for push in under_way], timeout=run.remaining() + ANSWER_MARGIN)
        for push in under_way:
            kept.extend(run.guarded(push.begun, partial(self._end, run, push)))
        return kept

    def _serve(self, run: Run, group: Sequence[Work], under_way: list[_Push]) -> list[Work]:
        """Start the user's message, unless there is no time, no room, or there were too many."""
        user_id = group[0].event.user_id
        if not run.has_time():
            run.publish_again(group)
            return []
        if not run.may_call(group, self._transport):
            return run.wait_for_breaker(group)
        if any(
            not work.made(run.channel) for work in group
        ):  # a repeat was counted when it was new
            again = run.ledger.digests.count_message(
                user_id, run.channel, most=MAX_PUSHES, period=PUSHES_IN
            )
            if again is not None:
                return self._wait(run, group, again)
        if not self._deliveries.enter(user_id, ROOM_TIMEOUT):
            run.postpone(group, run.now() + timedelta(seconds=FULL_RECHECK))
            return []
        return self._push(run, group, under_way)

    def _wait(self, run: Run, group: Sequence[Work], again: datetime) -> list[Work]:
        """Let events of a user who just got many messages wait for one more, but not for long: the
        chain goes on."""
        now = run.now()
        late = [work for work in group if now - work.due_at >= timedelta(seconds=PUSHES_IN)]
        run.postpone([work for work in group if work not in late], again)
        for work in late:
            run.skip(work, work.step(run.channel), TOO_MANY, now)
        return late

    def _push(self, run: Run, group: Sequence[Work], under_way: list[_Push]) -> list[Work]:
        started_at, place, begun = run.now(), group[0].event.user_id, list[Work]()
        try:
            begun = run.begin(group)
        finally:
            if not begun:
                self._deliveries.leave(place)
        if not begun:
            return []
        message = self._message(begun)

        def deliver() -> Taken:
            return self._transport.deliver(message, run.limits.attempt)

        answer = self._deliveries.start(place, partial(result_of, run.channel, deliver))
        under_way.append(_Push(begun, started_at, answer))
        return []

    def _end(self, run: Run, push: _Push, begun: Sequence[Work]) -> list[Work]:
        result = push.answer.result(timeout=0) if push.answer.done() else NO_ANSWER
        kept = run.end(begun, result, push.started_at)
        run.report_health(result)
        return kept

    def _message(self, begun: Sequence[Work]) -> Message:
        first = begun[0]
        events = sorted((work.event for work in begun), key=lambda e: (e.seq or 0, e.id))
        named = "\n".join(map(_named, begun))
        return Message(
            # The key depends on the message's events only, not on the rest of the batch.
            key=hashlib.sha256(named.encode()).hexdigest()[:32],
            user_id=first.event.user_id,
            run_id=first.event.run_id if len({event.run_id for event in events}) == 1 else None,
            events=tuple(events),
            contact=first.claim.contact,
            number=1 + max(len(work.made(Channel.EMERGENCY)) for work in begun),
        )


def _named(work: Work) -> str:
    """The event, its generation, and its step where that has a name: of two steps on the channel,
    each sends a message of its own."""
    own = work.step(Channel.EMERGENCY).own_name
    return f"{work.id}.{work.claim.stored.generation}" + (f".{own}" if own else "")
