"""What both ways to the gateway, the socket and the stream, look like from the client.

Owns: the words they share: how a way ends, how it fails to begin. Never does: any I/O.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from delivery.errors import ProtocolError, Unauthenticated, Unreachable
from delivery.protocol import Close, Connected, Events


@dataclass(frozen=True, slots=True)
class Status:
    """Where a listening client stands.

    Attributes:
        state: ``connecting``: on the way. ``connected``: events flow. ``waiting``: tries again at
            ``retry_at``. ``closed``: for good, by ``close()`` or by the server.
        transport: ``websocket`` or ``sse`` while connected.
        user_id: whose events these are, once the gateway has said so.
        node: the gateway's name.
        recovered: ``False``: something may be missing; read your own state anew.
        code: close code of the last connection.
        reason: why the last connection ended.
        retry_at: aware UTC.
    """

    state: Literal["connecting", "connected", "waiting", "closed"] = "connecting"
    transport: Transport | None = None
    user_id: str | None = None
    node: str | None = None
    recovered: bool | None = None
    code: int | None = None
    reason: str | None = None
    retry_at: datetime | None = None


OPEN_TIMEOUT = 8.0
"""Seconds from dialling to ``connected``."""
SOCKET_TIMEOUT = 5.0
"""The same for a socket: what follows a silent one stands within ten seconds of the beginning. It
begins anew with every frame: a busy service says that it will come to this client."""
WELCOME_TIMEOUT = 60.0
"""The longest time from dialling to ``connected``, whatever the service says."""

Transport = Literal["websocket", "sse"]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a link that may be made anew ended.

    Attributes:
        after: seconds to stay away, if the server said so.
        code: the close code, if there was one.
    """

    reason: str
    after: float | None = None
    code: int | None = None


class NotOpened(Unreachable):
    """There was no welcome; trying again may help.

    Attributes:
        ended: what is known about it.
        is_no_way: the service was met and this way did not get through to it, so the other one is
            worth a try. A refused connection says nothing of the kind.
        is_silent: there was no answer at all within the time.
    """

    def __init__(self, ended: Ended, *, is_no_way: bool = True, is_silent: bool = False) -> None:
        super().__init__(ended.reason)
        self.ended = ended
        self.is_no_way = is_no_way and (ended.code is None or ended.code < 3000)
        self.is_silent = is_silent


class Link(Protocol):
    """One connection: ``run`` until it returns; then ``close``."""

    welcome: Connected

    @property
    def transport(self) -> Transport:
        """Which way it is."""

    async def run(self, on_events: OnEvents) -> Ended:
        """Read until it is over. Raises ``ProtocolError`` when it must not be made anew."""

    def on_handled(self, n: int, event_id: str, is_durable: bool) -> None:
        """The event that was number ``n`` here is done."""

    def acknowledge(self, event_id: str) -> None:
        """An event that came over an earlier link is done."""

    def nack(self, event_id: str, reason: str) -> None:
        """This client cannot handle the event."""

    async def drain(self, timeout: float) -> None:
        """Wait until the acknowledgements gathered so far have left, as far as possible."""

    async def close(self) -> None:
        """Let go of it. Safe to repeat."""


OnEvents = Callable[[Link, Events], None]


def refusal(code: int | None, told: str) -> ProtocolError:
    """The error of a close code that forbids to come back."""
    if code in (Close.INVALID_TOKEN, Close.TOKEN_EXPIRED):
        return Unauthenticated(
            f"{told} (close code {code}); get a new token", close_code=int(code or 0)
        )
    return ProtocolError(f"{told} (close code {code})", close_code=code or 0)
