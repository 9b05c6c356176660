"""Stand-ins around the fast path: a ledger and a journal in memory, tokens by name.

The gateway's tests use them with the real registry, sessions, connections and server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from delivery import testing
from delivery.api.serving.admission import Admission
from delivery.api.serving.server import Gateway
from delivery.bus.in_process import LocalBus
from delivery.callers.auth import Authenticator
from delivery.callers.principal import Principal
from delivery.callers.revocations import Revocations
from delivery.domain.event import Event, EventClass
from delivery.domain.lifecycle import Confirmation, State
from delivery.domain.ports import Bus, Journal
from delivery.domain.records import FeedMark, Owed, Stored
from delivery.errors import Unauthenticated
from delivery.gateway.connection import Connection
from delivery.gateway.connection_context import ConnectionContext
from delivery.gateway.expected import ExpectedUsers
from delivery.gateway.fast_path import FastPath
from delivery.gateway.feed import FeedReader, ReadQueueCopies
from delivery.gateway.outcomes import Outcomes
from delivery.gateway.registry import Registry
from delivery.gateway.session import Session
from delivery.ledger.access import LedgerAccess
from delivery.ledger.sql.database import Database
from delivery.ledger.stores.feed import FeedSql
from delivery.ledger.stores.operations import OperationSql
from delivery.protocol import Ack, Limits, ServerFrame, encode_event
from delivery.testing import FakeClock, FakeIds, MemoryLedger, make_entry
from tests.waiting import until

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
new_id = FakeIds()


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
    return testing.make_event(
        id=new_id(),
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


class CountedFeed(FeedSql):
    """Counts the pages that were read."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.pages = 0

    def page(
        self, user_id: str, start: str | FeedMark | timedelta | None, **options: Any
    ) -> tuple[list[Owed], FeedMark | None]:
        found = super().page(user_id, start, **options)
        self.pages += 1
        return found


class NotedOperations(OperationSql):
    """Notes which events were expedited."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.expedited: list[str] = []

    def expedite(self, event_ids: Sequence[str]) -> None:
        super().expedite(event_ids)
        self.expedited.extend(event_ids)


class NodeLedger(MemoryLedger):
    """The ledger in memory, with events in any state and of any age."""

    def __init__(self) -> None:
        super().__init__(FakeClock(datetime.now(UTC)))
        self.feed: CountedFeed = CountedFeed(self.database)
        self.operations: NotedOperations = NotedOperations(self.database)

    def add(
        self,
        event: Event,
        state: State = State.ACCEPTED,
        age: float = 0.0,
        *,
        by: str = "another device",
    ) -> Stored:
        """Record an event ``age`` seconds ago and lead it to a state; ``by`` confirms it."""
        self.advance(-age)
        on_chain = state in (State.FALLING_BACK, State.DEAD, State.PARKED)
        entry = make_entry(event, sent=state is State.SENT, hand_over=on_chain)
        self.recording.commit([entry])
        if state is State.CONFIRMED:
            confirmation = Confirmation(event.id, event.user_id, "websocket", by, "connection")
            self.confirmations.confirm([confirmation])
        if state in (State.DEAD, State.PARKED):
            [claim] = self.chain.claim([event.id], 60.0)
            self.chain.finish_all([(claim, state is State.DEAD)])
        self.advance(age)
        [stored] = self.events.read([event.id])
        assert stored.state is state
        return stored


class MemoryJournal:
    """Remembers what it was told, and confirms at once."""

    def __init__(self, ledger: NodeLedger) -> None:
        self._ledger = ledger
        self.confirmations: list[Confirmation] = []
        self.hand_overs: list[tuple[str, str]] = []
        self.flushes = 0
        self.backlog = 0
        self.refusal: str | None = None
        self.set_aside = 0

    @property
    def confirmed(self) -> list[str]:
        return [confirmation.event_id for confirmation in self.confirmations]

    def confirm(self, confirmations: Sequence[Confirmation]) -> None:
        self.confirmations.extend(confirmations)
        self._ledger.confirmations.confirm(confirmations)

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
        return Principal(name, scopes, kind == "token", expires_at, token_ids=(token,))


class Node:
    """One gateway with everything around it."""

    def __init__(
        self,
        name: str = "node-1",
        *,
        limits: Limits | None = None,
        bus: Bus | None = None,
        ledger: NodeLedger | None = None,
        queue_copies: ReadQueueCopies | None = None,
        max_per_user: int = 50,
        send_timeout: float = 10.0,
        admission: Admission | None = None,
    ) -> None:
        self.ledger = ledger or NodeLedger()
        self.journal = MemoryJournal(self.ledger)
        self.tokens = NamedTokens()
        self.revocations = Revocations()
        self.confirmed: list[str] = []
        self.chain_calls = 0
        bus = bus or LocalBus()
        self.registry = Registry(name, bus, max_per_user=max_per_user)
        self.bus = bus
        self.limits = limits or Limits()
        self.access = LedgerAccess(self.ledger)
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
            revocations=self.revocations,
            check=self._check,
        )
        self.revocations.watch(path.check_principals)
        self.gateway = Gateway(path, cast(Journal, self.journal), admission=admission)
        self.port = 0

    def _check(self, principal: Principal) -> None:
        if self.revocations.covers(principal):
            raise Unauthenticated("the token was revoked")

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
            self.ledger.add(event)
        return self.registry.push(event, encode_event(event)).connections


@asynccontextmanager
async def serve(node: Node, host: str = "127.0.0.1") -> AsyncIterator[Node]:
    """A running gateway on a free port."""
    node.port = await node.gateway.start(host, 0)
    try:
        yield node
    finally:
        await node.gateway.stop(0.0)


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


class World:
    """A node whose connections end in memory."""

    def __init__(self, node: Node | None = None, send_timeout: float = 10.0) -> None:
        self.node = node or Node()
        self.clock = Clock()
        self.registry = self.node.registry
        self.registry._clock = self.clock
        self.registry.expected = ExpectedUsers(self.clock)
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
