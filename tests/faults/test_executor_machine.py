"""The real executor under any interleaving of acks, sweeps, crashes, lost, doubled and late
messages and replays: over the ledger in memory, and over a file.

Whatever happens, every event reaches an end, leaves it only by a late confirmation or a replay, and
is sent again only after an attempt that may not have gone out or whose outcome is unknown.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
import time
from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from delivery.domain.lifecycle import ENDED, Attempt, Confirmation, Outcome, State
from delivery.domain.transports import Message, Taken
from delivery.domain.users.contact import Contact
from delivery.errors import ChannelRejected, ChannelUnavailable, OutcomeUnknown
from delivery.ledger import SqlLedger, migrate
from delivery.ledger.sql.database import Database
from delivery.tasks.executor import Executor, TimeLimits
from delivery.tasks.sweep import Sweeper
from delivery.testing import MemoryLedger, make_entry
from tests.faults.chain import policies_of
from tests.ledger_clock import moved
from tests.unit.tasks.fakes import (
    FakeAlerts,
    FakeGateways,
    FakeLinks,
    FakeQueue,
    make_event,
)

TTL = 7_200.0
POLICIES = policies_of(
    {"channel": "database"},
    {"channel": "direct", "attempts": 2},
    {"channel": "emergency", "on_unknown": "once", "attempts": 3},
    {"channel": "sms", "after": 30.0, "on_unknown": "skip"},
    {"channel": "alert", "after": 60.0},
    ttl=TTL,
)
LIMITS = TimeLimits(soft=1.0, hard=2.0, lease=30.0, mail=0.5)
"""A killed call never ends: a run waits for it to its soft limit, and there are hundreds."""
MAY_SEND_AGAIN = (Outcome.UNKNOWN, Outcome.FAILED, Outcome.STARTED)
WAYS = ("taken", "later", "never", "lost", "killed before", "killed after")
MOST_ROUNDS = 400


class Killed(BaseException):
    """The worker is gone; nothing of it runs any more."""


class World:
    """A ledger and what happens to its events; the database is the subclass's, as is the clock."""

    ledger: SqlLedger

    def advance(self, seconds: float) -> None:
        raise NotImplementedError

    def monotonic(self) -> float:
        raise NotImplementedError

    def close(self) -> None:
        self.ledger.close()

    def open(self) -> None:
        self._queue = FakeQueue()
        self._sweeper = Sweeper(self.ledger, POLICIES, self._queue)
        self.ledger.contacts.put(Contact("u", phone="+491701234567", push=("json://x",)))

    def hand_over(self) -> str:
        event = make_event()
        self.ledger.recording.commit([make_entry(event, hand_over=True, ttl=TTL)])
        return event.id

    def ack(self, event_id: str) -> None:
        self.ledger.confirmations.confirm([Confirmation(event_id, "u", "websocket", "u", "c")])

    def replay(self, event_id: str) -> bool:
        return bool(self.ledger.operations.replay([event_id], policies=POLICIES))

    def sweep(self) -> list[tuple[str, list[str]]]:
        self._sweeper.sweep()
        found = [(channel, list(ids)) for channel, ids in self._queue.published]
        self._queue.published.clear()
        return found

    def look(self, event_id: str) -> tuple[State, int, Sequence[Attempt]]:
        found = self.ledger.events.get(event_id)
        assert found is not None
        return found.stored.state, found.stored.generation, found.attempts


class Memory(World):
    """In memory, where a step takes no time."""

    ledger: MemoryLedger

    def __init__(self) -> None:
        self.ledger = MemoryLedger()
        self.open()

    def advance(self, seconds: float) -> None:
        self.ledger.advance(seconds)

    def monotonic(self) -> float:
        return self.ledger.clock.monotonic()


