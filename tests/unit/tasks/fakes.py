"""A ledger in memory with a clock that tests move, and channels that do as they are told."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from delivery.domain.contact import Contact
from delivery.domain.event import Event, EventClass
from delivery.domain.health import Breaker, BreakerState
from delivery.domain.lifecycle import OPEN, Attempt, Cause, Confirmation, Outcome, State, transition
from delivery.domain.policy import ChainStep, ClassPolicy, Policies
from delivery.domain.ports import Message, Taken
from delivery.domain.records import (
    AlertGroup,
    Claim,
    Confirmed,
    Digest,
    DigestClaim,
    Due,
    Result,
    Stored,
    Swept,
)
from delivery.domain.retry import Backoff
from delivery.errors import LedgerUnavailable
from delivery.tasks.executor import Executor, TimeLimits

START = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
STEADY = Backoff(base=10.0, max=40.0, jitter=0.0)
_numbers = itertools.count(1)


def make_event(user_id: str = "u", run_id: str = "r", **changes: Any) -> Event:
    """An event that differs from all others."""
    number = next(_numbers)
    known: dict[str, Any] = {
        "id": f"0192f000-0000-7000-8000-{number:012d}",
        "type": "agent_completed",
        "user_id": user_id,
        "run_id": run_id,
        "seq": number,
        "at": START,
        "event_class": EventClass.CRITICAL,
    }
    return Event.of(**{**known, **changes})


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


@dataclass
class Row:
    """An event as the fake has it."""

    stored: Stored
    token: int = 0
    claimed_until: datetime | None = None
    attempts: list[Attempt] = field(default_factory=list)


class FakeLedger:
    """Events, chain, digests and breakers; the stores are the ledger itself."""

    def __init__(self) -> None:
        self.clock = START
        self.rows: dict[str, Row] = {}
        self.people: dict[str, Contact] = {}
        self.proofs: list[Confirmation] = []
        self.groups: dict[str, Digest] = {}
        self.joined: dict[str, list[str]] = {}
        self.digest_ends: list[tuple[str, Result, float | None]] = []
        self.alert_groups: dict[EventClass, AlertGroup] = {}
        self.notices: list[str] = []
        self.resolved: list[str] = []
        self.switches: dict[str, Breaker] = {}
        self.pages: list[Swept] = []
        self.is_down = False
        self.before_begin: Callable[[str], None] = lambda event_id: None
        self.before_sending: Callable[[], None] = lambda: None
        self.chain = self.events = self.confirmations = self.statistics = self
        self.digests = self.alerts = self.breakers = self

    def now(self) -> datetime:
        return self.clock

    def advance(self, seconds: float) -> None:
        self.clock += timedelta(seconds=seconds)

    def add(self, event: Event | None = None, **contact: Any) -> str:
        """An event that was handed over just now."""
        event = event or make_event()
        self.rows[event.id] = Row(
            Stored(
                event=event,
                position=len(self.rows) + 1,
                state=State.FALLING_BACK,
                step=None,
                due_at=self.clock,
                expires_at=self.clock + timedelta(days=3),
                generation=1,
                recorded_at=self.clock,
                handed_over_at=self.clock,
            )
        )
        known = {"email": "u@example.org", "phone": "+491701234567", "push": ("json://x",)}
        self.people.setdefault(event.user_id, Contact(event.user_id, **{**known, **contact}))
        return event.id

    def state(self, event_id: str) -> State:
        return self.rows[event_id].stored.state

    def step(self, event_id: str) -> str | None:
        return self.rows[event_id].stored.step

    def due_in(self, event_id: str) -> float | None:
        due_at = self.rows[event_id].stored.due_at
        return None if due_at is None else (due_at - self.clock).total_seconds()

    def tries(self, event_id: str) -> list[tuple[str, int, str]]:
        """(channel, number, outcome) of every attempt."""
        return [(a.channel, a.number, a.outcome.value) for a in self.rows[event_id].attempts]

    # --- chain ---

    def claim(self, *args: Any, **options: Any) -> Any:
        """Of events, or of a digest: the two stores name it alike."""
        if self.is_down:
            raise LedgerUnavailable("the database cannot be reached")
        if isinstance(args[0], str):
            return self._claim_digest(*args, **options)
        return self._claim_events(*args, **options)

    def _claim_events(self, ids: Sequence[str], lease: float) -> list[Claim]:
        claims = []
        for event_id in ids:
            row = self.rows.get(event_id)
            if row is None or row.stored.state is not State.FALLING_BACK:
                continue
            if row.claimed_until and row.claimed_until > self.clock:
                continue
            row.token += 1
            row.claimed_until = self.clock + timedelta(seconds=lease)
            row.attempts = [
                replace(a, outcome=Outcome.UNKNOWN, ended_at=self.clock)
                if a.outcome is Outcome.STARTED
                else a
                for a in row.attempts
            ]
            event = row.stored.event
            pending = {
                d.channel: d.due_at
                for d in self.groups.values()
                if d.state == "open" and d.due_at and d.user_id == event.user_id
                if d.run_id in (None, event.run_id)
            }
            contact = self.people[event.user_id]
            claims.append(
                Claim(row.stored, row.token, tuple(row.attempts), contact, pending, self.clock)
            )
        return claims

    def _held(self, claim: Claim) -> Row | None:
        row = self.rows[claim.stored.event.id]
        return row if row.token == claim.token else None

    def begin_all(self, starts: Sequence[tuple[Claim, int]], channel: str) -> list[bool]:
        return [self.begin(claim, channel, number) for claim, number in starts]

    def end_all(
        self, starts: Sequence[tuple[Claim, int]], channel: str, result: Result
    ) -> list[bool]:
        return [self._end_attempt(claim, channel, number, result) for claim, number in starts]

    def move_all(self, moves: Sequence[tuple[Claim, str, datetime]]) -> list[bool]:
        return [self._release(claim, step=step, due_at=due_at) for claim, step, due_at in moves]

    def begin(self, claim: Claim, channel: str, number: int) -> bool:
        self.before_begin(claim.stored.event.id)
        row = self._held(claim)
        if row is None or row.stored.state is not State.FALLING_BACK:
            return False
        row.attempts.append(
            Attempt(claim.stored.event.id, 1, channel, number, Outcome.STARTED, self.clock)
        )
        return True

    def end(self, claim: DigestClaim, *args: Any, **options: Any) -> bool:
        return self._end_digest(claim, *args, **options)

    def _end_attempt(self, claim: Claim, channel: str, number: int, result: Result) -> bool:
        row = self._held(claim)
        if row is None:
            return False
        self._close(row, channel, result, number)
        return True

    def _close(self, row: Row, channel: str, result: Result, number: int) -> None:
        index = next(
            i
            for i, a in enumerate(row.attempts)
            if (a.channel, a.number, a.outcome) == (channel, number, Outcome.STARTED)
        )
        row.attempts[index] = replace(
            row.attempts[index],
            outcome=result.outcome,
            ended_at=self.clock,
            retryable=result.retryable,
            error=result.error,
            provider_id=result.provider_id,
            retry_after=result.retry_after,
        )

    def skip_all(self, skips: Sequence[tuple[Claim, str, str]]) -> list[bool]:
        return [self._skip(*skip) for skip in skips]

    def _skip(self, claim: Claim, channel: str, reason: str) -> bool:
        row = self._held(claim)
        if row is None or row.stored.state is not State.FALLING_BACK:
            return False
        number = sum(a.channel == channel for a in row.attempts) + 1
        row.attempts.append(
            Attempt(
                row.stored.event.id,
                1,
                channel,
                number,
                Outcome.SKIPPED,
                self.clock,
                self.clock,
                error=reason,
            )
        )
        return True

    def finish_all(self, finishes: Sequence[tuple[Claim, bool]]) -> list[bool]:
        return [self._finish(claim, alerted) for claim, alerted in finishes]

    def _finish(self, claim: Claim, alerted: bool) -> bool:
        cause = Cause.EXHAUSTED if alerted else Cause.PARK
        state = transition(State.FALLING_BACK, cause)
        return self._release(claim, state=state, step=None, due_at=None)

    def _release(self, claim: Claim, **values: Any) -> bool:
        row = self._held(claim)
        if row is None or row.stored.state is not State.FALLING_BACK:
            return False
        row.stored = replace(row.stored, **values)
        row.claimed_until = None
        return True

    def sweep(self, limit: int = 500) -> Swept:
        if self.is_down:
            raise LedgerUnavailable("the database cannot be reached")
        return self.pages.pop(0) if self.pages else Swept((), 0, is_last=True)

    def oldest_overdue(self) -> float:
        return 0.0

    # --- proofs and breakers ---

    def confirm(self, proofs: Sequence[Confirmation]) -> Confirmed:
        for proof in proofs:
            self.proofs.append(proof)
            row = self.rows[proof.event_id]
            row.stored = replace(row.stored, state=State.CONFIRMED, step=None, due_at=None)
        return Confirmed(tuple(proof.event_id for proof in proofs), ())

    def acknowledge(self, event_id: str) -> None:
        """The client's ack."""
        self.confirm([Confirmation(event_id, "u", "websocket", "u", "connection")])

    def allows(self, name: str, *, probe: bool = True) -> bool:
        breaker = self.switches.get(name, Breaker())
        if not probe:
            return breaker.state is BreakerState.CLOSED
        if not breaker.allows(self.clock.timestamp()):
            return False
        self.switches[name] = breaker.on_attempt(self.clock.timestamp())
        return True

    def report(self, name: str, ok: bool) -> Breaker:
        breaker, now = self.switches.get(name, Breaker()), self.clock.timestamp()
        self.switches[name] = breaker.on_success(now) if ok else breaker.on_failure(now)
        return self.switches[name]

    def break_open(self, name: str) -> None:
        for _ in range(5):
            self.report(name, False)

    # --- digests and alerts ---

    def join(
        self, claim: Claim, channel: str, *, by: Sequence[str], window: float, min_interval: float
    ) -> Digest:
        event = claim.stored.event
        run_id = event.run_id if "run_id" in by else None
        for digest in self.groups.values():
            about = (digest.user_id, digest.run_id, digest.channel, digest.state)
            if about == (event.user_id, run_id, channel, "open"):
                break
        else:
            name = f"digest-{len(self.groups) + 1}"
            due_at = self.clock + timedelta(seconds=window)
            digest = Digest(
                name, event.user_id, run_id, channel, "open", due_at, 0, f"message-{name}"
            )
            self.groups[name] = digest
        self.joined.setdefault(digest.id, []).append(event.id)
        row = self.rows[event.id]
        row.stored = replace(row.stored, digest_id=digest.id)
        return digest

    def get(self, digest_id: str) -> tuple[Digest, tuple[str, ...]] | None:
        digest = self.groups.get(digest_id)
        return (digest, tuple(self.joined[digest_id])) if digest else None

    def _claim_digest(
        self,
        digest_id: str,
        lease: float,
        *,
        types: Sequence[str] = (),
        unknown_limit: int | None = None,
    ) -> DigestClaim | None:
        self.before_sending()
        digest = self.groups[digest_id]
        if digest.state != "open" or digest.due_at is None or digest.due_at > self.clock:
            return None
        if digest.token == -1:  # another worker is sending it
            return None
        members = []
        for row in self.rows.values():
            event, tried = row.stored.event, row.attempts
            mine = [a for a in tried if a.channel == digest.channel]
            unknown = sum(a.outcome is Outcome.UNKNOWN for a in mine)
            if (
                row.stored.state in OPEN
                and event.user_id == digest.user_id
                and digest.run_id in (None, event.run_id)
                and (not types or event.type in types)
                and not any(a.outcome is Outcome.DELIVERED for a in mine)
                and (unknown_limit is None or unknown <= unknown_limit)
            ):
                row.attempts.append(
                    Attempt(
                        event.id,
                        1,
                        digest.channel,
                        len(mine) + 1,
                        Outcome.STARTED,
                        self.clock,
                        digest_id=digest_id,
                    )
                )
                members.append(row.stored)
        if not members:
            self.groups[digest_id] = replace(digest, state="sent", due_at=None)
            return None
        claimed = replace(digest, number=digest.number + 1)
        self.groups[digest_id] = claimed
        contact = self.people[digest.user_id]
        return DigestClaim(claimed, tuple(members), contact, self.clock)

    def _end_digest(self, claim: DigestClaim, result: Result, *, retry_in: float | None) -> bool:
        digest = self.groups[claim.digest.id]
        self.digest_ends.append((digest.id, result, retry_in))
        for member in claim.members:
            row = self.rows[member.event.id]
            last = max(a.number for a in row.attempts if a.channel == digest.channel)
            self._close(row, digest.channel, result, last)
        if retry_in is None:
            ended = "sent" if result.outcome is Outcome.DELIVERED else "failed"
            self.groups[digest.id] = replace(digest, state=ended, due_at=None)
        else:
            due_at = self.clock + timedelta(seconds=retry_in)
            self.groups[digest.id] = replace(digest, due_at=due_at)
        return True

    def fire(
        self, event_class: EventClass, claims: Sequence[Claim], faults: Sequence[str] = ()
    ) -> AlertGroup:
        old = self.alert_groups.get(event_class)
        group = AlertGroup(
            id=f"alert-{event_class}",
            event_class=event_class,
            since=old.since if old else self.clock,
            count=(old.count if old else 0) + len(claims),
            users=1,
            sample=tuple(claim.stored.event.id for claim in claims),
            notified_at=old.notified_at if old else None,
            is_new=old is None,
            faults=tuple(faults),
        )
        self.alert_groups[event_class] = group
        return group

    def notified(self, group_id: str) -> None:
        self.notices.append(group_id)
        for event_class, group in self.alert_groups.items():
            if group.id == group_id:
                self.alert_groups[event_class] = replace(group, notified_at=self.clock)

    def firing(self) -> list[AlertGroup]:
        return [replace(group, is_new=False) for group in self.alert_groups.values()]

    def resolve(self, group_id: str) -> None:
        self.resolved.append(group_id)


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
        if self.faults:
            raise self.faults.pop(0)
        return Taken(f"{self.name}-{len(self.messages)}")


