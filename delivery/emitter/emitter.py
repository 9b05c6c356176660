"""The emitter, in which every way in ends.

Owns: the order of validate, number, push and record; the receipt and when it is settled. Never
does: SQL, sockets, tasks: they are ports. Everything runs on the loop's thread and never waits; an
event costs no task and no timer, and a future only if its receipt is awaited.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any, Unpack

from delivery.domain.emission import Data, Emission, EventOptions, Receipt, given_options
from delivery.domain.event import Event, EventClass, check_event_id
from delivery.domain.lifecycle import Outcome
from delivery.domain.options import Options
from delivery.domain.policy import ClassPolicy, Policies
from delivery.domain.ports import Accepted, Journal, Push
from delivery.domain.records import Entry, Receipted, Recorded
from delivery.emitter.pushing import Pusher
from delivery.emitter.receipts import Receipts
from delivery.emitter.runs import Run, Runs
from delivery.emitter.validate import (
    Context,
    Draft,
    Kinds,
    check_context,
    check_data,
    check_kind,
    check_meta,
    new_event_id,
    parse_item,
)
from delivery.errors import IdConflict, Overloaded
from delivery.telemetry import metrics

logger = logging.getLogger(__name__)

Done = Callable[[Accepted | Exception], None]


class Emitted(Entry, kw_only=True):
    """An event that is pushed while it commits."""

    run: Run
    receipt: Receipt


class Numbered(Entry, kw_only=True):
    """An event that the ledger numbers; it is pushed once it is recorded."""

    policy: ClassPolicy
    run: Run
    done: Done
    performance: bool


class EmitterCore:
    """The part that all emitters of a process share; usable after ``start``."""

    _loop: asyncio.AbstractEventLoop

    def __init__(
        self,
        policies: Policies,
        journal: Journal,
        push: Push,
        *,
        utcnow: Callable[[], datetime],
        receipts: Receipts,
        on_hand_over: Callable[[], None] = lambda: None,
        new_id: Callable[[], str] = new_event_id,
        jitter: Callable[[], float] = random.random,
        on_auth: Callable[[Event], None] | None = None,
        on_auth_pushed: Callable[[Event], None] = lambda event: None,
        max_backlog: int = 20_000,
        run_capacity: int = 10_000,
    ) -> None:
        """
        Args:
            on_hand_over: a hint for the sweep, at most once per turn of the loop.
            jitter: uniform in [0, 1), spreads retries.
            on_auth: makes the queue copy of a sign-in event, which clients read while the ledger
                is away; must not wait.
            on_auth_pushed: records the push of a sign-in event; see ``Pusher``.
            max_backlog: the journal's bound: beyond it nothing is pushed or recorded.
            run_capacity: runs whose counter is remembered, at most.
        """
        self.kinds = Kinds(policies)
        self.new_id = new_id
        self.receipts = receipts
        self._journal = journal
        self._utcnow = utcnow
        self._hint_hand_over = on_hand_over
        self._is_hinted = False
        self._at: datetime | None = None
        self._committed = self._on_committed  # bound once, not per event
        self._on_auth = on_auth
        self._max_backlog = max_backlog
        self._runs = Runs(run_capacity)
        self._performance_at: float | None = None
        self._push = push
        self._pusher = Pusher(
            push,
            journal,
            jitter=jitter,
            on_hand_over=self._hint,
            on_auth_pushed=on_auth_pushed,
        )
        self.is_started = False

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Accept events from now on, on the thread of this loop."""
        self._loop = loop
        self._pusher.start(loop)
        self.receipts.start(loop)
        self.is_started = True

    def emitter(
        self,
        user_id: str,
        run_id: str,
        thread_id: str | None = None,
        performance: bool = False,
    ) -> Emitter:
        """Make an emitter for one run of one user.

        Raises:
            InvalidContext: an id is malformed; names it.
            Overloaded: not started yet.
        """
        if not self.is_started:
            raise Overloaded("the gateway has not started yet; emit after the app's start-up")
        if performance:
            metrics.performance_activations.inc()
        return Emitter(self, user_id, run_id, thread_id, performance)

    def performance_age(self) -> float | None:
        """Seconds since the last event in performance mode, ``None`` if there was none."""
        at = self._performance_at
        return None if at is None else round(self._loop.time() - at, 1)

    def close(self) -> None:
        """Push or hand over events that wait for a timer. The journal's owner closes it later."""
        self._pusher.close()
        self.receipts.close()

    def run(self, user_id: str, run_id: str) -> Run:
        """The counter of a run, kept for as long as the caller holds it."""
        return self._runs.of(user_id, run_id)

    def emit(
        self,
        context: Context,
        run: Run,
        event_type: object,
        data: object,
        event_id: object,
        meta: object,
        performance: bool,
        given: Mapping[str, Any] | None = None,
    ) -> Receipt:
        """Check, number, push and record one event made in this process.

        Args:
            given: the caller's options by their names in JSON, ``None`` if there are none.

        Raises:
            InvalidEvent: names the field.
            Overloaded: the journal is full; nothing was pushed or recorded.
        """
        options, is_held = None, False
        if given is None:
            kind = self.kinds.of(event_type)
        else:
            at = self._at or self.start_turn()
            kind, options = self.kinds.chosen(event_type, given, at)
            is_held = options.holds(at)
        raw = check_data(data)
        if context.flags or meta is not None:
            check_kind(kind, context)
            meta = check_meta(meta, context.flags)
        seq = None
        if kind.is_durable:
            self._check_room()
            if event_id is None and not is_held:
                seq = run.take()
        event = Event(
            id=self.new_id() if event_id is None else check_event_id(event_id),
            type=kind.type,
            user_id=context.user_id,
            run_id=context.run_id,
            thread_id=context.thread_id,
            seq=seq,
            at=self._at or self.start_turn(),
            event_class=kind.event_class,
            raw_data=raw,
            meta=meta,
        )
        receipt = Receipt(event.id, self.receipts)
        if performance:
            self._performance_at = self._loop.time()
        if seq is not None:
            self._push_first(event, kind.policy, run, receipt, performance, options)
        elif kind.is_durable:
            draft = Draft(event, kind.policy, options)
            self._commit_first(draft, run, partial(_settle, receipt), performance)
        else:
            self._pusher.offer(event, kind.policy, performance)
            receipt.settle(seq=None, durable=False)
        return receipt

    def draft(self, item: object) -> Draft:
        """Check an event that came as a JSON object. Raises ``InvalidEvent``."""
        return parse_item(
            item, kinds=self.kinds, new_id=self.new_id, at=self._at or self.start_turn()
        )

    def record(self, draft: Draft, done: Done) -> None:
        """Record a draft and push it after the commit: only the ledger knows duplicates.

        Raises:
            Overloaded: the journal is full; ``done`` will not be called.
        """
        self._check_room()
        run = self._runs.of(draft.event.user_id, draft.event.run_id)
        self._commit_first(draft, run, done, performance=False)

    def push_only(self, draft: Draft) -> None:
        """Push an ephemeral event, which is not recorded."""
        self._pusher.offer(draft.event, draft.policy, performance=False)

    def _push_first(
        self,
        event: Event,
        policy: ClassPolicy,
        run: Run,
        receipt: Receipt,
        performance: bool,
        options: Options | None,
    ) -> None:
        """Push an event while it commits; the result of the push is part of the insert."""
        entry = Emitted(event, policy.ack_timeout, policy.ttl, run=run, receipt=receipt)
        if options is not None:
            entry.choose(options)
        pending = self._pusher.offer(event, policy, performance, entry)
        try:
            self._journal.submit(entry, self._committed)
        except Overloaded:
            run.distrust()
            raise
        if pending is not None:
            # The journal owns the entry from here; a later result goes through hand_over().
            pending.entry = None
        if event.event_class is EventClass.AUTH:
            self._copy_auth(event)

    def _on_committed(self, entry: Emitted, answer: Receipted | Exception) -> None:
        receipt = entry.receipt
        if isinstance(answer, Exception):
            entry.run.distrust()
            _settle(receipt, answer)
            return
        if entry.hand_over:
            self._hint()
        if answer.outcome is Recorded.NEW:
            receipt.settle(seq=entry.event.seq if answer.seq is None else answer.seq)
        else:
            _settle(receipt, _accepted(answer))

    def _commit_first(self, draft: Draft, run: Run, done: Done, performance: bool) -> None:
        """Record an event, which the ledger numbers unless it is a duplicate, then push it."""
        policy = draft.policy
        entry = Numbered(
            draft.event,
            policy.ack_timeout,
            policy.ttl,
            policy=policy,
            run=run,
            done=done,
            performance=performance,
        )
        if draft.options is not None:
            entry.choose(draft.options)
        if not entry.is_held and self._push.is_absent(draft.event.user_id):
            # Part of the insert, at a fraction of the cost of a hand-over after it.
            entry.hand_over = True
            entry.pushes.append((Outcome.FAILED, "nobody connected"))
        self._journal.submit(entry, self._on_numbered)
        run.outstanding += 1

    def _on_numbered(self, entry: Numbered, answer: Receipted | Exception) -> None:
        run = entry.run
        run.outstanding -= 1
        if isinstance(answer, Exception):
            entry.done(answer)
            return
        if answer.outcome is Recorded.NEW:
            run.on_recorded(answer.seq)
            if entry.hand_over:
                self._hint()
            if not entry.is_held:
                self._push_numbered(entry, entry.event.evolve(seq=answer.seq))
        entry.done(_accepted(answer))

    def _push_numbered(self, entry: Numbered, numbered: Event) -> None:
        if not entry.hand_over or not self._push.is_absent(numbered.user_id):
            self._pusher.offer(numbered, entry.policy, entry.performance)
        self._copy_auth(numbered)

    def start_turn(self) -> datetime:
        """Read the clock once per turn of the loop: events of one turn have one instant."""
        at = self._at = self._utcnow()
        self._loop.call_soon(self._forget_instant)
        return at

    def _forget_instant(self) -> None:
        self._at = None

    def _check_room(self) -> None:
        # Before the push: an event that the journal will refuse must not reach a socket.
        if self._journal.backlog >= self._max_backlog:
            raise Overloaded(f"{self._journal.backlog} events wait to be committed; slow down")

    def _copy_auth(self, event: Event) -> None:
        if self._on_auth is not None and event.event_class is EventClass.AUTH:
            self._on_auth(event)

    def _hint(self) -> None:
        if not self._is_hinted:
            self._is_hinted = True
            self._loop.call_soon(self._send_hint)

    def _send_hint(self) -> None:
        self._is_hinted = False
        self._hint_hand_over()


