"""The interface of every emitter, in the gateway's process or over HTTP, and its receipt.

Owns: the agent and sign-in shorthands, the receipt and its waiters. Never does: validate, record,
send, read a clock: each emitter implements those.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from datetime import datetime
from typing import Any, Protocol, TypedDict, Unpack

import msgspec

from delivery.domain.event import AUTH_TYPES
from delivery.errors import InvalidEvent

Data = Mapping[str, Any]

EventOptions = TypedDict(
    "EventOptions",
    {
        "class_": str,
        "class": str,
        "ttl": float,
        "group": str,
        "not_before": datetime | str,
        "traceparent": str,
    },
    total=False,
)
"""What a caller may choose for one event; ``class_`` is ``class``, which Python reserves."""


def given_options(options: EventOptions) -> dict[str, Any] | None:
    """The options by their names in JSON, ``None`` if there are none.

    Raises:
        TypeError: there is no such option.
    """
    given: dict[str, Any] = {}
    for name, value in options.items():
        if name not in EventOptions.__annotations__:
            raise TypeError(f"an event has no option {name!r}")
        if value is not None:
            given["class" if name == "class_" else name] = value
    return given or None


class Waiter(Protocol):
    """One wait for one answer; an asyncio future is one."""

    def done(self) -> bool: ...
    def set_result(self, result: None, /) -> None: ...
    def __await__(self) -> Generator[Any, None, None]: ...


class Desk(Protocol):
    """What a receipt waits on. Every wait ends in bounded time."""

    def waiter(self) -> Waiter:
        """A wait that fails with a ``DeliveryError`` when no answer comes in time."""

    async def wait_confirmed(self, event_id: str, timeout: float) -> bool:
        """Whether the event was confirmed within ``timeout`` seconds."""


class Receipt(msgspec.Struct, eq=False):
    """What an emitter gives for an event.

    From ``emit`` it is settled: the event is durable (unless it is ephemeral). From ``emit_nowait``
    it is not yet: ``accepted()`` waits for that.

    Attributes:
        id: the event's id.
        seq: its position in the run; ``None`` until settled, for ephemeral events, and while only
            the spool has it.
        duplicate: the id was recorded before, with the same content.
        durable: it is in the ledger or the spool; ``False`` until settled and for ephemeral events.
    """

    id: str
    _desk: Desk
    seq: int | None = None
    duplicate: bool = False
    durable: bool = False
    _is_settled: bool = False
    _error: Exception | None = None
    _waiters: list[Waiter] | None = None

    @property
    def is_settled(self) -> bool:
        """Whether the answer has come: accepted or refused."""
        return self._is_settled

    @property
    def is_awaited(self) -> bool:
        """Whether a caller waits for the answer, and will see an error."""
        return bool(self._waiters)

    def settle(self, *, seq: int | None, duplicate: bool = False, durable: bool = True) -> None:
        """Note that the event was accepted; called by the emitter."""
        self.seq = seq
        self.duplicate = duplicate
        self.durable = durable
        self._is_settled = True
        if self._waiters is not None:
            self._wake()

    def fail(self, error: Exception) -> None:
        """Note that the event was not accepted; called by the emitter."""
        self._error = error
        self._is_settled = True
        self._wake()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    async def accepted(self) -> Receipt:
        """Wait until the event is durable; returns the receipt, now with its ``seq``.

        Raises:
            InvalidEvent: (or ``IdConflict`` …) the caller's fault; a retry fails in the same way.
            Overloaded: nothing was accepted; try again later.
            LedgerUnavailable: nothing was recorded in time.
            SpoolFull: the ledger is away, and the spool or its disk is full.
            Unreachable: the service did not answer (remote emitters).
        """
        if not self._is_settled:
            waiter = self._desk.waiter()
            if self._waiters is None:
                self._waiters = []
            self._waiters.append(waiter)
            await waiter
        if self._error is not None:
            raise self._error
        return self

    async def confirmed(self, timeout: float = 5.0) -> bool:
        """Wait for the user's confirmation; ``False`` when it did not come within ``timeout``
        seconds (the chain goes on) and for ephemeral events, which are never confirmed."""
        await self.accepted()
        return self.durable and await self._desk.wait_confirmed(self.id, timeout)

    def __repr__(self) -> str:
        state = "waiting" if not self._is_settled else "refused" if self._error else "accepted"
        return f"<Receipt {self.id} seq={self.seq} {state}>"


class Emission(ABC):
    """An emitter of events of one run to one user."""

    @abstractmethod
    def emit_nowait(
        self,
        type: str,
        data: Data | None = None,
        *,
        id: str | None = None,
        meta: Data | None = None,
        **options: Unpack[EventOptions],
    ) -> Receipt:
        """Start emitting one event and return at once.

        Args:
            type: the event's type; a type that the policy file does not list is ``standard``.
            data: a JSON object of at most 64 KiB encoded.
            id: a UUIDv7 as idempotency key; made when left out.
            meta: annotations that travel with the event.
            options: ``class_``, a class of the service's policies, else the one that lists the
                type; ``ttl``, seconds until it expires, at most the class's; ``group``, events of
                which are in one message; ``not_before``, an aware instant or its RFC 3339 text,
                at most 30 days ahead, before which the event reaches no one and from which the
                time to live counts; ``traceparent``, the span that caused it. ``None`` leaves an
                option out.

        Raises:
            InvalidEvent: names the field.
            Overloaded: the bounded buffer is full; nothing was taken.
        """

    async def emit(
        self,
        type: str,
        data: Data | None = None,
        *,
        id: str | None = None,
        meta: Data | None = None,
        **options: Unpack[EventOptions],
    ) -> Receipt:
        """Emit one event; returns when it is durable.

        A cancelled wait does not take the event back. See ``emit_nowait`` and ``Receipt.accepted``
        for arguments and errors.
        """
        return await self.emit_nowait(type, data, id=id, meta=meta, **options).accepted()

    async def emit_agent_started(self, agent: str, **data: Any) -> Receipt:
        """Emit ``agent_started``: the agent begins to work."""
        return await self.emit("agent_started", {"agent": agent, **data})

    async def emit_agent_thinking(self, thought: str, **data: Any) -> Receipt:
        """Emit ``agent_thinking``: what the agent considers now."""
        return await self.emit("agent_thinking", {"thought": thought, **data})

    async def emit_tool_executing(
        self, tool: str, args: Data | None = None, **data: Any
    ) -> Receipt:
        """Emit ``tool_executing``: the agent calls a tool."""
        return await self.emit("tool_executing", {"tool": tool, "args": args or {}, **data})

    async def emit_tool_completed(self, tool: str, result: Any = None, **data: Any) -> Receipt:
        """Emit ``tool_completed``: the tool answered."""
        return await self.emit("tool_completed", {"tool": tool, "result": result, **data})

    async def emit_agent_completed(self, result: Any = None, **data: Any) -> Receipt:
        """Emit ``agent_completed``: the agent is done."""
        return await self.emit("agent_completed", {"result": result, **data})

    async def emit_auth(self, stage: str, data: Data | None = None) -> Receipt:
        """Emit an event of a sign-in.

        Args:
            stage: ``started``, ``validating``, ``completed`` or ``failed``.
        """
        return await self.emit(auth_type(stage), data)


def auth_type(word: str) -> str:
    """``"failed"`` or ``"auth_failed"`` -> ``"auth_failed"``.

    Raises:
        InvalidEvent: a sign-in has no such event.
    """
    name = word if word.startswith("auth_") else f"auth_{word}"
    if name not in AUTH_TYPES:
        known = " or ".join(known.removeprefix("auth_") for known in AUTH_TYPES)
        raise InvalidEvent(f"a sign-in has no event {word!r}; write one of {known}", field="type")
    return name


class Emitters(Protocol):
    """A source of emitters: a remote connection, an embedded delivery."""

    def emitter(
        self,
        user_id: str,
        run_id: str,
        thread_id: str | None = None,
        performance: bool = False,
    ) -> Emission:
        """An emitter for one run of one user. Raises ``InvalidContext``."""
