"""Reconnecting: over which transport, when, and how often it is tried.

Owns: backoff, the fall from WebSocket to SSE and the way back, how long the service may be away.
Never
does: touch an event.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Protocol

import aiohttp

from delivery.client.acks import AckPoster
from delivery.client.backoff import FullJitter
from delivery.client.connection import Connection
from delivery.client.http import Endpoints
from delivery.client.link import Ended, Link, NotOpened, refusal
from delivery.client.stream import Stream
from delivery.client.tokens import Tokens
from delivery.errors import ProtocolError, Unauthenticated, Unreachable
from delivery.protocol import Close, Events

logger = logging.getLogger(__name__)


SOCKET_TRIES = 2
"""Sockets in a row that do not get through before the stream is tried."""
UPGRADE = (60.0, 600.0)
"""Seconds on the stream until a socket is tried again: first, at most."""
CLOSE_TIMEOUT = 3.0
MAX_FAILURES = 16


@dataclass(frozen=True, slots=True)
class Plan:
    """How to stay connected.

    Attributes:
        upgrade_after: seconds on a stream until a socket is tried again, the first time.
        give_up_after: seconds without a connection after which ``Unreachable`` is raised.
        jitter: uniform in [0, 1).
    """

    transport: Literal["auto", "websocket", "sse"]
    device: str | None
    backoff: FullJitter
    upgrade_after: float
    give_up_after: float | None
    jitter: Callable[[], float]


class Owner(Protocol):
    """The user of a lifeline."""

    def next_cursor(self) -> str | None:
        """The id handled last."""

    def on_open(self, link: Link) -> None:
        """This is the link now; the one before will not speak again."""

    def on_events(self, link: Link, frame: Events) -> None:
        """Events came; from a link that was replaced they are to be ignored."""

    def on_end(self) -> None:
        """There is no link for the time being."""

    def on_status(self, **change: Any) -> None:
        """What a badge shows has changed so."""


class Lifeline:
    """One at a time: ``run`` until cancelled."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        endpoints: Endpoints,
        tokens: Tokens,
        acks: AckPoster,
        plan: Plan,
        owner: Owner,
    ) -> None:
        self._session = session
        self._endpoints = endpoints
        self._tokens = tokens
        self._acks = acks
        self._plan = plan
        self._owner = owner
        self._on_stream = plan.transport == "sse"
        self._failures = 0
        self._socket_failures = 0
        self._is_stream_untried = False
        self._is_doubted = False
        self._upgrade_after = plan.upgrade_after
        self._heard_at = time.monotonic()
        self.reconnects = 0

    async def run(self) -> None:
        """Connect, listen, come back.

        Raises:
            ProtocolError: the gateway asks not to come back (or Unauthenticated: the token).
            Unreachable: no answer for as long as the plan's ``give_up_after``.
        """
        while True:
            self._owner.on_status(state="connecting", transport=None, retry_at=None)
            try:
                link = await self._dial()
            except NotOpened as error:
                self._on_not_opened(error)
                await self._stay_away(error.ended, was_welcomed=False)
                continue
            except Unauthenticated as error:
                await self._stay_away(self._doubt(error), was_welcomed=False)
                continue
            self._is_doubted = False
            began = time.monotonic()
            try:
                ended = await self._listen(link)
            except Unauthenticated as error:
                ended = self._doubt(error)
            if self._plan.backoff.forgives(self._failures, time.monotonic() - began):
                self._failures = 0
            await self._stay_away(ended, was_welcomed=True)

    async def _dial(self) -> Link:
        """A link that was welcomed. Raises as ``run``, and ``NotOpened``."""
        try:
            if self._on_stream:
                self._is_stream_untried = False
                return await Stream.open(
                    self._session,
                    self._endpoints.stream,
                    self._tokens,
                    self._acks,
                    cursor=self._owner.next_cursor(),
                )
            return await self._open_socket()
        except NotOpened:
            raise
        except Unreachable as error:  # there was no token to go with
            raise NotOpened(Ended(str(error)), is_no_way=False) from error

    async def _open_socket(self) -> Connection:
        return await Connection.open(
            self._session,
            self._endpoints.socket,
            self._tokens,
            cursor=self._owner.next_cursor(),
            device=self._plan.device,
        )

    def _doubt(self, error: Unauthenticated) -> Ended:
        """A token that is refused is followed by a newer one, once.

        Raises:
            Unauthenticated: there is none to ask for, or it was refused as well.
        """
        if self._is_doubted or not self._tokens.can_refresh:
            raise error
        self._is_doubted = True
        self._tokens.forget()
        return Ended(str(error), code=error.close_code)

    def _on_not_opened(self, error: NotOpened) -> None:
        """After two sockets that do not get through, or a silent one, the stream; then a socket."""
        if self._plan.transport != "auto":
            return
        if self._on_stream:
            self._on_stream = False
        elif error.is_no_way:
            was_tried = self._socket_failures >= SOCKET_TRIES
            self._socket_failures += SOCKET_TRIES if error.is_silent else 1
            self._on_stream = self._socket_failures >= SOCKET_TRIES
            self._is_stream_untried = not was_tried

    async def _stay_away(self, ended: Ended, *, was_welcomed: bool) -> None:
        now = time.monotonic()
        if ended.code in (Close.TOKEN_EXPIRED, Close.NOT_YET):
            self._tokens.forget()
        if ended.code == Close.TOKEN_EXPIRED and not self._tokens.can_refresh:
            raise refusal(ended.code, ended.reason)
        # A server that says when to come back has spread its clients already.
        delay = self._delay() if ended.after is None else ended.after
        give_up_after = self._plan.give_up_after
        if was_welcomed:
            self._heard_at = now
        elif give_up_after is not None and not self._is_stream_untried:
            left = self._heard_at + give_up_after - now
            if left <= 0.0:
                raise Unreachable(f"no connection for {give_up_after:g} s: {ended.reason}")
            delay = min(delay, left)
        logger.info("disconnected (%s); reconnecting in %.2f s", ended.reason, delay)
        self._owner.on_status(
            state="waiting",
            transport=None,
            code=ended.code,
            reason=ended.reason,
            retry_at=datetime.now(UTC) + timedelta(seconds=delay),
        )
        await asyncio.sleep(delay)

    def _delay(self) -> float:
        self._failures = min(self._failures + 1, MAX_FAILURES)
        return self._plan.backoff.delay(self._failures, self._plan.jitter())

    async def _listen(self, link: Link) -> Ended:
        """Until the link is over; a stream gives way to a socket meanwhile, if one gets through."""
        self._adopt(link)
        while True:
            reading = asyncio.create_task(link.run(self._owner.on_events), name="delivery-link")
            trial: asyncio.Task[Connection] | None = None
            better: Link | None = None
            if isinstance(link, Stream) and self._plan.transport == "auto":
                trial = asyncio.create_task(self._upgrade(), name="delivery-upgrade")
            try:
                waiting = {reading} if trial is None else {reading, trial}
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if reading.done() or trial is None:
                    return reading.result()
                better = trial.result()
                # From here on the socket speaks; what it replays is known or waits unhandled.
                self._adopt(better)
            finally:
                if better is None:
                    self._owner.on_end()
                self.reconnects += 1
                # Closed before its reader is cancelled: aiohttp then waits for the other side's
                # close, behind which the last acknowledgements have been read.
                await link.close()
                await _end(reading, trial, is_wanted=better is not None)
            link = better

    def _adopt(self, link: Link) -> None:
        if link.transport == "websocket":
            self._socket_failures = 0
            self._upgrade_after = self._plan.upgrade_after
            self._on_stream = False
        self._is_stream_untried = False
        self._owner.on_open(link)
        self._owner.on_status(
            state="connected",
            transport=link.transport,
            user_id=link.welcome.user_id,
            node=link.welcome.node,
            recovered=link.welcome.recovered,
            code=None,
            reason=None,
            retry_at=None,
        )

    async def _upgrade(self) -> Connection:
        """A socket, once one gets through; the stream goes on until it has been welcomed."""
        while True:
            await asyncio.sleep(self._upgrade_after * (0.75 + self._plan.jitter() / 2.0))
            self._upgrade_after = min(2.0 * self._upgrade_after, UPGRADE[1])
            try:
                return await self._open_socket()
            except (Unreachable, ProtocolError) as error:
                logger.info("still on the stream: %s", error)


async def _end(
    reading: asyncio.Task[Ended], trial: asyncio.Task[Connection] | None, *, is_wanted: bool
) -> None:
    """End what still runs; a socket that came through too late is closed."""
    tasks = {reading} if trial is None else {reading, trial}
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT)
    if trial is None or is_wanted or not trial.done() or trial.cancelled():
        return
    if trial.exception() is None:
        await trial.result().close()