@cache
def template() -> Path:
    """A migrated file."""
    folder = Path(tempfile.mkdtemp(prefix="delivery-test-machine-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    migrate.upgrade(f"sqlite:///{folder / 'ledger.db'}")
    return folder / "ledger.db"


class Sqlite(World):
    """The real thing."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="delivery-test-machine-")
        file = Path(self._folder.name) / "ledger.db"
        shutil.copy(template(), file)
        self.ledger = SqlLedger(f"sqlite:///{file}")
        self._ahead = timedelta()
        self._clock = patch.multiple(Database, **moved(lambda: self._ahead))
        self._clock.start()
        self.open()

    def advance(self, seconds: float) -> None:
        self._ahead += timedelta(seconds=seconds)

    def monotonic(self) -> float:
        return time.monotonic() + self._ahead.total_seconds()

    def close(self) -> None:
        super().close()
        self._clock.stop()
        self._folder.cleanup()


class Provider:
    """Does what the machine says, and has it checked that the message may leave at all."""

    def __init__(self, name: str, machine: Chaos) -> None:
        self.name = name
        self._machine = machine

    def unreachable(self, contact: Contact) -> str | None:
        return None

    def deliver(self, message: Message, timeout: float) -> Taken:
        way = self._machine.way
        if way == "killed before":
            raise Killed
        if way != "later":
            for event in message.events:
                self._machine.on_send(self.name, event.id)
        match way:
            case "later":
                raise ChannelUnavailable("come back")
            case "never":
                raise ChannelRejected("no such address")
            case "lost":
                raise OutcomeUnknown("no answer")
            case "killed after":
                raise Killed
        return Taken("id")


class Chaos(RuleBasedStateMachine):
    """Up to three events, and everything that can happen to their messages."""

    world_class: type[World] = World

    @initialize()
    def open(self) -> None:
        self.world = self.world_class()
        self.way = "taken"
        self.events: list[str] = []
        self.known: dict[str, State] = {}
        self.messages: list[tuple[str, list[str]]] = []
        self.sent: list[tuple[str, int, str]] = []
        gateways, self.queue = FakeGateways(), FakeQueue()
        self.executor = Executor(
            ledger=self.world.ledger,
            policies=POLICIES,
            transports={name: Provider(name, self) for name in ("emergency", "sms")},
            alerts=FakeAlerts(),
            resend=gateways,
            queue_copy=gateways.copy,
            publish=self.queue,
            links=FakeLinks(),
            drain_spool=lambda: None,
            jitter=lambda: 0.5,
            limits=LIMITS,
            clock=lambda: self.world.monotonic(),
        )

    def on_send(self, channel: str, event_id: str) -> None:
        """A message leaves: was it allowed to?"""
        state, generation, attempts = self.world.look(event_id)
        assert state not in ENDED, f"{state} events are over"
        before = [a for a in attempts if (a.channel, a.generation) == (channel, generation)]
        *earlier, present = sorted(before, key=lambda attempt: attempt.number)
        assert present.outcome is Outcome.STARTED, "an attempt is written before its side effect"
        assert all(a.outcome in MAY_SEND_AGAIN for a in earlier), "it has been delivered"
        refused = [a for a in earlier if a.outcome is Outcome.FAILED and not a.retryable]
        assert not refused, "a refusal for good is final"
        doubts = sum(a.outcome is Outcome.UNKNOWN for a in earlier)
        assert doubts <= {"emergency": 1, "sms": 0}[channel], "doubt is answered by policy"
        self.sent.append((event_id, generation, channel))

    def settle(self, *, may_leave: str | None = None) -> None:
        """Look at every event: an end is left by a late confirmation or a replay alone."""
        for event_id in self.events:
            state, _, _ = self.world.look(event_id)
            before = self.known.get(event_id)
            if before in ENDED and state is not before:
                assert may_leave == event_id, f"{before} became {state}"
            self.known[event_id] = state

    @precondition(lambda self: len(self.events) < 3)
    @rule()
    def accept(self) -> None:
        self.events.append(self.world.hand_over())
        self.settle()

    @precondition(lambda self: self.events)
    @rule(which=st.integers(0, 9))
    def ack(self, which: int) -> None:
        if which >= len(self.events):
            return  # a confirmed event has nothing more to tell: not too many of them
        event_id = self.events[which % len(self.events)]
        self.world.ack(event_id)
        self.settle(may_leave=event_id)

    @precondition(lambda self: self.events)
    @rule(which=st.integers(0, 2))
    def replay(self, which: int) -> None:
        event_id = self.events[which % len(self.events)]
        replayed = self.world.replay(event_id)
        assert not (replayed and self.known[event_id] is State.CONFIRMED)
        self.settle(may_leave=event_id)

    @rule()
    def sweep(self) -> None:
        self.messages += self.world.sweep()
        self.settle()

    @rule(seconds=st.sampled_from([1.0, 6.0, 35.0, 65.0, 700.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.world.advance(seconds)

    @precondition(lambda self: self.messages)
    @rule(which=st.integers(0, 9), way=st.sampled_from(WAYS), again=st.booleans())
    def run_message(self, which: int, way: str, again: bool) -> None:
        """Any message, early or late; ``again``: the broker delivers it once more some day."""
        which %= len(self.messages)
        message = self.messages[which] if again else self.messages.pop(which)
        self.way = way
        self.run(*message)

    @precondition(lambda self: self.events)
    @rule(way=st.sampled_from(WAYS))
    def serve(self, way: str) -> None:
        """Half a minute goes by, and whatever is due then goes the same way."""
        self.world.advance(35.0)
        self.way = way
        for message in self.world.sweep():
            self.run(*message)

    @precondition(lambda self: self.messages)
    @rule()
    def lose_every_message(self) -> None:
        self.messages.clear()

    def run(self, channel: str, ids: list[str]) -> None:
        try:
            self.executor.run(channel, ids)
        except Killed:
            self.queue.published.clear()  # it took with it what it had not sent yet
        self.messages += [(name, list(listed)) for name, listed in self.queue.published]
        self.queue.published.clear()
        self.settle()

    def teardown(self) -> None:
        """Then the faults stop, and every event reaches its end."""
        if not hasattr(self, "world"):
            return
        try:
            self.way = "taken"
            for _ in range(MOST_ROUNDS):
                if all(self.world.look(event_id)[0] in ENDED for event_id in self.events):
                    return
                self.messages = self.world.sweep()
                if not self.messages:
                    self.world.advance(15.0)
                while self.messages:
                    self.run(*self.messages.pop(0))
            raise AssertionError(f"no end: {[self.world.look(e) for e in self.events]}")
        finally:
            self.world.close()


class ChaosInMemory(Chaos):
    world_class = Memory


class ChaosOnSqlite(Chaos):
    world_class = Sqlite


QUICK = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
TestInMemory = ChaosInMemory.TestCase
TestInMemory.settings = settings(QUICK, max_examples=50, stateful_step_count=40)
TestInMemory.pytestmark = [pytest.mark.timeout(120)]
TestOnSqlite = ChaosOnSqlite.TestCase
TestOnSqlite.settings = settings(QUICK, max_examples=10, stateful_step_count=40)
TestOnSqlite.pytestmark = [pytest.mark.timeout(120)]
