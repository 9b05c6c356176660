"""The emitter of a process that traces: each sampled event has a span until its commit, and one for
its push.

Owns: the open spans. Without tracing none of this is made, and no event pays for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec

from delivery.domain.emission import Receipt
from delivery.domain.event import Event
from delivery.domain.options import NOTHING, Options
from delivery.domain.policy import ClassPolicy, Policies
from delivery.domain.ports import Accepted, Journal, Push, Pushed
from delivery.domain.records import Entry, Receipted
from delivery.emitter.emitter import Done, Emitted, EmitterCore, Numbered
from delivery.emitter.runs import Run
from delivery.emitter.validate import Context, Draft
from delivery.telemetry.tracing import Accepting, Tracing


class TracedPush:
    """The fast path, with a span for each push of a traced event. Implements ``Push``."""

    def __init__(self, push: Push, tracing: Tracing) -> None:
        self._push = push
        self._tracing = tracing

    def push(self, event: Event, encoded: bytes) -> Pushed:
        """See the port."""
        pushed = self._push.push(event, encoded)
        self._tracing.pushed(event.id, pushed.connections, pushed.reason)
        return pushed

    def is_absent(self, user_id: str) -> bool:
        """See the port."""
        return self._push.is_absent(user_id)

    def keep_waiting(self, event: Event, *, is_recorded: bool) -> None:
        """See the port."""
        self._push.keep_waiting(event, is_recorded=is_recorded)

    def health(self, user_id: str) -> int:
        """See the port."""
        return self._push.health(user_id)


class TracedCore(EmitterCore):
    """An ``EmitterCore`` that traces.

    Args:
        tracing: of this process; the other arguments are those of ``EmitterCore``.
    """

    def __init__(
        self, policies: Policies, journal: Journal, push: Push, *, tracing: Tracing, **rest: Any
    ) -> None:
        super().__init__(policies, journal, TracedPush(push, tracing), **rest)
        self._tracing = tracing
        self._make_id = self.new_id
        self._open: dict[str, Accepting] = {}
        self._is_recorded = False

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
        """See ``EmitterCore``; without a ``traceparent`` the span that is current is the cause."""
        known = self._make_id() if event_id is None else str(event_id)[:64].lower()
        parent = None if given is None else given.get("traceparent")
        if parent is None:
            parent = self._tracing.caller()
        span = self._tracing.accept(
            known, str(event_type)[:128], parent if isinstance(parent, str) else None
        )
        if span is None:
            return super().emit(context, run, event_type, data, event_id, meta, performance, given)
        if given is None or "traceparent" not in given:
            given = {**(given or {}), "traceparent": span.traceparent}
        self._is_recorded = False
        if event_id is None:
            self.new_id = lambda: known
        try:
            receipt = super().emit(
                context, run, event_type, data, event_id, meta, performance, given
            )
        except Exception as error:
            span.end(error)
            raise
        finally:
            self.new_id = self._make_id
        if self._is_recorded:
            self._open[known] = span
        else:
            span.end()
        return receipt

    def record(self, draft: Draft, done: Done) -> None:
        """See ``EmitterCore``."""
        event, chosen = draft.event, draft.options or NOTHING
        span = self._tracing.accept(event.id, event.type, chosen.traceparent)
        if span is None:
            super().record(draft, done)
            return
        if chosen.traceparent is None:
            traced = msgspec.structs.replace(chosen, traceparent=span.traceparent)
            draft = msgspec.structs.replace(draft, options=traced)
        try:
            super().record(draft, partial(_end, span, done))
        except Exception as error:
            span.end(error)
            raise

    def _push_first(
        self,
        event: Event,
        policy: ClassPolicy,
        run: Run,
        receipt: Receipt,
        performance: bool,
        options: Options | None,
    ) -> None:
        super()._push_first(event, policy, run, receipt, performance, options)
        self._is_recorded = True

    def _commit_first(self, draft: Draft, run: Run, done: Done, performance: bool) -> None:
        super()._commit_first(draft, run, done, performance)
        self._is_recorded = True

    def _on_committed(self, entry: Emitted, answer: Receipted | Exception) -> None:
        super()._on_committed(entry, answer)
        self._close_span(entry, answer)

    def _on_numbered(self, entry: Numbered, answer: Receipted | Exception) -> None:
        super()._on_numbered(entry, answer)
        self._close_span(entry, answer)

    def _close_span(self, entry: Entry, answer: Receipted | Exception) -> None:
        span = self._open.pop(entry.event.id, None)
        if span is not None:
            span.end(answer if isinstance(answer, Exception) else None)


def _end(span: Accepting, done: Done, answer: Accepted | Exception) -> None:
    span.end(answer if isinstance(answer, Exception) else None)
    done(answer)
