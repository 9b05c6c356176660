"""One run of one user as adapters record it: which agent did what, and which call a result answers.

Owns: the events of agents and their fields, ``docs/adapters.md``. Never does: wait, raise for a
value that it is given, know a framework.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar
from uuid import uuid4

from delivery.adapters.buffer import Buffer, Context, Pending
from delivery.adapters.relay import passed_on
from delivery.adapters.values import fitted, shortened

T = TypeVar("T")

MAX_OPEN_CALLS = 10_000
MAX_MESSAGE = 2_000
"""Characters of an error's text."""
EPHEMERAL = "ephemeral"
CRITICAL = "critical"

_current: ContextVar[str | None] = ContextVar("delivery_agent", default=None)


class Keep(Protocol):
    """See ``Recorder.keep``."""

    async def __call__(self, work: Coroutine[Any, Any, T], /) -> T: ...


class Span:
    """One agent at work, inside ``AgentRun.agent``.

    Attributes:
        agent_id: its id, which its events carry.
        result: set it to what the agent gives.
    """

    def __init__(self, agent: str, agent_id: str) -> None:
        self.agent = agent
        self.agent_id = agent_id
        self.result: Any = None


class AgentRun:
    """Records the events of one run. Made by ``Recorder.run``; safe to share between threads.

    Every event names its agent (``agent``, ``agent_id``; ``parent_id`` where another one called
    it), and a tool's events the call (``tool_call_id``).
    """

    def __init__(self, keep: Keep, buffer: Buffer, context: Context) -> None:
        self._keep = keep
        self._buffer = buffer
        self._context = context
        self._calls: dict[str, float] = {}  # by the call's id: when it began
        self._lock = threading.Lock()

    def record(
        self, type: str, data: Mapping[str, Any] | None = None, *, class_: str | None = None
    ) -> None:
        """Record an event of any type; ``class_`` as of ``Emission.emit``."""
        fields, flags = fitted(data or {})
        meta = {"flags": flags} if flags else None
        self._put(Pending(self._context, type, fields, meta, class_, class_ == EPHEMERAL))

    def _put(self, event: Pending) -> None:
        self._buffer.put(event)

    async def room(self) -> None:
        """Wait while the buffer is full, if the recorder was told to block."""
        await self._buffer.room()

    def wait_for_room(self) -> None:
        """See ``room``; in code outside of an event loop."""
        self._buffer.wait_for_room()

    def started(
        self, agent: str, *, agent_id: str, parent_id: str | None = None, **data: Any
    ) -> None:
        """``agent_started``: an agent begins."""
        who = {"agent": agent, "agent_id": agent_id, "parent_id": parent_id}
        self.record("agent_started", {**who, **data})

    def thinking(self, agent: str, *, agent_id: str, thought: str = "", **data: Any) -> None:
        """``agent_thinking``: its model is asked, or has said what it considers."""
        self.record(
            "agent_thinking", {"agent": agent, "agent_id": agent_id, "thought": thought, **data}
        )

    def delta(self, text: str, *, agent_id: str, message_id: str, agent: str | None = None) -> None:
        """``token_delta``, ephemeral: a piece of the model's text. Pieces that wait become one."""
        if not text:
            return
        fields, flags = fitted(
            {"text": text, "agent": agent, "agent_id": agent_id, "message_id": message_id}
        )
        meta = {"flags": flags} if flags else None
        merges = None if flags else f"{agent_id}\n{message_id}"
        self._put(
            Pending(self._context, "token_delta", fields, meta, EPHEMERAL, True, merges=merges)
        )

    def tool_started(
        self, tool: str, args: Any, *, tool_call_id: str, agent_id: str | None = None, **data: Any
    ) -> None:
        """``tool_executing``: a call begins, under an id of its own."""
        with self._lock:
            if len(self._calls) < MAX_OPEN_CALLS:
                self._calls[tool_call_id] = time.monotonic()
        call = {"tool": tool, "args": arguments(args), "tool_call_id": tool_call_id}
        self.record("tool_executing", {**call, "agent_id": agent_id, **data})

    def tool_completed(
        self,
        tool: str,
        result: Any = None,
        *,
        tool_call_id: str,
        agent_id: str | None = None,
        error: Any = None,
        **data: Any,
    ) -> None:
        """``tool_completed``: the call's result, or the ``error`` with which it ended."""
        with self._lock:
            began = self._calls.pop(tool_call_id, None)
        call = {
            "tool": tool,
            "tool_call_id": tool_call_id,
            "result": result,
            "error": None if error is None else described(error),
            "agent_id": agent_id,
            "duration_ms": None if began is None else round((time.monotonic() - began) * 1000, 1),
        }
        self.record("tool_completed", {**call, **data})

    def is_open(self, tool_call_id: str) -> bool:
        """Whether a call has begun and not ended."""
        with self._lock:
            return tool_call_id in self._calls

    def completed(self, agent: str, result: Any = None, *, agent_id: str, **data: Any) -> None:
        """``agent_completed``: the agent is done."""
        self.record(
            "agent_completed", {"agent": agent, "agent_id": agent_id, "result": result, **data}
        )

    def failed(self, agent: str, error: Any, *, agent_id: str, **data: Any) -> None:
        """``agent_error``, critical: the agent ended with an exception, or was cancelled."""
        who = {"agent": agent, "agent_id": agent_id}
        self.record("agent_error", {**who, "error": described(error), **data}, class_=CRITICAL)

    @contextlib.contextmanager
    def agent(self, agent: str, agent_id: str | None = None, **data: Any) -> Iterator[Span]:
        """Record an agent around the code that runs it: its beginning, its end, or its exception,
        which is raised again. Inside of another one it names that as ``parent_id``."""
        span = Span(agent, agent_id or str(uuid4()))
        parent = _current.get()
        self.started(agent, agent_id=span.agent_id, parent_id=parent, **data)
        token = _current.set(span.agent_id)
        try:
            yield span
        except BaseException as error:
            self.failed(agent, error, agent_id=span.agent_id)
            raise
        else:
            self.completed(agent, span.result, agent_id=span.agent_id)
        finally:
            with contextlib.suppress(ValueError):  # left in another context: a generator's end
                _current.reset(token)

    async def keep(self, work: Coroutine[Any, Any, T]) -> T:
        """See ``Recorder.keep``."""
        return await self._keep(work)

    def passed_on(
        self,
        source: AsyncIterator[T],
        on_item: Callable[[T], None],
        on_error: Callable[[BaseException], None] = lambda error: None,
    ) -> AsyncGenerator[T, None]:
        """A stream's items, each after it was recorded. The stream is read to its end also when
        the reader leaves, as a request does whose client has gone.

        Args:
            on_error: records how the stream failed, which is raised to the reader.
        """
        return passed_on(self._keep, source, on_item, on_error, self.room)


def current_agent() -> str | None:
    """The id of the agent around this code, ``None`` outside of one."""
    return _current.get()


def described(error: Any) -> dict[str, str]:
    """An error as events carry it: ``type`` and ``message``."""
    if not isinstance(error, BaseException):
        return {"type": "Error", "message": shortened(str(error), MAX_MESSAGE)}
    try:
        message = str(error)
    except Exception as fault:  # an exception's own text may fail
        message = f"its text fails: {type(fault).__name__}"
    return {"type": type(error).__name__, "message": shortened(message, MAX_MESSAGE)}


def arguments(args: Any) -> Any:
    """A call's arguments as an object, also where a framework has them as JSON text."""
    if isinstance(args, str):
        with contextlib.suppress(ValueError, RecursionError):
            args = json.loads(args) if args.strip() else {}
    return args if isinstance(args, Mapping) else {} if args is None else {"input": args}
