"""Connection of one client: the only place that writes to a socket.

Owns: what is written when, the send timeout, the reading of pages, probes, and the end of a
connection. Never does: read from sockets, verify tokens, know other users. No task runs per event:
one task reads a page of the ledger, one waits for a full socket, and both end by a deadline.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from delivery.domain.channels import Channel
from delivery.domain.event import format_instant
from delivery.errors import Unauthenticated
from delivery.gateway.connection_context import ConnectionContext, count_end, log_refusal
from delivery.gateway.feed import Feed, Page
from delivery.gateway.frame_writer import FrameWriter
from delivery.gateway.outbound import Batch, Item, Outbound, Read
from delivery.gateway.probes import PendingProbes
from delivery.gateway.session import (
    Actions,
    Admit,
    Confirm,
    HandOver,
    Phase,
    Probe,
    Send,
    Session,
    Shut,
    Verify,
)
from delivery.protocol import (
    Close,
    Connected,
    Error,
    InboxChanged,
    Pong,
    Reconnect,
    ServerFrame,
    may_reconnect,
)
from delivery.telemetry import metrics

if TYPE_CHECKING:
    from delivery.callers.principal import Principal
    from delivery.gateway.registry import User

logger = logging.getLogger(__name__)


RETRY_LEDGER = (1.0, 30.0)
"""Seconds until a connection that was fed without the ledger reads it again: first, longest."""
RECHECK_DELAY = 2.0
"""Seconds until a connection whose user is also on another node reads the ledger once more: until
the other nodes know of this connection, they send the user's events only there."""

SIGN_OF_LIFE_EVERY = 2.0
"""Seconds without a welcome after which a client is told that it is being served: in a crowd that
comes back at once it waits for its turn, and dialling anew would cost it its place."""


