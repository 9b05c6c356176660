"""One client's connection: the only place that writes to a socket.

Owns: what is written when, the send timeout, the reading of pages, probes, and the end of a
connection. Never does: read from sockets, verify tokens, know other users. No task runs for an
event: one reads a page of the ledger, one waits for a full socket, and both end by a deadline.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from delivery.domain.event import format_instant
from delivery.errors import Unauthenticated
from delivery.gateway.feed import Feed, Page, Source
from delivery.gateway.outbound import Batch, Item, Lanes, Read
from delivery.gateway.session import (
    Actions,
    Admit,
    Confirm,
    HandOver,
    Probe,
    Send,
    Session,
    Shut,
    Verify,
)
from delivery.gateway.sink import Sink
from delivery.protocol import Close, Connected, Error, Pong, Reconnect, ServerFrame

if TYPE_CHECKING:
    from delivery.gateway.auth import Principal
    from delivery.gateway.outcomes import Outcomes
    from delivery.gateway.registry import Registry, User

logger = logging.getLogger(__name__)

SEND_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every connection of a gateway shares.

    Attributes:
        node: this process's name, for the welcome.
        send_timeout: seconds a client may leave its socket full.
        clock: monotonic seconds; ``wall`` epoch seconds, for the expiry of tokens.
    """

    node: str
    source: Source
    registry: Registry
    outcomes: Outcomes
    send_timeout: float = SEND_TIMEOUT
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    dice: Callable[[], float] = random.random


class Prober:
    """Matches pongs to the probes they answer. Bounded by its callers' timeouts: an abandoned probe
    is forgotten when its future is cancelled."""

    __slots__ = ("_count", "_pending")

    def __init__(self) -> None:
        self._count = 0
        self._pending: dict[bytes, tuple[float, asyncio.Future[bool]]] = {}

    def next_payload(self) -> bytes:
        """A payload that no ping of this connection had before."""
        self._count += 1
        return b"probe-%d" % self._count

    def expect(self, payload: bytes, future: asyncio.Future[bool], now: float) -> None:
        """The ping left: its pong sets the future."""
        self._pending[payload] = (now, future)
        future.add_done_callback(lambda _: self._pending.pop(payload, None))

    def on_pong(self, payload: bytes, now: float) -> float | None:
        """Answer a probe. Returns its round trip in seconds, ``None`` if no probe asked for it."""
        probe = self._pending.get(payload)
        if probe is None:
            return None
        asked_at, future = probe
        if not future.done():
            future.set_result(True)
        return now - asked_at

    def give_up(self) -> None:
        """The connection is over: whoever waits hears ``False``."""
        for _, future in tuple(self._pending.values()):
            if not future.done():
                future.set_result(False)


RETRY_LEDGER = (1.0, 30.0)
"""Seconds until a connection that was fed without the ledger tries it again: first, longest."""
SECOND_LOOK = 2.0
"""Seconds until a connection whose user is on another node, too, reads the ledger once more: until
the news of it has spread, others send the user's events only there."""


