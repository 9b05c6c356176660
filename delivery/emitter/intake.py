"""Intake of batches of events that arrive as JSON objects over HTTP.

Owns: the order of a batch and its answers. Never does: HTTP, statuses, tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

from delivery.domain.emission import Waiter
from delivery.domain.ports import Accepted
from delivery.emitter.emitter import EmitterCore
from delivery.emitter.validate import Draft
from delivery.errors import InvalidEvent, LedgerUnavailable, Overloaded

logger = logging.getLogger(__name__)

Answer = Accepted | Exception


class HttpIntake:
    """Implements the ``Intake`` port."""

    def __init__(self, core: EmitterCore) -> None:
        self._core = core

    async def accept(self, items: Sequence[Any]) -> list[Answer]:
        """Validate and record a batch; one answer per item, in order. See the port."""
        if not items:
            return []
        if not self._core.is_started:
            return [Overloaded("the gateway is starting") for _ in items]
        batch = _Batch(self._core, len(items))
        for index, item in enumerate(items):
            batch.take(index, item)
        waiter = batch.start(self._core.receipts.waiter())
        try:
            await waiter
        except LedgerUnavailable as error:
            return batch.answers(error)
        return batch.answers(LedgerUnavailable("no answer"))


class _Batch:
    """Answers of one request. Ephemeral items wait for the items before them, to keep the order."""

    __slots__ = ("_answers", "_core", "_ephemeral", "_is_full", "_next", "_waiter")

    def __init__(self, core: EmitterCore, size: int) -> None:
        self._core = core
        self._answers: list[Answer | None] = [None] * size
        self._ephemeral: dict[int, Draft] = {}
        self._next = 0
        self._is_full: Overloaded | None = None
        self._waiter: Waiter | None = None

    def take(self, index: int, item: object) -> None:
        """Validate one item and submit it."""
        try:
            draft = self._core.draft(item)
        except InvalidEvent as error:
            self._answers[index] = error
            return
        if self._is_full is not None:
            # After a refused item, later items of its run must not overtake its retry.
            self._answers[index] = self._is_full
        elif not draft.event.event_class.is_durable:
            self._ephemeral[index] = draft
        else:
            try:
                self._core.record(draft, partial(self._on_answer, index))
            except Overloaded as error:
                self._answers[index] = self._is_full = error

    def start(self, waiter: Waiter) -> Waiter:
        """End the submission; ``waiter`` is set when every item has its answer."""
        self._waiter = waiter
        self._advance()
        return waiter

    def answers(self, missing: Exception) -> list[Answer]:
        """One answer per item; ``missing`` where none came."""
        return [missing if answer is None else answer for answer in self._answers]

    def _on_answer(self, index: int, answer: Answer) -> None:
        self._answers[index] = answer
        self._advance()

    def _advance(self) -> None:
        while self._next < len(self._answers):
            draft = self._ephemeral.pop(self._next, None)
            if draft is not None:
                self._core.push_only(draft)
                self._answers[self._next] = Accepted(
                    draft.event.id, None, duplicate=False, durable=False
                )
            elif self._answers[self._next] is None:
                return
            self._next += 1
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
