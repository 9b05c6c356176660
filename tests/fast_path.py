"""Stand-ins around the fast path: a ledger and a journal in memory, tokens by name.

The gateway's tests use them with the real registry, sessions, connections and server.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from delivery.api.admission import Admission
from delivery.api.server import Gateway
from delivery.bus.in_process import LocalBus
from delivery.domain.event import Event, EventClass
from delivery.domain.lifecycle import Confirmation, State
from delivery.domain.ports import Bus, Journal
from delivery.domain.records import FeedMark, Owed, Stored
from delivery.domain.stores import Ledger
from delivery.errors import LedgerUnavailable, Unauthenticated
from delivery.gateway.auth import Authenticator, Principal
from delivery.gateway.connection import Connection, ConnectionContext
from delivery.gateway.fast_path import FastPath
from delivery.gateway.feed import FeedReader, ReadQueueCopies
from delivery.gateway.outcomes import Outcomes
from delivery.gateway.registry import Registry
from delivery.gateway.session import Session
from delivery.ledger.access import LedgerAccess
from delivery.protocol import Ack, Limits, ServerFrame, encode_event

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
_numbers = itertools.count(1)


def make_id() -> str:
    """A UUIDv7 whose order is that of the calls."""
    value = next(_numbers)
    return str(uuid.UUID(int=(0x0190_0000_0000 + value) << 80 | 7 << 76 | 2 << 62 | value))


def make_event(
    user_id: str = "ada",
    *,
    event_class: EventClass = EventClass.CRITICAL,
    type: str = "agent_thinking",
    run_id: str = "run-1",
    seq: int | None = 1,
    data: dict[str, Any] | None = None,
) -> Event:
    """An event with a new id."""
    return Event.of(
        id=make_id(),
        type=type,
        user_id=user_id,
        run_id=run_id,
        seq=None if event_class is EventClass.EPHEMERAL else seq,
        at=START,
        event_class=event_class,
        data=data if data is not None else {},
    )


def item(event: Event) -> tuple[Event, bytes]:
    """The event as the fast path carries it."""
    return event, encode_event(event)


class MemoryEvents:
    """The reads that the gateway needs; ``is_away`` makes the ledger unreachable."""

    def __init__(self) -> None:
        self.rows: list[Stored] = []
        self.proved: set[tuple[str, str]] = set()  # id and by
        self.expedited: list[str] = []
        self.is_away = False
        self.reads = 0

    def add(self, event: Event, state: State = State.ACCEPTED, age: float = 0.0) -> Stored:
        """Record an event ``age`` seconds ago."""
        now = datetime.now(UTC)
        row = Stored(
            event=event,
            position=len(self.rows) + 1,
            state=state,
            step=None,
            due_at=None,
            expires_at=now + timedelta(days=3),
            generation=1,
            recorded_at=now - timedelta(seconds=age),
        )
        self.rows.append(row)
        return row

    def confirm(self, event_id: str) -> None:
        self.rows = [
            replace(row, state=State.CONFIRMED) if row.event.id == event_id else row
            for row in self.rows
        ]

    def expedite(self, ids: Sequence[str]) -> None:
        self._check()
        self.expedited.extend(ids)

    def read(self, event_ids: Sequence[str]) -> list[Stored]:
        self._check()
        return [row for row in self.rows if row.event.id in event_ids]

    def page(
        self,
        user_id: str,
        start: str | FeedMark | timedelta | None,
        *,
        by: str,
        after: int = -1,
        limit: int,
    ) -> tuple[list[Owed], FeedMark | None]:
        self._check()
        self.reads += 1
        mark = self._mark(user_id, start) if isinstance(start, str) else start
        if isinstance(mark, timedelta):
            mark = FeedMark(datetime.now(UTC) - mark, 0)
        rows = [
            row
            for row in self.rows
            if row.event.user_id == user_id
            and row.position > after
            and (row.state.is_unconfirmed or (mark is not None and row.recorded_at >= mark.since))
        ]
        return [
            Owed(row.event, row.position, (row.event.id, by) in self.proved) for row in rows[:limit]
        ], mark

    def last_seqs(self, user_id: str, limit: int) -> dict[str, int]:
        self._check()
        found: dict[str, int] = {}
        for row in self.rows:
            if row.event.user_id == user_id and row.event.seq is not None:
                found[row.event.run_id] = max(row.event.seq, found.get(row.event.run_id, 0))
        return found

    def _mark(self, user_id: str, cursor: str) -> FeedMark | None:
        for row in self.rows:
            if row.event.id == cursor and row.event.user_id == user_id:
                return FeedMark(row.recorded_at - timedelta(seconds=30), 0)
        return None

    def _check(self) -> None:
        if self.is_away:
            raise LedgerUnavailable("the ledger is away")


class MemoryLedger:
    """Only its events; the stores of what is done with them are one."""

    def __init__(self) -> None:
        self.events = self.feed = self.operations = MemoryEvents()


class MemoryJournal:
    """Remembers what it was told; calls run in a thread, as in the real one."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger
        self.proofs: list[Confirmation] = []
        self.hand_overs: list[tuple[str, str]] = []
        self.flushes = 0
        self.backlog = 0
        self.refusal: str | None = None

    @property
    def confirmed(self) -> list[str]:
        return [proof.event_id for proof in self.proofs]

    def confirm(self, proofs: Sequence[Confirmation]) -> None:
        self.proofs.extend(proofs)
        for proof in proofs:
            self._ledger.events.confirm(proof.event_id)

    def hand_over(self, event_id: str, reason: str) -> None:
        self.hand_overs.append((event_id, reason))

    async def flush(self, timeout: float = 10.0) -> None:
        self.flushes += 1