class FakeAlerts:
    """The operators' receiver."""

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

    def publish(self, channel: str, ids: Sequence[str]) -> None:
        self.published.append((channel, list(ids)))


class FakeLinks:
    """Links that say what they are for."""

    def confirm_url(self, digest_id: str) -> str:
        return f"https://x/confirm/{digest_id}"

    def unsubscribe_url(self, user_id: str, channel: str) -> str:
        return f"https://x/unsubscribe/{user_id}/{channel}"


class Bench:
    """An executor with everything around it faked."""

    def __init__(
        self, policies: Policies, limits: TimeLimits | None = None, **options: Any
    ) -> None:
        self.ledger = FakeLedger()
        self.channels = {name: FakeChannel(name) for name in ("emergency", "email", "sms")}
        self.alerts = FakeAlerts()
        self.gateways = FakeGateways()
        self.queue = FakeQueue()
        self.drained: list[str] = []
        self.drain_faults: list[Exception] = []
        self.executor = Executor(
            ledger=self.ledger,  # type: ignore[arg-type]
            policies=policies,
            channels=self.channels,
            alerts=self.alerts,
            resend=self.gateways,
            queue_copy=self.gateways.copy,
            publish=self.queue,
            links=FakeLinks(),
            drain_spool=self._drain,
            jitter=lambda: 0.5,
            limits=limits or TimeLimits(),
            callback_url="https://x/callback",
            clock=lambda: (self.ledger.clock - START).total_seconds(),
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
        until its chain is over. Returns the channels that ran, in order."""
        ran: list[str] = []
        for _ in range(rounds):
            row = self.ledger.rows[event_id]
            if row.stored.state is not State.FALLING_BACK:
                return ran
            due_in = self.ledger.due_in(event_id)
            if due_in and due_in > 0:
                self.ledger.advance(due_in)
            channel = row.stored.step or "database"
            ran.append(channel)
            self.run(channel, event_id)
        raise AssertionError(f"not over after {rounds} rounds: {self.ledger.tries(event_id)}")


def due(event_id: str, step: str | None = None) -> Due:
    """A due event of the critical class."""
    return Due(event_id, EventClass.CRITICAL, step)
