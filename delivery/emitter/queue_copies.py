"""Queue copies of sign-in events, made in a thread, and the record of attempts beside the chain.

Owns: two threads and their bounded queues. Never does: wait on the loop, or delay acceptance: the
ledger has the event; its copy is read while the ledger is away.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from delivery.domain.channels import Channel
from delivery.domain.event import Event
from delivery.domain.lifecycle import Outcome
from delivery.domain.records import SideAttempt
from delivery.errors import DeliveryError, LedgerError

logger = logging.getLogger(__name__)

MAX_WAITING = 1_000
MAX_OF_USER = 100
"""Copies of one user that wait: a flood of one user's sign-ins costs no other user the copy."""
BATCH = 100
MAX_UNRECORDED = 10_000
RETRY = 0.5
"""Seconds until attempts are offered again whose event is not in the ledger yet."""
MAX_AGE = 3_600.0
"""Seconds after which an attempt is dropped whose event is in no ledger."""

Note = Callable[[SideAttempt], None]


class QueueCopyThread:
    """Copies events in batches, oldest first.

    Args:
        copy: puts the copies.
        note: takes one attempt per event: whether it was copied.
    """

    def __init__(
        self, copy: Callable[[Sequence[Event]], None], note: Note = lambda attempt: None
    ) -> None:
        self._copy = copy
        self._note = note
        self._waiting: deque[tuple[Event, datetime]] = deque()
        self._of_user: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="delivery-copies", daemon=True)
        self.dropped = 0

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, event: Event) -> None:
        """Queue one event; never waits."""
        now = datetime.now(UTC)
        with self._changed:
            is_full = len(self._waiting) >= MAX_WAITING
            if not is_full and self._of_user[event.user_id] < MAX_OF_USER:
                self._of_user[event.user_id] += 1
                self._waiting.append((event, now))
                self._changed.notify()
                return
            self.dropped += 1
        reason = "too many copies wait" + ("" if is_full else " of this user")
        self._note(SideAttempt(event.id, Channel.QUEUE, Outcome.FAILED, now, now, reason))

    def stop(self, timeout: float = 5.0) -> None:
        """Copy the waiting events, then end the thread."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout)
        if self._waiting:
            logger.warning("%d queue copies not made at stop", len(self._waiting))

    def _run(self) -> None:
        while batch := self._take():
            self._make(batch)

    def _take(self) -> list[tuple[Event, datetime]]:
        """Wait for events, at most a batch; none once the thread is to end."""
        with self._changed:
            # Ends with ``stop``; the thread is a daemon.
            self._changed.wait_for(lambda: self._waiting or self._is_stopping)
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            for event, _ in batch:
                self._of_user[event.user_id] -= 1
                if not self._of_user[event.user_id]:
                    del self._of_user[event.user_id]
            return batch

    def _make(self, batch: Sequence[tuple[Event, datetime]]) -> None:
        outcome, reason = Outcome.DELIVERED, None
        try:
            self._copy([event for event, _ in batch])
        except DeliveryError as error:
            logger.warning("%d queue copies not made: %s", len(batch), error)
            outcome, reason = Outcome.FAILED, str(error)
        except Exception as error:
            # The thread must survive any fault, or no later sign-in has a copy.
            logger.exception("%d queue copies not made", len(batch))
            outcome, reason = Outcome.FAILED, type(error).__name__
        now = datetime.now(UTC)
        for event, at in batch:
            self._note(SideAttempt(event.id, Channel.QUEUE, outcome, at, now, reason))


class AttemptThread:
    """Records attempts beside the chain, after their event: it may still be committing, or in the
    spool while the ledger is away.

    Args:
        record: see ``RecordingStore.add_attempts``.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        record: Callable[[Sequence[SideAttempt]], list[SideAttempt]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._record = record
        self._clock = clock
        self._waiting: deque[tuple[SideAttempt, float]] = deque()
        self._changed = threading.Condition()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="delivery-attempts", daemon=True)
        self.dropped = 0

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def add(self, attempt: SideAttempt) -> None:
        """Queue one attempt, from any thread; never waits. The oldest is dropped at the bound."""
        with self._changed:
            if len(self._waiting) >= MAX_UNRECORDED:
                self._waiting.popleft()
                self.dropped += 1
            self._waiting.append((attempt, self._clock()))
            self._changed.notify()

    def pushed(self, event: Event) -> None:
        """Queue the push of a sign-in event that reached a connection."""
        now = datetime.now(UTC)
        self.add(SideAttempt(event.id, Channel.WEBSOCKET, Outcome.DELIVERED, now, now))

    def stop(self, timeout: float = 5.0) -> None:
        """Record what waits, once, then end the thread."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout)
        left = len(self._waiting) + self.dropped
        if left:
            logger.warning("%d attempts of sign-in events not recorded", left)

    def _run(self) -> None:
        pause = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_stopping)
                if pause:
                    self._changed.wait_for(lambda: self._is_stopping, pause)
                is_last = self._is_stopping
                batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            pause = RETRY if self._offer(batch) else 0.0
            if is_last and (pause or not self._waiting):
                return

    def _offer(self, batch: list[tuple[SideAttempt, float]]) -> bool:
        """Record a batch; whether some of it waits on."""
        if not batch:
            return False
        try:
            missing = set(map(id, self._record([attempt for attempt, _ in batch])))
        except LedgerError as error:
            logger.debug("attempts of sign-in events wait for the ledger: %s", error)
            missing = {id(attempt) for attempt, _ in batch}
        except Exception:
            # The thread must survive any fault, and a batch that caused it is not offered again.
            logger.exception("%d attempts of sign-in events not recorded", len(batch))
            return False
        oldest = self._clock() - MAX_AGE
        left = [one for one in batch if id(one[0]) in missing and one[1] > oldest]
        with self._changed:
            self._waiting.extend(left)  # behind those whose event may be there
        return bool(left)
