"""The relay: committed rows of the outbox to a gateway, in their order, until it has them.

Owns: the loop, its pauses, and when a row is set aside. What it knows is in the database alone, so
it may be killed at any point: a row that was posted and not marked is posted again, and the gateway
takes its id once.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from delivery.errors import InvalidEvent, Overloaded, Unreachable
from delivery.outbox.posting import Answer, Verdict
from delivery.outbox.row import event_json
from delivery.outbox.source import Figures, Row, Source

logger = logging.getLogger(__name__)

BATCH = 500
LISTENING_INTERVAL = 5.0
"""Seconds between two looks while commits are announced: an announcement can be lost."""
TRIM_EVERY = 60.0
FIGURES_EVERY = 5.0
REPORT_EVERY = 60.0
"""Seconds between two lines about the same trouble."""
MAX_PAUSE = 10.0
MAX_TRIES = 20
"""Times that a row alone meets an answer that is neither yes nor no."""
SLICE = 0.5
"""Seconds after which a wait looks whether the relay is to end."""


class Gateway(Protocol):
    """Takes encoded events; see ``posting.Post``."""

    def send(self, events: Sequence[bytes]) -> list[Answer]: ...


@dataclass(slots=True)
class Counts:
    """What this process did, for its metrics."""

    sent: int = 0
    refused: int = 0
    source_up: bool = False
    gateway_up: bool = False


class Relay:
    """Carries rows until ``stop`` is set.

    Args:
        interval: seconds between two looks where no commit is announced.
        on_figures: called every few seconds with how the outbox stands.
    """

    def __init__(
        self,
        source: Source,
        gateway: Gateway,
        *,
        stop: threading.Event,
        interval: float = 1.0,
        batch: int = BATCH,
        on_figures: Callable[[Figures], None] | None = None,
    ) -> None:
        self.counts = Counts()
        self._source = source
        self._gateway = gateway
        self._stop = stop
        self._interval = interval
        self._batch = batch
        self._tries: dict[int, int] = {}
        self._failures = 0
        self._trimmed_at = 0.0
        self._on_figures = on_figures
        self._figured_at = 0.0
        self._told: dict[str, float] = {}

    def run(self) -> None:
        """Carry rows; returns once ``stop`` is set. Outages of both sides are waited out."""
        while not self._stop.is_set():
            try:
                self._turn()
            except Overloaded as error:
                self._pause_after(error, error.retry_after)
            except Unreachable as error:
                self._pause_after(error, 0.0)

    def _turn(self) -> None:
        self._figure()
        self._source.listen()
        rows = self._source.waiting(self._batch)
        self.counts.source_up = True
        if rows:
            self.carry(rows)
            return
        self._trim()
        self._wait(LISTENING_INTERVAL if self._source.is_listening else self._interval)

    def _figure(self) -> None:
        now = time.monotonic()
        if self._on_figures is not None and now - self._figured_at > FIGURES_EVERY:
            self._figured_at = now
            self._on_figures(self._source.figures())

    def carry(self, rows: Sequence[Row]) -> None:
        """Post rows, and record what became of them.

        Raises:
            Unreachable: the source or the gateway does not answer.
            Overloaded: the gateway asks to be left alone for a while.
        """
        refused: list[tuple[int, str]] = []
        positions: list[int] = []
        events: list[bytes] = []
        for row in rows:
            try:
                events.append(event_json(row))
                positions.append(row["position"])
            except InvalidEvent as error:
                refused.append((row["position"], str(error)))
        if refused:
            self._settle([], refused)
        is_whole = True
        while events and not self._stop.is_set():
            answers = self._send(events)
            is_whole &= self._take(positions[: len(answers)], answers)
            del positions[: len(answers)], events[: len(answers)]
            if not is_whole:
                # What follows waits, so that no row of a run overtakes another.
                raise Overloaded("the gateway could not take some events", retry_after=0.1)
        self._failures = 0

    def _send(self, events: Sequence[bytes]) -> list[Answer]:
        try:
            answers = self._gateway.send(events)
        except (Unreachable, Overloaded):
            self.counts.gateway_up = False
            raise
        self.counts.gateway_up = True
        return answers

    def _take(self, positions: Sequence[int], answers: Sequence[Answer]) -> bool:
        """Record answers; returns whether each was final."""
        sent: list[int] = []
        refused: list[tuple[int, str]] = []
        is_whole = True
        for position, answer in zip(positions, answers, strict=True):
            if answer.verdict is Verdict.ACCEPTED:
                sent.append(position)
            elif answer.verdict is Verdict.REFUSED or self._is_given_up(position, answer):
                refused.append((position, answer.reason))
            else:
                is_whole = False
        self._settle(sent, refused)
        return is_whole

    def _is_given_up(self, position: int, answer: Answer) -> bool:
        if answer.verdict is not Verdict.FAILED:
            return False
        tries = self._tries[position] = self._tries.get(position, 0) + 1
        return tries >= MAX_TRIES

    def _settle(self, sent: Sequence[int], refused: Sequence[tuple[int, str]]) -> None:
        self._source.settle(sent, refused)
        for position in (*sent, *(position for position, _ in refused)):
            self._tries.pop(position, None)
        self.counts.sent += len(sent)
        self.counts.refused += len(refused)
        for position, reason in refused:
            logger.error("row %d of the outbox is set aside: %s", position, reason)

    def _trim(self) -> None:
        now = time.monotonic()
        if now - self._trimmed_at < TRIM_EVERY and self._trimmed_at:
            return
        while self._source.trim() and not self._stop.is_set():
            pass
        self._trimmed_at = now

    def _wait(self, timeout: float) -> None:
        """Wait for a commit, at most ``timeout`` seconds, and not beyond the end."""
        ends = time.monotonic() + timeout
        while (left := ends - time.monotonic()) > 0 and not self._stop.is_set():
            if not self._source.is_listening:
                self._stop.wait(min(left, SLICE))
            elif self._source.wait(min(left, SLICE)):
                return

    def _pause_after(self, error: Exception, least: float) -> None:
        self._failures += 1
        now = time.monotonic()
        told = self._told.get(str(error))
        if told is None or now - told > REPORT_EVERY:
            self._told = {str(error): now}
            logger.warning("the outbox waits: %s", error)
        pause = min(MAX_PAUSE, 0.1 * 2 ** min(self._failures, 10)) * random.uniform(0.5, 1.0)
        self._stop.wait(max(least, pause))
