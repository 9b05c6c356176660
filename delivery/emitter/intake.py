"""Intake of batches of events that arrive as JSON objects over HTTP.

Owns: the order of a batch and its answers. Never does: HTTP, statuses, tokens, or choose whose turn
it is (``turns``).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from delivery.domain.emission import Waiter
from delivery.domain.ports import Accepted
from delivery.emitter.emitter import EmitterCore
from delivery.emitter.turns import Turns
from delivery.emitter.validate import Draft
from delivery.errors import DeliveryError, InvalidEvent, LedgerUnavailable, Overloaded

logger = logging.getLogger(__name__)

Answer = Accepted | Exception


class HttpIntake:
    """Implements the ``Intake`` port."""

    def __init__(self, core: EmitterCore) -> None:
        self._core = core
        self._turns = Turns(time.monotonic, lambda call: asyncio.get_running_loop().call_soon(call))

    def check_room(self, producer: str) -> None:
        """See the port."""
        self._turns.check_room(producer)

    async def accept(self, items: Sequence[Any], producer: str = "") -> list[Answer]:
        """Validate and record a batch; one answer per item, in order. See the port."""
        if not items:
            return []
        if not self._core.is_started:
            return [Overloaded("the gateway is starting") for _ in items]
        batch = _Batch(self._core, self._turns, producer, items)
        waiter = batch.start(self._core.receipts.waiter())
        try:
            await waiter
        except LedgerUnavailable as error:
            batch.cancel(error)
            return batch.answers(error)
        return batch.answers(LedgerUnavailable("no answer"))


class _Batch:
    """Answers of one request. Ephemeral items wait for the items before them, to keep the order."""

    __slots__ = (
        "_answers",
        "_core",
        "_ephemeral",
        "_fed",
        "_items",
        "_next",
        "_refusal",
        "_request",
        "_turns",
        "_waiter",
    )

    def __init__(
        self, core: EmitterCore, turns: Turns, producer: str, items: Sequence[Any]
    ) -> None:
        self._core = core
        self._turns = turns
        self._items = items
        self._answers: list[Answer | None] = [None] * len(items)
        self._ephemeral: dict[int, Draft] = {}
        self._fed = 0
        self._next = 0
        self._refusal: DeliveryError | None = None
        self._waiter: Waiter | None = None
        self._request = turns.request(producer, self, len(items))

    def start(self, waiter: Waiter) -> Waiter:
        """Submit the items in turns; ``waiter`` is set when every item has its answer."""
        self._waiter = waiter
        self._turns.add(self._request)
        return waiter

    def feed(self, count: int) -> None:
        """Validate and submit the next items (see ``Work``)."""
        end = self._fed + count
        for index in range(self._fed, end):
            self._take(index, self._items[index])
        self._fed = end
        self._advance()

    def refuse(self, error: Overloaded) -> None:
        """Answer all items with an error (see ``Work``)."""
        self._answers = [error] * len(self._answers)
        self._advance()

    def cancel(self, error: DeliveryError) -> None:
        """Submit none of the items that still wait for their turn."""
        self._refusal = error

    def answers(self, missing: Exception) -> list[Answer]:
        """One answer per item; ``missing`` where none came."""
        return [missing if answer is None else answer for answer in self._answers]

    def _take(self, index: int, item: object) -> None:
        if self._refusal is not None:
            # After a refused item, later items of its run must not overtake its retry.
            self._on_answer(index, self._refusal)
            return
        try:
            draft = self._core.draft(item)
            if not draft.event.event_class.is_durable:
                self._ephemeral[index] = draft
                self._turns.done(self._request)
            else:
                self._core.record(draft, partial(self._on_answer, index))
        except InvalidEvent as error:
            self._on_answer(index, error)
        except Overloaded as error:
            self._refusal = error
            self._on_answer(index, error)

    def _on_answer(self, index: int, answer: Answer) -> None:
        self._answers[index] = answer
        self._turns.done(self._request)
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
