"""The ledger in memory with hooks, and channels and receivers that do as they are told."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from delivery import testing
from delivery.domain.event import Event, EventClass
from delivery.domain.health import THRESHOLD
from delivery.domain.lifecycle import Confirmation, State
from delivery.domain.limits import DEFAULT_TTL
from delivery.domain.operators.figures import AlertGroup
from delivery.domain.policy import ChainStep, ClassPolicy, Policies
from delivery.domain.records import Claim, DigestClaim, Result, Timeline
from delivery.domain.retry import Backoff
from delivery.domain.transports import Message, Taken
from delivery.domain.users.contact import Contact
from delivery.ledger.sql.database import Database
from delivery.ledger.stores.fallback.chain import ChainSql
from delivery.ledger.stores.fallback.digests import DigestSql
from delivery.tasks.executor import Executor, TimeLimits
from delivery.testing import FakeClock, MemoryLedger, make_entry

START = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
STEADY = Backoff(base=10.0, max=40.0, jitter=0.0)
_numbers = itertools.count(1)


def make_event(user_id: str = "u", run_id: str = "r", **changes: Any) -> Event:
    """An event that differs from all others."""
    number = next(_numbers)
    known: dict[str, Any] = {
        "id": testing.make_id(number),
        "type": "agent_completed",
        "user_id": user_id,
        "run_id": run_id,
        "seq": number,
        "at": START,
        "event_class": EventClass.CRITICAL,
    }
    return testing.make_event(**{**known, **changes})


def step_on(channel: str, **changes: Any) -> ChainStep:
    """A chain step with a steady backoff of 10 s."""
    return ChainStep(channel=channel, **{"backoff": STEADY, "attempts": 3, **changes})


def policies_of(*steps: ChainStep, **classes: Sequence[ChainStep]) -> Policies:
    """The chain of the critical class; others by their name, empty when left out."""
    chains = {EventClass.CRITICAL: steps, **{EventClass(k): v for k, v in classes.items()}}
    types = {EventClass.CRITICAL: ("agent_completed", "agent_thinking")}
    return Policies(
        {c: ClassPolicy(c, types.get(c, ()), chain=tuple(chains.get(c, ()))) for c in EventClass},
        {name: c for c, names in types.items() for name in names},
    )


class ChainWithHook(ChainSql):
    """Calls ``before_begin`` with each event whose attempt is about to begin."""

    before_begin: Callable[[str], object] = staticmethod(lambda event_id: None)

    def begin_all(
        self, starts: Sequence[tuple[Claim, int]], channel: str, *more: Any
    ) -> list[bool]:
        for claim, _ in starts:
            self.before_begin(claim.id)
        return super().begin_all(starts, channel, *more)


class DigestsWithHook(DigestSql):
    """Calls ``before_claim`` when a digest is about to be sent, and notes how sendings end."""

    before_claim: Callable[[], object] = staticmethod(lambda: None)

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.ends: list[tuple[str, Result, float | None]] = []

    def claim(self, digest_id: str, lease: float, **options: Any) -> DigestClaim | None:
        self.before_claim()
        return super().claim(digest_id, lease, **options)

    def end(self, claim: DigestClaim, result: Result, *, retry_in: float | None) -> bool:
        self.ends.append((claim.digest.id, result, retry_in))
        return super().end(claim, result, retry_in=retry_in)


class ChainLedger(MemoryLedger):
    """The ledger in memory, with hooks where the chain meets it, and short questions to it."""

    def __init__(self) -> None:
        super().__init__(FakeClock(START))
        self.chain: ChainWithHook = ChainWithHook(self.database)
        self.digests: DigestsWithHook = DigestsWithHook(self.database)

    def add(self, event: Event | None = None, *, ttl: float = DEFAULT_TTL, **contact: Any) -> str:
        """An event that was handed over just now; its user has every address unless told."""
        event = event or make_event()
        self.recording.commit([make_entry(event, hand_over=True, ttl=ttl)])
        if contact or self.contacts.get(event.user_id) is None:
            known = {"email": "u@example.org", "phone": "+491701234567", "push": ("json://x",)}
            self.contacts.put(Contact(event.user_id, **{**known, **contact}))
        return event.id

    def claim(self, event_id: str, lease: float = 60.0) -> Claim:
        """Another worker takes the event."""
        [claim] = self.chain.claim([event_id], lease)
        return claim

    def look(self, event_id: str) -> Timeline:
        """All that is known of the event."""
        found = self.events.get(event_id)
        assert found is not None
        return found

    def state(self, event_id: str) -> State:
        return self.look(event_id).stored.state

    def step(self, event_id: str) -> str | None:
        return self.look(event_id).stored.step

    def due_in(self, event_id: str) -> float | None:
        due_at = self.look(event_id).stored.due_at
        return None if due_at is None else (due_at - self.now()).total_seconds()

    def tries(self, event_id: str) -> list[tuple[str, int, str]]:
        """(channel, number, outcome) of every attempt."""
        attempts = self.look(event_id).attempts
        return [(a.channel, a.number, a.outcome.value) for a in attempts]

    def error(self, event_id: str) -> str | None:
        """What the first attempt says."""
        return self.look(event_id).attempts[0].error

    def acknowledge(self, event_id: str) -> None:
        """The client's ack."""
        user_id = self.look(event_id).stored.event.user_id
        self.confirmations.confirm(
            [Confirmation(event_id, user_id, "websocket", user_id, "connection")]
        )

    def break_open(self, name: str) -> None:
        for _ in range(THRESHOLD):
            self.breakers.report(name, False)