class Connection:
    """One connection.

    Args:
        session: its state machine.
        sink: its socket.
        header: whom the token of the upgrade request names.
    """

    def __init__(
        self, session: Session, sink: Sink, around: Surroundings, header: Principal | None = None
    ) -> None:
        self.session = session
        self.sink = sink
        self.user: User | None = None  # the registry's
        self.is_marked = False  # the registry will flush it at the end of this turn
        self.is_closed = False
        self._header = header
        self._principal: Principal | None = None
        self._around = around
        self._registry = around.registry
        self._clock = around.clock
        self._lanes = Lanes(session.flight, session.limits.max_queue)
        # Takes one pushed event; the registry flushes at the end of the loop's turn.
        self.enqueue = self._lanes.push
        self._feed: Feed | None = None
        self._is_welcome = False
        self._retry_at: float | None = None
        self._look_at: float | None = None
        self._retry_delay = RETRY_LEDGER[0]
        self._reading: asyncio.Task[None] | None = None
        self._draining: asyncio.Task[None] | None = None
        self._failed: list[str] = []
        self._prober = Prober()

    # What the registry asks

    @property
    def id(self) -> str:
        """Its id, as in the welcome and in confirmations."""
        return self.session.connection_id

    @property
    def _by(self) -> str:
        """Who acknowledges here, as in confirmations."""
        return self.session.device or self.session.user_id or ""

    @property
    def acked(self) -> int:
        """The highest ``n`` that the client acknowledged, ephemeral events included."""
        return self.session.flight.acked

    @property
    def is_live(self) -> bool:
        """Whether pushes go straight to the socket."""
        return self._lanes.is_live

    def score(self, now: float) -> int:
        """Health, 0 to 100."""
        return self.session.score(now, self._lanes.fill)

    def flush(self) -> None:
        """Write what may leave now, then see to it that the rest can follow."""
        while self._is_welcome and not self.is_closed:
            if self.sink.is_blocked:
                self._wait_for_reader()
                break
            batch = self._lanes.next_batch()
            if batch is None:
                self._read_on()
                break
            self._write_batch(batch)
            if self._lanes.is_idle:
                break
        self._lanes.settle()

    def resend(self, items: Iterable[Item]) -> bool:
        """Send these again, in flight or not; whether they left."""
        if self.is_closed or not self._is_welcome or self.sink.is_blocked:
            return False
        self._lanes.resend(items)
        self.flush()
        return self._lanes.end_resend() and not self.is_closed

    def release(self, ids: Sequence[str]) -> None:
        """The user acknowledged these elsewhere."""
        if self.session.flight.release(ids) and self._lanes.is_waiting:
            self._registry.mark(self)

    def catch_up(self) -> None:
        """Read the ledger from the beginning."""
        self._retry_at = None
        self._lanes.ask_again()
        self._registry.mark(self)

    def probe(self) -> asyncio.Future[bool]:
        """Ping the peer: ``True`` on its pong, ``False`` when it cannot be asked. On a stream,
        which has no pong, a socket that takes a comment is all there is to know."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        payload = self._prober.next_payload()
        if not self._ping(payload):
            future.set_result(False)
        elif self.session.is_stream:
            future.set_result(True)
        else:
            self._prober.expect(payload, future, self._clock())
        return future

    def reconnect(self, after_ms: int, reason: str) -> None:
        """Send the client elsewhere: what is queued, a ``reconnect`` frame, close 3001."""
        self.flush()
        self._write(Reconnect(after_ms, reason))
        self.close(Close.SHUTDOWN, reason)

    # What the server asks

    def perform(self, actions: Actions) -> str | None:
        """Carry out a session's decisions. Returns a token that the caller must verify now."""
        token = None
        for action in actions:
            if type(action) is Confirm:  # the everyday one, before a match looks at each class
                self._confirm(action.ids)
                continue
            match action:
                case Send(frame):
                    self._write(frame)
                case HandOver(event_id, reason):
                    self._around.outcomes.refused(event_id, reason)
                    self._registry.on_failure(self)
                    self._registry.mark(self)
                case Probe(payload):
                    self._ping(payload)
                case Verify(None):
                    self._verify_header()
                case Verify(text):
                    token = text
                case Admit(user_id, cursor):
                    self._admit(user_id, cursor)
                case Shut(code, reason):
                    self.close(code, reason)
        return token

    def on_principal(self, principal: Principal) -> None:
        """The token that ``perform`` handed out is good."""
        self._principal = principal
        now = self._clock()
        left = principal.expires_at.timestamp() - self._around.wall()
        self.perform(self.session.on_verified(principal.user_id, now + left, now))

    def on_pong(self, payload: bytes) -> None:
        """A pong came."""
        now = self._clock()
        round_trip = self._prober.on_pong(payload, now)
        if round_trip is None:
            self.session.on_pong(payload, now)
        else:
            self.session.on_round_trip(round_trip, now)

    def on_tick(self, now: float) -> None:
        """Time passed."""
        if self.is_closed:
            return
        if self.sink.is_closed:  # a stream's reader tells nobody that it leaves
            self.sink.close(Close.FORCED_RECONNECT, "the client left")
            self.detach()
            return
        actions = self.session.on_tick(now)
        if actions:
            self.perform(actions)
        if self._look_at is not None and now >= self._look_at and self._feed is not None:
            self._look_at = None
            self._feed.look_back()
            self.catch_up()
        elif self._retry_at is not None and now >= self._retry_at:
            self.catch_up()

    def close(self, code: int, reason: str) -> None:
        """End this connection with a close code."""
        if self.is_closed:
            return
        if code in (Close.SLOW_CONSUMER, Close.NO_PONG):
            self._registry.on_failure(self)
        self.sink.close(code, reason)
        self.detach(reason)

    def detach(self, reason: str = "the client left") -> None:
        """The connection is over: nothing is pushed to it any more. Safe to repeat."""
        if self.is_closed:
            return
        self.is_closed = True
        self.session.on_close()
        for task in (self._reading, self._draining):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
        self._prober.give_up()
        unsent = self._failed + self._lanes.close()
        if self._registry.detach(self):
            self._around.outcomes.unsent(unsent, f"not sent: {reason}")
            self._around.outcomes.left(self.session.user_id or "", self.session.flight.in_flight)

    # Admission

    def _verify_header(self) -> None:
        if self._header is not None:
            self.on_principal(self._header)
            return
        error = Unauthenticated("connect carries no token and neither did the upgrade")
        self.perform(self.session.on_refused(error))

    def _admit(self, user_id: str, cursor: str | None) -> None:
        if self._registry.is_closing:
            self.close(Close.SHUTDOWN, "shutting down")
        elif not self._registry.attach(self, user_id):
            self.close(Close.CONNECTION_LIMIT, "too many connections of this user")
        else:
            self._feed = Feed(self._around.source, user_id, self._by)
            if self._registry.peers.hosts_of(user_id):
                self._look_at = self._clock() + SECOND_LOOK * (0.5 + self._around.dice())
            self._reading = self._task(self._open(self._feed, cursor))

    async def _open(self, feed: Feed, cursor: str | None) -> None:
        page = await feed.open(cursor)
        self._reading = None
        if self.is_closed:
            return
        expires = self._principal.expires_at if self._principal is not None else None
        limits = self.session.limits
        self._write(
            Connected(
                connection_id=self.session.connection_id,
                user_id=self.session.user_id or "",
                node=self._around.node,
                heartbeat=limits.heartbeat,
                recovered=page.recovered,
                max_in_flight=limits.max_in_flight,
                expires=None if expires is None else format_instant(expires),
            )
        )
        self._is_welcome = True
        self._lanes.know(page.seqs)
        self._take_page(page)

    def _read_on(self) -> None:
        if self._feed is None or self._reading is not None:
            return
        what = self._lanes.next_read()
        if what is not None:
            self._reading = self._task(self._read(self._feed, what))

    async def _read(self, feed: Feed, what: Read) -> None:
        page = await feed.read(what)
        self._reading = None
        if not self.is_closed:
            self._take_page(page)

    def _take_page(self, page: Page) -> None:
        self._lanes.take_page(page.items, is_last=page.is_last)
        if page.is_degraded:
            # Pushes must flow while the ledger is away; it is read later, spread over the crowd.
            self._lanes.forgive()
            self._retry_at = self._clock() + self._retry_delay * (0.5 + self._around.dice())
            self._retry_delay = min(RETRY_LEDGER[1], self._retry_delay * 2.0)
        else:
            self._retry_delay = RETRY_LEDGER[0]
        self.flush()

    # Writing

    def _write_batch(self, batch: Batch) -> None:
        events, encoded, is_durable = batch
        n = self.session.flight.on_push(events, self._clock(), is_durable=is_durable)
        try:
            self.sink.write_events(n, events, encoded)
        except ConnectionError as error:
            self._failed = [event.id for event in events if event.event_class.is_durable]
            self._lose(f"send failed: {error}")

    def _write(self, frame: ServerFrame) -> None:
        if self.is_closed:
            return
        if self.sink.is_blocked:
            self._wait_for_reader()
            if isinstance(frame, Pong | Error):
                return  # answers must not pile up for somebody who asks and does not read
        try:
            self.sink.write(frame)
        except ConnectionError as error:
            self._lose(f"send failed: {error}")

    def _ping(self, payload: bytes) -> bool:
        if self.is_closed or self.sink.is_blocked:
            return False
        try:
            self.sink.ping(payload)
        except ConnectionError as error:
            self._lose(f"ping failed: {error}")
            return False
        return True

    def _confirm(self, ids: tuple[str, ...]) -> None:
        session = self.session
        if self._feed is not None:
            ids = self._feed.unproved(ids)
        if ids:
            user_id = session.user_id or ""
            self._around.outcomes.confirmed(user_id, ids, self._by, session.connection_id)
        self._registry.on_success(self)
        if self._lanes.is_waiting:
            self._registry.mark(self)  # the acks made room

    def _lose(self, reason: str) -> None:
        """The socket failed under us."""
        if not self.is_closed:
            self._registry.on_failure(self)
            self.sink.close(Close.FORCED_RECONNECT, reason)
            self.detach(reason)

    def _wait_for_reader(self) -> None:
        if self._draining is None and not self.is_closed:
            self._draining = self._task(self._drain())

    async def _drain(self) -> None:
        try:
            async with asyncio.timeout(self._around.send_timeout):
                await self.sink.drain()
        except TimeoutError:
            self.close(Close.SLOW_CONSUMER, "the client does not read")
        except ConnectionError as error:
            self._lose(f"send failed: {error}")
        self._draining = None
        self.flush()

    def _task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(self._on_task)
        return task

    def _on_task(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is None:
            return
        logger.error("connection %s failed", self.session.connection_id, exc_info=task.exception())
        self.close(Close.FORCED_RECONNECT, "internal error")