class Connection:
    """One connection of one user.

    Args:
        session: its state machine.
        writer: the writing side of its socket.
        header: the principal of the token in the upgrade request.
    """

    def __init__(
        self,
        session: Session,
        writer: FrameWriter,
        context: ConnectionContext,
        header: Principal | None = None,
    ) -> None:
        self.session = session
        self.writer = writer
        self.user: User | None = None  # set by the registry
        self.is_marked = False  # flushed by the registry at the end of this turn
        self.is_closed = False
        self.has_left = False  # the client sent a close frame of its own
        self._header = header
        self._principal: Principal | None = None
        self._context = context
        self._registry = context.registry
        self._clock = context.clock
        self.opened_at = context.clock()
        self._outbound = Outbound(session.in_flight, session.limits.max_queue, context.waiting)
        # Takes one pushed event; the registry flushes at the end of the loop's turn.
        self.enqueue = self._outbound.push
        self._feed: Feed | None = None
        self._is_welcomed = False
        self._sign_at = self.opened_at + SIGN_OF_LIFE_EVERY
        self._is_inbox_due = False
        self._retry_at: float | None = None
        self._recheck_at: float | None = None
        self._retry_delay = RETRY_LEDGER[0]
        self._reading: asyncio.Task[None] | None = None
        self._draining: asyncio.Task[None] | None = None
        self._failed: list[str] = []
        self._probes = PendingProbes()

    # Called by the registry

    @property
    def id(self) -> str:
        """The connection's id, as in ``connected`` frames and confirmations."""
        return self.session.connection_id

    @property
    def device(self) -> str | None:
        """The client's name of itself."""
        return self.session.device

    @property
    def transport(self) -> Channel:
        """``websocket`` or ``sse``."""
        return Channel.SSE if self.session.is_stream else Channel.WEBSOCKET

    @property
    def _by(self) -> str:
        """The name of the device or else the user, as in confirmations."""
        return self.session.device or self.session.user_id or ""

    @property
    def acked(self) -> int:
        """The highest ``n`` that the client acknowledged, ephemeral events included."""
        return self.session.in_flight.acked

    @property
    def is_live(self) -> bool:
        """Whether pushed events are sent without a read of the ledger."""
        return self._outbound.is_live

    def score(self, now: float) -> int:
        """The health score, 0 to 100."""
        return self.session.score(now, self._outbound.fill)

    def flush(self) -> None:
        """Write what may be sent now; start the wait or the read that the rest needs."""
        # The everyday case in one step; what else is due takes the way below.
        if self._is_welcomed and not (
            self.is_closed or self.writer.is_blocked or self._is_inbox_due
        ):
            batch = self._outbound.take_all()
            if batch is not None:
                self._write_batch(batch)
                return
        while self._is_welcomed and not self.is_closed:
            if self.writer.is_blocked:
                self._wait_for_room()
                break
            batch = self._outbound.next_batch()
            if batch is None:
                self._read_on()
                break
            self._write_batch(batch)
            if self._outbound.is_idle:
                break
        self._outbound.settle()
        if self._is_inbox_due and self._is_welcomed and not self.writer.is_blocked:
            self._is_inbox_due = False
            self._write(InboxChanged())

    def resend(self, items: Iterable[Item]) -> bool:
        """Send these events again, in flight or not; whether all were sent."""
        if self.is_closed or not self._is_welcomed or self.writer.is_blocked:
            return False
        self._outbound.resend(items)
        self.flush()
        return self._outbound.end_resend() and not self.is_closed

    def release(self, ids: Sequence[str]) -> None:
        """Release ids that the user acknowledged on another connection."""
        if self.session.in_flight.release(ids) and self._outbound.is_waiting:
            self._registry.mark(self)

    def tell_inbox(self) -> None:
        """Tell the client that its user's inbox changed. Told once however often it changed while
        the client did not read."""
        self._is_inbox_due = True
        self._registry.mark(self)

    def catch_up(self) -> None:
        """Read the feed from its beginning."""
        self._retry_at = None
        self._outbound.read_again()
        self._registry.mark(self)

    def probe(self) -> asyncio.Future[bool]:
        """Ping the peer.

        Returns:
            A future: ``True`` on the pong, ``False`` when the ping cannot be sent. An event stream
            has no pong: ``True`` when the socket takes a comment.
        """
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        payload = self._probes.next_payload()
        if not self._ping(payload):
            future.set_result(False)
        elif self.session.is_stream:
            future.set_result(True)
        else:
            self._probes.expect(payload, future, self._clock())
        return future

    def reconnect(self, after_ms: int, reason: str) -> None:
        """Tell the client to reconnect: send what is queued, a ``reconnect`` frame, close 3001."""
        self.flush()
        self._write(Reconnect(after_ms, reason))
        self.close(Close.SHUTDOWN, reason)

    # Called by the server

    def perform(self, actions: Actions) -> str | None:
        """Carry out the actions of the session. Returns a token that the caller must verify now."""
        token = None
        for action in actions:
            if type(action) is Confirm:  # the most frequent action: no match over all classes
                self._confirm(action.ids)
                continue
            match action:
                case Send(frame):
                    self._write(frame)
                    if type(frame) is Error:
                        log_refusal(frame, self.session.user_id)
                case HandOver(event_id, reason):
                    self._context.outcomes.refused(event_id, reason)
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

    def take_ack(self, upto: int) -> bool:
        """Handle an acknowledgement that does nothing but confirm; ``False``, with nothing done,
        for another one, which comes again as a frame."""
        if self.is_closed:
            return False
        try:
            done = self.session.on_upto(upto, self._clock())
            if done:
                self._confirm(done)
        except Exception:
            # One broken connection must not raise into the transport.
            logger.exception("connection %s failed", self.id)
            self.close(Close.FORCED_RECONNECT, "internal error")
            return True
        return done is not None

    def on_principal(self, principal: Principal) -> None:
        """Handle the principal of a token that ``perform`` returned."""
        user_id = principal.user_id  # raises for a service's, before anything changes
        try:
            self._context.check(principal)  # it was verified a moment ago, or with the upgrade
        except Unauthenticated as error:
            self.perform(self.session.on_refused(error))
            return
        self._principal = principal
        now = self._clock()
        left = principal.ends_at - self._context.wall()
        self.perform(self.session.on_verified(user_id, now + left, now))

    def check_principal(self) -> None:
        """End the connection if its token is not accepted any more."""
        if self.is_closed or self._principal is None:
            return
        try:
            self._context.check(self._principal)
        except Unauthenticated as error:
            self.perform(self.session.on_withdrawn(error))

    def on_pong(self, payload: bytes) -> None:
        """Handle a pong of a probe or of the heartbeat."""
        now = self._clock()
        round_trip = self._probes.on_pong(payload, now)
        if round_trip is None:
            self.session.on_pong(payload, now)
        else:
            self.session.on_round_trip(round_trip, now)

    def on_tick(self, now: float) -> None:
        """Check the deadlines."""
        if self.is_closed:
            return
        if self.writer.is_closed:  # an event stream reports no end of its peer
            self.writer.close(Close.FORCED_RECONNECT, "the client left")
            self.detach()
            return
        actions = self.session.on_tick(now)
        if actions:
            self.perform(actions)
        if not self._is_welcomed and now >= self._sign_at:
            self._give_sign(now)
        if self._recheck_at is not None and now >= self._recheck_at and self._feed is not None:
            self._recheck_at = None
            self._feed.include_recent()
            self.catch_up()
        elif self._retry_at is not None and now >= self._retry_at:
            self.catch_up()

    def _give_sign(self, now: float) -> None:
        """Write a ``pong``, which every client ignores, while the welcome is on its way."""
        self._sign_at = now + SIGN_OF_LIFE_EVERY
        if self.session.phase in (Phase.VERIFYING, Phase.OPEN) and not self.session.is_stream:
            self._write(Pong())

    def close(self, code: int, reason: str) -> None:
        """Close the connection with this code."""
        if self.is_closed:
            return
        if code in (Close.SLOW_CONSUMER, Close.NO_PONG):
            self._registry.on_failure(self)
        self.writer.close(code, reason)
        self.detach(reason, code)

    def detach(self, reason: str = "the client left", code: int | None = None) -> None:
        """End the connection: nothing is pushed to it any more. Safe to repeat.

        Args:
            code: with which it was closed here; ``None`` for a client that left.
        """
        if self.is_closed:
            return
        self.is_closed = True
        count_end(code)
        self.session.on_close()
        for task in (self._reading, self._draining):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
        self._probes.fail_all()
        unsent = self._failed + self._outbound.close()
        if self._registry.detach(self, is_lost=self._is_lost(code)):
            self._context.outcomes.unsent(unsent, f"not sent: {reason}")
            self._context.outcomes.left(self.session.user_id or "", self.session.in_flight.ids)

    def _is_lost(self, code: int | None) -> bool:
        """Whether the client is likely to connect again at once."""
        if code is None:
            return not self.has_left
        return may_reconnect(code) and code != Close.NO_PONG

    # Admission

    def _verify_header(self) -> None:
        if self._header is not None:
            self.on_principal(self._header)
            return
        error = Unauthenticated("neither connect nor the upgrade request carries a token")
        self.perform(self.session.on_refused(error))

    def _admit(self, user_id: str, cursor: str | None) -> None:
        if self._registry.is_closing:
            self.close(Close.SHUTDOWN, "shutting down")
        elif not self._registry.attach(self, user_id):
            self.close(Close.CONNECTION_LIMIT, "too many connections of this user")
        else:
            metrics.connections_opened.inc(1.0, self.transport.value)
            self._feed = Feed(self._context.feed_reader, user_id, self._by)
            if self._registry.peers.hosts_of(user_id):
                self._recheck_at = self._clock() + RECHECK_DELAY * (0.5 + self._context.jitter())
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
                node=self._context.node,
                heartbeat=limits.heartbeat,
                recovered=page.recovered,
                max_in_flight=limits.max_in_flight,
                expires=None if expires is None else format_instant(expires),
            )
        )
        self._is_welcomed = True
        self._outbound.know(page.seqs)
        self._take_page(page)

    def _read_on(self) -> None:
        if self._feed is None or self._reading is not None:
            return
        what = self._outbound.next_read()
        if what is not None:
            self._reading = self._task(self._read(self._feed, what))

    async def _read(self, feed: Feed, what: Read) -> None:
        page = await feed.read(what)
        self._reading = None
        if not self.is_closed:
            self._take_page(page)

    def _take_page(self, page: Page) -> None:
        self._outbound.take_page(page.items, is_last=page.is_last)
        if page.is_degraded:
            # Pushes continue without the ledger; connections read it later, at different times.
            self._outbound.skip_read()
            self._retry_at = self._clock() + self._retry_delay * (0.5 + self._context.jitter())
            self._retry_delay = min(RETRY_LEDGER[1], self._retry_delay * 2.0)
        else:
            self._retry_delay = RETRY_LEDGER[0]
        self.flush()

    # Writing

    def _write_batch(self, batch: Batch) -> None:
        events, encoded, is_durable = batch
        n = self.session.in_flight.on_push(events, self._clock(), is_durable=is_durable)
        try:
            self.writer.write_events(n, events, encoded)
        except ConnectionError as error:
            self._failed = [event.id for event in events if event.event_class.is_durable]
            self._on_send_failure(f"send failed: {error}")

    def _write(self, frame: ServerFrame) -> None:
        if self.is_closed:
            return
        if self.writer.is_blocked:
            self._wait_for_room()
            if isinstance(frame, Pong | Error):
                return  # answers must not pile up for a client that sends and does not read
        try:
            self.writer.write(frame)
        except ConnectionError as error:
            self._on_send_failure(f"send failed: {error}")

    def _ping(self, payload: bytes) -> bool:
        if self.is_closed or self.writer.is_blocked:
            return False
        try:
            self.writer.ping(payload)
        except ConnectionError as error:
            self._on_send_failure(f"ping failed: {error}")
            return False
        return True

    def _confirm(self, ids: Sequence[str]) -> None:
        session = self.session
        if self._feed is not None:
            ids = self._feed.unconfirmed(ids)
        if ids:
            user_id = session.user_id or ""
            self._context.outcomes.confirmed(user_id, ids, self._by, session.connection_id)
        self._registry.on_success(self)
        if self._outbound.is_waiting:
            self._registry.mark(self)  # there is room in flight again

    def _on_send_failure(self, reason: str) -> None:
        """End the connection after a failed write."""
        if not self.is_closed:
            self._registry.on_failure(self)
            self.writer.close(Close.FORCED_RECONNECT, reason)
            self.detach(reason, Close.FORCED_RECONNECT)

    def _wait_for_room(self) -> None:
        if self._draining is None and not self.is_closed:
            self._draining = self._task(self._drain())

    async def _drain(self) -> None:
        try:
            async with asyncio.timeout(self._context.send_timeout):
                await self.writer.drain()
        except TimeoutError:
            self.close(Close.SLOW_CONSUMER, "the client does not read")
        except ConnectionError as error:
            self._on_send_failure(f"send failed: {error}")
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
