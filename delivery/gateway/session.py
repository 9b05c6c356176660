"""The state machine of one connection, as docs/protocol.md describes it. Pure.

Owns: which frame is legal when, acknowledgements, the deadlines of a connection (connect, pong,
token) and its health figures. Never does: sockets, tokens, tasks, clocks. Each ``on_*`` method
takes one input, with ``now`` in monotonic seconds where time matters, and returns the actions that
its caller must carry out in order.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import msgspec

from delivery.domain.health import Vitals, score, smooth
from delivery.domain.inputs.foreign_text import storable
from delivery.errors import ProtocolError, UnknownAck
from delivery.gateway.in_flight import InFlight
from delivery.protocol import (
    CONNECT_TIMEOUT,
    Ack,
    ClientFrame,
    Close,
    Connect,
    Error,
    Limits,
    Nack,
    Ping,
    Pong,
    Refresh,
    ServerFrame,
)


class Send(msgspec.Struct, frozen=True, gc=False):
    """Write one frame."""

    frame: ServerFrame


class Verify(msgspec.Struct, frozen=True, gc=False):
    """Check a token (``None``: the one of the upgrade request) and answer with ``on_verified`` or
    ``on_refused``."""

    token: str | None


class Admit(msgspec.Struct, frozen=True, gc=False):
    """Attach the connection to its user, send ``connected``, then feed it."""

    user_id: str
    cursor: str | None


class Confirm(msgspec.Struct, frozen=True, gc=False):
    """Record the confirmations of these acknowledged events."""

    ids: tuple[str, ...]


class HandOver(msgspec.Struct, frozen=True, gc=False):
    """Start the chain of an event that the client refused."""

    id: str
    reason: str


class Probe(msgspec.Struct, frozen=True, gc=False):
    """Send a ping with this payload; on an event stream, a comment."""

    payload: bytes


class Shut(msgspec.Struct, frozen=True, gc=False):
    """Close the connection with this code."""

    code: int
    reason: str


Action = Send | Verify | Admit | Confirm | HandOver | Probe | Shut
Actions = Sequence[Action]
NOTHING: Actions = ()


@dataclass(frozen=True, slots=True)
class Rate:
    """Limits on a client's frames: a rate per second, a burst, and how many frames may be dropped
    before the connection is closed."""

    per_second: float = 2_000.0
    burst: int = 4_000
    tolerance: int = 100


class Throttle:
    """A token bucket that counts the frames dropped since it was last full."""

    __slots__ = ("_at", "_level", "_rate", "dropped")

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._level = float(rate.burst)
        self._at = now
        self.dropped = 0

    @property
    def is_exceeded(self) -> bool:
        """Whether more frames were dropped than the rate tolerates."""
        return self.dropped > self._rate.tolerance

    def spend(self, now: float) -> bool:
        """Take a token for one frame; ``False``: none is left, and nothing was changed."""
        rate = self._rate
        level = self._level + (now - self._at) * rate.per_second
        if level >= rate.burst:
            level = float(rate.burst)
            self.dropped = 0
        elif level < 1.0:
            return False
        self._at = now
        self._level = level - 1.0
        return True

    def admits(self, now: float) -> bool:
        """Take a token for one frame; ``False``: no token is left, drop the frame."""
        if self.spend(now):
            return True
        self.dropped += 1
        return False


PONG_SHARE = 0.5
"""Share of the heartbeat interval after which a missing pong counts as missed."""
MAX_MISSED_PONGS = 2
MAX_REASON_CHARS = 200
MAX_DEVICE_CHARS = 128


class Phase(enum.Enum):
    """Phase of a connection: waiting for ``connect``, verifying its token, open, closed."""

    WAITING = "waiting"
    VERIFYING = "verifying"
    OPEN = "open"
    CLOSED = "closed"


class Session:
    """State of one connection.

    Args:
        connection_id: the evidence in confirmations of this connection.
        limits: heartbeat in seconds, and the most durable events in flight.
        now: monotonic seconds.
        rate: limits on the frames that the client sends.
        header_token: the upgrade request carried a token, which is verified when no ``connect``
            comes in time.
        is_stream: a connection of server-sent events. The client sends nothing on it, so nothing is
            in flight and no pong is due.
    """

    __slots__ = (
        "_due",
        "_expires_at",
        "_header_token",
        "_ping_at",
        "_pinged_at",
        "_pings",
        "_round_trip_ms",
        "_throttle",
        "connection_id",
        "cursor",
        "device",
        "failures",
        "in_flight",
        "is_stream",
        "limits",
        "missed_pongs",
        "phase",
        "user_id",
    )

    def __init__(
        self,
        connection_id: str,
        limits: Limits,
        now: float,
        *,
        rate: Rate | None = None,
        header_token: bool = False,
        is_stream: bool = False,
    ) -> None:
        self.connection_id = connection_id
        self.limits = limits
        self.is_stream = is_stream
        self.in_flight = InFlight(
            limits.max_in_flight,
            memory=max(limits.max_in_flight, limits.max_queue),
            tracked=not is_stream,
        )
        self.phase = Phase.WAITING
        self.user_id: str | None = None
        self.device: str | None = None
        self.cursor: str | None = None
        self.failures = 0
        self.missed_pongs = 0
        self._round_trip_ms = 0.0
        self._header_token = header_token
        self._throttle = Throttle(rate or Rate(), now)
        self._expires_at = inf
        self._ping_at = now + limits.heartbeat
        self._pinged_at: float | None = None
        self._pings = 0
        self._due = now + CONNECT_TIMEOUT

    def vitals(self, now: float, queue_fill: float) -> Vitals:
        """The figures behind the health score; ``queue_fill`` is 0 to 1."""
        return Vitals(
            round_trip_ms=self._round_trip_ms,
            ack_ms=self.in_flight.latency_ms(now),
            missed_pongs=self.missed_pongs,
            failures=self.failures,
            queue_fill=queue_fill,
        )

    def score(self, now: float, queue_fill: float) -> int:
        """The health score, 0 to 100."""
        return score(self.vitals(now, queue_fill))

    def on_client_frame(self, frame: ClientFrame, now: float) -> Actions:
        """Handle a well-formed frame."""
        if self.phase is Phase.CLOSED:
            return NOTHING
        if not self._throttle.admits(now):
            return self._over_rate()
        if type(frame) is Ack and self.phase is Phase.OPEN:  # the most frequent frame
            return self._ack(frame, now)
        match frame:
            case Connect():
                return self._connect(frame)
            case _ if self.phase is not Phase.OPEN:
                return self._bad("the first frame must be connect")
            case Nack():
                return self._nack(frame)
            case Refresh():
                return (Verify(frame.token),)
            case Ping():
                return (Send(Pong()),)
            case Ack():
                return self._ack(frame, now)

    def on_upto(self, upto: int, now: float) -> Sequence[str] | None:
        """Handle ``Ack(upto)`` as ``on_client_frame`` does, where it does nothing but confirm: the
        everyday case, without frames and actions.

        Returns:
            The ids to confirm; ``None`` when ``on_client_frame`` must decide, and nothing was
            changed.
        """
        in_flight = self.in_flight
        if self.phase is not Phase.OPEN or upto > in_flight.n or not self._throttle.spend(now):
            return None
        done = in_flight.on_ack(upto, (), now)
        if done:
            self.failures = 0
        return done

    def on_over_budget(self) -> Actions:
        """Close a connection whose client exceeds its budget of frames or bytes."""
        if self.phase is Phase.CLOSED:
            return NOTHING
        return self._limit("too many frames")

    def on_rate_limited(self, reason: str) -> Actions:
        """Close a connection whose user or address connects, or tries tokens, too often."""
        return NOTHING if self.phase is Phase.CLOSED else self._limit(reason)

    def on_bad_frame(self, reason: str) -> Actions:
        """Handle a message that is no frame: not JSON, of an unknown type, or binary."""
        return NOTHING if self.phase is Phase.CLOSED else self._bad(reason)

    def on_verified(self, user_id: str, expires_at: float, now: float) -> Actions:
        """Handle a valid token of ``connect`` or ``refresh``; it ends at ``expires_at``, monotonic
        seconds."""
        if self.phase is Phase.CLOSED:
            return NOTHING
        if self.phase is Phase.OPEN:
            if user_id != self.user_id:
                return self._refuse("the new token names another user", Close.INVALID_TOKEN)
            self._expires_at = expires_at
            self._plan()
            return NOTHING
        self.phase = Phase.OPEN
        self.user_id = user_id
        self._expires_at = expires_at
        self._ping_at = now + self.limits.heartbeat
        self._plan()
        return (Admit(user_id, self.cursor),)

    def on_refused(self, error: ProtocolError) -> Actions:
        """Handle a token that was refused: that of ``connect`` ends the session, that of
        ``refresh`` leaves it open for as long as the token before it is good."""
        if self.phase is Phase.CLOSED:
            return NOTHING
        if self.phase is Phase.OPEN:
            return (Send(Error("unauthorized", str(error))),)
        return self._refuse(str(error), error.close_code)

    def on_withdrawn(self, error: ProtocolError) -> Actions:
        """End the session: its token was good, and is not accepted any more."""
        if self.phase is Phase.CLOSED:
            return NOTHING
        return self._refuse(str(error), error.close_code)

    def on_pong(self, payload: bytes, now: float) -> None:
        """Handle a pong; only the pong of the latest ping counts."""
        if self._pinged_at is None or payload != b"%d" % self._pings:
            return
        self.on_round_trip(now - self._pinged_at, now)

    def on_round_trip(self, seconds: float, now: float) -> None:
        """Note the round trip of a ping in seconds; the peer is alive."""
        self._round_trip_ms = smooth(self._round_trip_ms, seconds * 1_000.0)
        self.missed_pongs = 0
        self._pinged_at = None
        self._ping_at = now + self.limits.heartbeat
        self._plan()

    def on_tick(self, now: float) -> Actions:
        """Check the deadlines. Cheap while nothing is due."""
        if now < self._due or self.phase is Phase.CLOSED:
            return NOTHING
        if self.phase is Phase.WAITING:
            if not self._header_token:
                return self._shut(Close.NO_CONNECT, "no connect frame in time")
            self.phase = Phase.VERIFYING
            self._due = inf
            return (Verify(None),)
        if now >= self._expires_at:
            return self._refuse("the token has expired", Close.TOKEN_EXPIRED)
        actions = self._heartbeat(now)
        self._plan()
        return actions

    def on_close(self) -> None:
        """End the session; later inputs return no actions."""
        self.phase = Phase.CLOSED

    def _connect(self, frame: Connect) -> Actions:
        if self.phase is not Phase.WAITING:
            return self._bad("connect was sent before")
        if frame.device is not None and not _is_name(frame.device):
            return self._bad(f"device must be 1 to {MAX_DEVICE_CHARS} printable characters")
        self.phase = Phase.VERIFYING
        self._due = inf  # the verifier has its own deadline
        self.device = frame.device
        self.cursor = frame.cursor
        return (Verify(frame.token),)

    def _ack(self, frame: Ack, now: float) -> Actions:
        try:
            done = self.in_flight.on_ack(frame.upto, frame.ids or (), now)
        except UnknownAck as error:
            return (Send(Error(error.code, str(error))),)
        if not done:
            return NOTHING
        self.failures = 0
        return (Confirm(tuple(done)),)

    def _nack(self, frame: Nack) -> Actions:
        try:
            was_in_flight = self.in_flight.on_nack(frame.id)
        except UnknownAck as error:
            return (Send(Error(error.code, str(error))),)
        if not was_in_flight:
            return NOTHING
        self.failures += 1
        return (HandOver(frame.id, f"nack: {storable(frame.reason, MAX_REASON_CHARS)}"),)

    def _heartbeat(self, now: float) -> Actions:
        if now < self._ping_at:
            return NOTHING
        if self._pinged_at is not None:
            self.missed_pongs += 1
            if self.missed_pongs >= MAX_MISSED_PONGS:
                return self._shut(Close.NO_PONG, "no pong")
        self._pings += 1
        if self.is_stream:
            self._ping_at = now + self.limits.heartbeat
        else:
            self._pinged_at = now
            self._ping_at = now + self.limits.heartbeat * PONG_SHARE
        return (Probe(b"%d" % self._pings),)

    def _plan(self) -> None:
        self._due = min(self._ping_at, self._expires_at)

    def _over_rate(self) -> Actions:
        if self._throttle.is_exceeded:
            return self._shut(Close.RATE_LIMIT, "too many frames")
        if self._throttle.dropped > 1:
            return NOTHING  # one error frame per burst: an answer to each would double the load
        return (Send(Error("rate_limited", "too many frames; this one was dropped")),)

    def _limit(self, reason: str) -> Actions:
        return (Send(Error("rate_limited", reason)), *self._shut(Close.RATE_LIMIT, "rate limit"))

    def _bad(self, reason: str) -> Actions:
        return (Send(Error("bad_frame", reason)), *self._shut(Close.BAD_FRAME, "bad frame"))

    def _refuse(self, reason: str, code: int) -> Actions:
        return (Send(Error("unauthorized", reason)), *self._shut(code, "unauthorized"))

    def _shut(self, code: int, reason: str) -> Actions:
        self.phase = Phase.CLOSED
        return (Shut(code, reason),)


def _is_name(value: str) -> bool:
    # The device is the ``by`` of confirmations in the ledger: short, without control characters.
    return 0 < len(value) <= MAX_DEVICE_CHARS and value.isprintable()