class Emitter(Emission):
    """Emits events of one run of one user, in the gateway's process."""

    def __init__(
        self,
        core: EmitterCore,
        user_id: str,
        run_id: str,
        thread_id: str | None = None,
        performance: bool = False,
    ) -> None:
        """
        Args:
            performance: one retry instead of three, 1 ms instead of 100 ms, no linger.

        Raises:
            InvalidContext: an id is malformed; names it.
        """
        self._core = core
        self._context: Context = check_context(user_id, run_id, thread_id)
        self._run = core.run(self._context.user_id, self._context.run_id)
        self._performance = performance

    def emit_nowait(
        self,
        type: str,
        data: Data | None = None,
        *,
        id: str | None = None,
        meta: Data | None = None,
        **options: Unpack[EventOptions],
    ) -> Receipt:
        """See ``Emission``."""
        given = given_options(options) if options else None
        return self._core.emit(
            self._context, self._run, type, data, id, meta, self._performance, given
        )

    def __repr__(self) -> str:
        context = self._context
        return f"<Emitter user={context.user_id!r} run={context.run_id!r}>"


def _accepted(answer: Receipted) -> Accepted | Exception:
    if answer.outcome is Recorded.CONFLICT:
        return IdConflict(
            f"event {answer.id} is recorded with other content; use a new id for a new event",
            field="id",
        )
    is_duplicate = answer.outcome is Recorded.DUPLICATE
    return Accepted(answer.id, answer.seq, duplicate=is_duplicate, durable=True)


def _settle(receipt: Receipt, answer: Accepted | Exception) -> None:
    if isinstance(answer, Accepted):
        receipt.settle(seq=answer.seq, duplicate=answer.duplicate, durable=answer.durable)
        return
    if not receipt.is_awaited:
        # The receipt may never be awaited; the loss must be in the log.
        logger.error("event %s was not accepted: %s", receipt.id, answer)
    receipt.fail(answer)