class FakeChannel:
    """Takes messages, or raises what it is given, once per entry."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.messages: list[Message] = []
        self.faults: list[Exception] = []

    def unreachable(self, contact: Contact) -> str | None:
        addresses = {"email": contact.email, "sms": contact.phone, "emergency": contact.push}
        return None if addresses[self.name] else "no address"

    def deliver(self, message: Message, timeout: float) -> Taken:
        assert timeout > 0
        self.messages.append(message)
        message.rendered(
            "subject", f"text of {message.number} https://x/confirm/a.b-c", "<p>mail</p>"
        )
        if self.faults:
            raise self.faults.pop(0)
        return Taken(f"{self.name}-{len(self.messages)}")


class FakeAlerts:
    """The operators' receiver."""

    has_receiver = True

    def __init__(self) -> None:
        self.fired: list[tuple[AlertGroup, bool]] = []
        self.resolved: list[AlertGroup] = []
        self.faults: list[Exception] = []

    def fire(self, group: AlertGroup, *, first: bool, timeout: float) -> Taken:
        if self.faults:
            raise self.faults.pop(0)
        self.fired.append((group, first))
        return Taken()

    def resolve(self, group: AlertGroup, timeout: float, *, ended_at: datetime) -> None:
        if self.faults:
            raise self.faults.pop(0)
        assert ended_at >= group.since, "an end before the start is refused"
        self.resolved.append(group)


class FakeGateways:
    """Sockets by user, and the copies and wake-ups that reached the gateways."""

    def __init__(self) -> None:
        self.connections: dict[str, int] = {}
        self.resent: list[tuple[str, list[str]]] = []
        self.woken: list[list[str]] = []
        self.copied: list[list[str]] = []
        self.copy_faults: list[Exception] = []
        self.wake_faults: list[Exception] = []
        self.resend_faults: list[Exception] = []

    def resend(self, user_id: str, event_ids: Sequence[str], timeout: float) -> int:
        if self.resend_faults:
            raise self.resend_faults.pop(0)
        self.resent.append((user_id, list(event_ids)))
        return self.connections.get(user_id, 0)

    def wake(self, user_ids: Sequence[str]) -> None:
        self.woken.append(list(user_ids))
        if self.wake_faults:
            raise self.wake_faults.pop(0)

    def copy(self, events: Sequence[Event]) -> None:
        if self.copy_faults:
            raise self.copy_faults.pop(0)
        self.copied.append([event.id for event in events])


class FakeQueue:
    """What was published, as (channel, ids)."""

    def __init__(self) -> None:
        self.published: list[tuple[str, list[str]]] = []
        self.priorities: dict[str, object] = {}

    def publish(self, channel: str, ids: Sequence[str], priority: object = None) -> None:
        self.published.append((channel, list(ids)))
        self.priorities |= dict.fromkeys(ids, priority)

    def verify(self, channel: str) -> None:
        self.published.append((f"verify {channel}", []))

    def send_webhooks(self) -> None:
        self.published.append(("webhooks", []))


class FakeLinks:
    """Links that say what they are for."""

    def short_url(self, digest_id: str) -> str:
        return f"https://x/c/{digest_id}"

    def confirm_url(self, digest_id: str) -> str:
        return f"https://x/confirm/{digest_id}"

    def unsubscribe_url(self, user_id: str, channel: str) -> str:
        return f"https://x/unsubscribe/{user_id}/{channel}"

    def verify_url(self, user_id: str, channel: str, address: str) -> str:
        return f"https://x/verify/{user_id}/{channel}/{address}"


class World:
    """An executor with everything around it faked."""

    def __init__(
        self,
        policies: Policies,
        limits: TimeLimits | None = None,
        channels: Sequence[str] = ("emergency", "email", "sms"),
        ledger: ChainLedger | None = None,
        **options: Any,
    ) -> None:
        self.ledger = ledger or ChainLedger()
        self.channels = {name: FakeChannel(name) for name in channels}
        chains = (policy.chain for policy in policies.classes.values())
        self._names = {step.name: str(step.channel) for chain in chains for step in chain}
        self.alerts = FakeAlerts()
        self.gateways = FakeGateways()
        self.queue = FakeQueue()
        self.drained: list[str] = []
        self.drain_faults: list[Exception] = []
        self.executor = Executor(
            ledger=self.ledger,
            policies=policies,
            transports=self.channels,
            alerts=self.alerts,
            resend=self.gateways,
            queue_copy=self.gateways.copy,
            publish=self.queue,
            links=FakeLinks(),
            drain_spool=self._drain,
            jitter=lambda: 0.5,
            limits=limits or TimeLimits(),
            callback_url="https://x/callback",
            clock=self.ledger.clock.monotonic,
            **options,
        )

    def _drain(self) -> None:
        self.drained.append("drained")
        if self.drain_faults:
            raise self.drain_faults.pop(0)

    def run(self, channel: str, *ids: str) -> Any:
        return self.executor.run(channel, ids)

    def play(self, event_id: str, *, rounds: int = 100) -> list[str]:
        """Be the sweeper and the broker for one event: run whatever it stands on when it is due,
        until its chain is over. Returns the steps that ran, in order."""
        ran: list[str] = []
        for _ in range(rounds):
            if self.ledger.state(event_id) is not State.FALLING_BACK:
                return ran
            due_in = self.ledger.due_in(event_id)
            if due_in and due_in > 0:
                self.ledger.advance(due_in)
            name = self.ledger.step(event_id) or "database"
            ran.append(name)
            self.run(self._names.get(name, name), event_id)
        raise AssertionError(f"not over after {rounds} rounds: {self.ledger.tries(event_id)}")
