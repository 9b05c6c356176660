"""Steps of the chain: the internal channels, and the emergency push.

Owns: the side effect of ``database``, ``queue``, ``direct`` and ``emergency`` for a batch of
claimed events. Never does: decide what comes next, know Celery or SQL.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Protocol

from delivery.domain.channels import Channel
from delivery.domain.event import Event
from delivery.domain.lifecycle import Outcome
from delivery.domain.ports import Message, Resend, Taken, Transport
from delivery.domain.records import Result
from delivery.errors import ChannelError, NotConnected
from delivery.tasks.attempts import Work, result_of
from delivery.tasks.run import Run

logger = logging.getLogger(__name__)

MAX_PROBES = 16
"""Users probed at a time: probing a user without a connection takes the whole timeout."""

PROBE_TIMEOUT = 2.0


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


class EmergencyStep:
    """Sends one push message per user and run, to limit their number; one attempt row per event."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def run(self, run: Run, works: Sequence[Work]) -> list[Work]:
        groups: dict[tuple[str, str], list[Work]] = {}
        for work in works:
            groups.setdefault((work.event.user_id, work.event.run_id), []).append(work)
        kept: list[Work] = []
        for group in groups.values():
            kept.extend(run.guarded(group, lambda part: self._serve(run, part)))
        return kept

    def _serve(self, run: Run, group: Sequence[Work]) -> list[Work]:
        if not run.has_time():
            run.publish_again(group)
            return []
        if not run.may_call(group, self._transport):
            return run.wait_for_breaker(group)
        return self._push(run, group)

    def _push(self, run: Run, group: Sequence[Work]) -> list[Work]:
        started_at = run.now()
        begun = run.begin(group)
        if not begun:
            return []

        def deliver() -> Taken:
            return self._transport.deliver(self._message(begun), run.limits.attempt)

        result = result_of(run.channel, deliver)
        kept = run.end(begun, result, started_at)
        run.report_health(result)
        return kept

    def _message(self, begun: Sequence[Work]) -> Message:
        first = begun[0]
        events = sorted((work.event for work in begun), key=lambda e: (e.seq or 0, e.id))
        named = "\n".join(f"{w.id}.{w.claim.stored.generation}" for w in begun)
        return Message(
            # The key depends on the message's events only, not on the rest of the batch.
            key=hashlib.sha256(named.encode()).hexdigest()[:32],
            user_id=first.event.user_id,
            run_id=first.event.run_id,
            events=tuple(events),
            contact=first.claim.contact,
            number=max(work.number for work in begun),
        )
