"""Text frames past aiohttp's queue: its reader calls a function, without a task switch per frame.
Plain acknowledgements, nearly all that clients send, pass its parser as well.

Owns: the one use of aiohttp's private classes, and the rule when a frame may pass the queue: only
while the queue is empty, and past the parser: only where a message begins. Never does: parse other
frames (aiohttp's reader), or decide what they mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from aiohttp import WSMsgType, web
from aiohttp._websocket.reader import WebSocketDataQueue, WebSocketReader

from delivery.gateway.sockets.frame_budget import Fault, FrameBudget
from delivery.gateway.sockets.plain_ack import HEADER, plain_ack

if TYPE_CHECKING:
    from aiohttp.http_websocket import WebSocketWriter
    from aiohttp.web_request import BaseRequest

Take = Callable[[bytes], bool]
TakeAck = Callable[[int], bool]
Defer = Callable[[Callable[[], object]], None]
OnFault = Callable[[Fault], None]

_LIMIT = 2**16
"""Bytes of messages in the queue at which aiohttp stops reading the socket."""


class _Queue(WebSocketDataQueue):
    """aiohttp's queue of received messages; ``take`` gets text frames before they are queued."""

    take: Take | None = None
    defer: Defer | None = None
    _is_idle = False

    @property
    def is_passable(self) -> bool:
        """Whether a frame that arrives now is the next one to be handled."""
        return self._is_idle and not self._buffer  # queued messages came first

    def feed_data(self, data: Any, size: int) -> None:
        take = self.take
        if (
            take is not None
            and self.is_passable
            and data.type is WSMsgType.TEXT
            and take(data.data)
        ):
            return
        super().feed_data(data, size)

    def feed_eof(self) -> None:
        """End ``read``, in its turn among other teardowns: the peer is gone."""
        if self.defer is None:
            super().feed_eof()
        else:
            self.defer(super().feed_eof)

    async def read(self) -> Any:
        self._is_idle = True
        try:
            return await super().read()
        finally:
            self._is_idle = False


class _Guard:
    """A frame budget before aiohttp's parser, which gets no bytes after a fault, and no plain
    acknowledgement that ``take_ack`` takes."""

    __slots__ = (
        "_budget",
        "_fault",
        "_is_admitted",
        "_on_fault",
        "_parser",
        "_queue",
        "take_ack",
    )

    def __init__(self, parser: WebSocketReader, queue: _Queue) -> None:
        self._parser = parser
        self._queue = queue
        self.take_ack: TakeAck | None = None
        self._budget = FrameBudget(monotonic())
        self._is_admitted = False
        self._fault: Fault | None = None
        self._on_fault: OnFault | None = None

    def watch(self, on_fault: OnFault) -> None:
        self._on_fault = on_fault
        if self._fault is not None:  # found in bytes received with the upgrade request
            on_fault(self._fault)

    def admit(self) -> None:
        if not self._is_admitted:
            self._is_admitted = True
            self._budget.admit()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        if self._fault is not None:
            return False, b""  # the connection is being closed
        if (
            self.take_ack is not None
            and self._queue.is_passable
            and self._budget.is_between_messages
        ):
            passed = self._pass_acks(data, self.take_ack)
            if passed == len(data):
                return False, b""
            data = data[passed:]
        fault = self._budget.take(data, monotonic())
        if fault is None:
            return self._parser.feed_data(data)
        self._fault = fault
        if self._on_fault is not None:
            self._on_fault(fault)
        return False, b""

    def _pass_acks(self, data: bytes, take_ack: TakeAck) -> int:
        """Take plain acknowledgements off the begin of the data; returns their bytes."""
        at = count = 0
        end = len(data)
        while at < end:
            upto = plain_ack(data, at)
            if upto < 0 or not take_ack(upto):
                break
            at += HEADER + (data[at + 1] & 0x7F)
            count += 1
        if count:
            self._budget.note(count, at)
        return at

    def feed_eof(self) -> None:
        self._parser.feed_eof()


class DirectSocket(web.WebSocketResponse[bool]):
    """A server's WebSocket whose text frames can be taken as they arrive."""

    _guard: _Guard | None = None

    def admit(self) -> None:
        """Give an admitted client the budget of clients. Safe to repeat."""
        if self._guard is not None:
            self._guard.admit()

    def take_with(self, take: Take, take_ack: TakeAck, defer: Defer, on_fault: OnFault) -> None:
        """Offer text frames to ``take`` while ``receive`` waits and the queue is empty.

        Args:
            take: must not raise; ``False`` leaves the frame to ``receive``.
            take_ack: takes the number of a plain acknowledgement, before it is parsed; must not
                raise, and limit the rate by itself; ``False``, with nothing done, leaves the frame
                to ``take``.
            defer: called with the function that ends ``receive`` when the peer is gone; must call
                it once, soon.
            on_fault: called once when the client exceeds its budget or sends an unmasked frame;
                nothing after it is read.
        """
        if self._guard is not None:
            self._guard.watch(on_fault)
            self._guard.take_ack = take_ack
        if isinstance(self._reader, _Queue):
            self._reader.take = take
            self._reader.defer = defer

    def _post_start(
        self, request: BaseRequest, protocol: str | None, writer: WebSocketWriter
    ) -> None:
        # Bytes received with the upgrade request must reach this parser, not the one it replaces.
        handler = request.protocol
        tail, handler._message_tail = handler._message_tail, b""
        super()._post_start(request, protocol, writer)
        queue = _Queue(handler, _LIMIT, loop=asyncio.get_running_loop())
        self._reader = queue
        self._parser = WebSocketReader(queue, self._max_msg_size, False, self._decode_text)
        handler._payload_parser = None
        handler._message_tail = tail
        self._guard = _Guard(self._parser, queue)
        handler.set_parser(self._guard)  # type: ignore[arg-type]  # has its methods