class NamedTokens:
    """``token-ada`` is ada's; ``expired`` and everything else is refused."""

    def __init__(self) -> None:
        self.ttl = 3_600.0

    async def verify(self, token: str) -> Principal:
        kind, _, name = token.partition("-")
        if token == "expired":
            raise Unauthenticated("the token has expired", close_code=3005)
        if kind not in ("token", "service") or not name:
            raise Unauthenticated("the token is not accepted")
        expires_at = datetime.now(UTC) + timedelta(seconds=self.ttl)
        scopes = frozenset({"emit"}) if kind == "service" else frozenset[str]()
        return Principal(name, scopes, kind == "token", expires_at)


class Node:
    """One gateway with everything around it."""

    def __init__(
        self,
        name: str = "node-1",
        *,
        limits: Limits | None = None,
        bus: Bus | None = None,
        ledger: MemoryLedger | None = None,
        queue_copies: ReadQueueCopies | None = None,
        max_per_user: int = 50,
        send_timeout: float = 10.0,
        admission: Admission | None = None,
    ) -> None:
        self.ledger = ledger or MemoryLedger()
        self.events = self.ledger.events
        self.journal = MemoryJournal(self.ledger)
        self.tokens = NamedTokens()
        self.confirmed: list[str] = []
        self.chain_calls = 0
        bus = bus or LocalBus()
        self.registry = Registry(name, bus, max_per_user=max_per_user)
        self.bus = bus
        self.limits = limits or Limits()
        self.access = LedgerAccess(cast(Ledger, self.ledger))
        self.outcomes = Outcomes(
            cast(Journal, self.journal),
            self.access,
            self.registry,
            on_confirmed=self.confirmed.extend,
            wake_chain=self._on_chain,
        )
        path = FastPath(
            name,
            auth=cast(Authenticator, self.tokens),
            bus=bus,
            limits=self.limits,
            outcomes=self.outcomes,
            reads=self.access,
            registry=self.registry,
            feed_reader=FeedReader(self.access, cast(Journal, self.journal), queue_copies),
            send_timeout=send_timeout,
        )
        self.gateway = Gateway(path, cast(Journal, self.journal), admission=admission)
        self.port = 0

    def _on_chain(self) -> None:
        self.chain_calls += 1

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/v1/ws"

    def emit(self, event: Event, *, record: bool = True) -> int:
        """Record (unless ephemeral) and push, as the emitter does. Returns who was reached."""
        if record and event.event_class.is_durable:
            self.events.add(event)
        return self.registry.push(event, encode_event(event)).connections


@asynccontextmanager
async def serve(node: Node) -> AsyncIterator[Node]:
    """A running gateway on a free port."""
    node.port = await node.gateway.start("127.0.0.1", 0)
    try:
        yield node
    finally:
        await node.gateway.stop(0.0)


async def until(condition: Callable[[], object], timeout: float = 10.0) -> None:
    """Wait until a condition holds.

    Raises:
        AssertionError: it did not in time.
    """
    deadline = asyncio.get_running_loop().time() + timeout
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "the condition never came true"
        await asyncio.sleep(0.005)


class MemoryWriter:
    """Remembers frames; can be stuck or broken."""

    def __init__(self) -> None:
        self.frames: list[ServerFrame] = []
        self.batches: list[tuple[int, list[str]]] = []
        self.closed: tuple[int, str] | None = None
        self.pings: list[bytes] = []
        self.is_blocked = False
        self.is_closed = False
        self.is_broken = False
        self.was_read = asyncio.Event()

    @property
    def ids(self) -> list[str]:
        return [event_id for _, ids in self.batches for event_id in ids]

    def write(self, frame: ServerFrame) -> None:
        self.frames.append(frame)

    def write_events(self, n: int, events: list[Event], encoded: list[bytes]) -> None:
        if self.is_broken:
            raise ConnectionResetError("gone")
        assert encoded == [encode_event(event) for event in events]
        self.batches.append((n, [event.id for event in events]))

    def ping(self, payload: bytes) -> None:
        self.pings.append(payload)

    async def drain(self) -> None:
        await self.was_read.wait()
        self.is_blocked = False

    def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)

    def abort(self) -> None:
        self.is_closed = True


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Desk:
    """A node whose connections end in memory."""

    def __init__(self, node: Node | None = None, send_timeout: float = 10.0) -> None:
        self.node = node or Node()
        self.clock = Clock()
        self.registry = self.node.registry
        self.registry._clock = self.clock
        self.context = ConnectionContext(
            node="node-1",
            feed_reader=FeedReader(self.node.access, cast(Journal, self.node.journal), page=10),
            registry=self.registry,
            outcomes=self.node.outcomes,
            send_timeout=send_timeout,
            clock=self.clock,
            jitter=lambda: 0.5,
        )

    def begin(
        self, user_id: str = "ada", *, is_stream: bool = False, cursor: str | None = None
    ) -> tuple[Connection, MemoryWriter]:
        writer = MemoryWriter()
        session = Session("c", self.node.limits, self.clock.now, is_stream=is_stream)
        session.cursor = cursor
        connection = Connection(session, writer, self.context)
        expires_at = datetime.now(UTC) + timedelta(hours=1)
        connection.on_principal(Principal(user_id, frozenset(), True, expires_at))
        return connection, writer

    async def connect(self, user_id: str = "ada") -> tuple[Connection, MemoryWriter]:
        connection, writer = self.begin(user_id)
        await until(lambda: connection.is_live)
        return connection, writer

    def ack(self, connection: Connection) -> None:
        session = connection.session
        connection.perform(session.on_client_frame(Ack(upto=session.in_flight.n), self.clock.now))
