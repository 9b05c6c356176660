"""pydantic-ai: an event stream handler, and a capability that records the whole run.

::

    agent = Agent(model, capabilities=[RecordedRun(run)])       # or agent.run(…, capabilities=[…])
    result = await agent.run("why?")

    result = await agent.run("why?", event_stream_handler=event_stream_handler(run))

Owns: which agent a piece of a stream is from. Never does: change a result.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Coroutine
from contextvars import ContextVar
from typing import Any

from delivery.adapters.agent_run import AgentRun
from delivery.errors import needs_extra

try:
    from pydantic_ai.capabilities import AbstractCapability
    from pydantic_ai.messages import (
        FunctionToolCallEvent,
        FunctionToolResultEvent,
        PartDeltaEvent,
        PartStartEvent,
        TextPart,
        TextPartDelta,
        ThinkingPart,
        ThinkingPartDelta,
    )
except ImportError as missing:
    raise needs_extra("delivery.adapters.pydantic_ai needs pydantic-ai", "pydantic-ai") from missing

_agent: ContextVar[str | None] = ContextVar("delivery_pydantic_agent", default=None)


class _Stream:
    """Records the events of one agent's run."""

    def __init__(self, run: AgentRun, agent: str, agent_id: str) -> None:
        self.run = run
        self.agent = agent
        self.agent_id = agent_id
        self.calls: dict[str, str] = {}  # open ones: the tool by the call's id
        self._messages = 0
        self._thoughts: list[str] = []

    def take(self, event: Any) -> None:
        """Record one event of the stream."""
        if isinstance(event, PartStartEvent):
            self._messages += 1
            self._piece(event.part)
        elif isinstance(event, PartDeltaEvent):
            self._piece(event.delta)
        elif isinstance(event, FunctionToolCallEvent):
            self.tell_thoughts()
            part = event.part
            self.calls[part.tool_call_id] = part.tool_name
            self.run.tool_started(
                part.tool_name, part.args, tool_call_id=part.tool_call_id, agent_id=self.agent_id
            )
        elif isinstance(event, FunctionToolResultEvent):
            self._result(event.part)

    def _piece(self, part: Any) -> None:
        if isinstance(part, TextPart | TextPartDelta):
            text = part.content if isinstance(part, TextPart) else part.content_delta
            message_id = f"{self.agent_id}-{self._messages}"
            self.run.delta(text, agent_id=self.agent_id, message_id=message_id)
        elif isinstance(part, ThinkingPart | ThinkingPartDelta):
            thought = part.content if isinstance(part, ThinkingPart) else part.content_delta
            self._thoughts.append(thought or "")

    def tell_thoughts(self) -> None:
        """Record what the model has thought since the last time."""
        thought, self._thoughts = "".join(self._thoughts), []
        if thought:
            self.run.thinking(self.agent, agent_id=self.agent_id, thought=thought)

    def _result(self, part: Any) -> None:
        tool = self.calls.pop(part.tool_call_id, None) or str(part.tool_name)
        failed = getattr(part, "outcome", "success") != "success"
        self.run.tool_completed(
            tool,
            None if failed else part.content,
            tool_call_id=part.tool_call_id,
            agent_id=self.agent_id,
            error=str(part.content) if failed else None,
        )

    def end(self, error: BaseException | None) -> None:
        """The run is over: calls without an answer got none because of its exception."""
        self.tell_thoughts()
        for call_id, tool in list(self.calls.items()):
            self.run.tool_completed(
                tool, tool_call_id=call_id, agent_id=self.agent_id, error=error or "no result"
            )
        self.calls.clear()


def event_stream_handler(
    run: AgentRun, agent: str = "agent"
) -> Callable[..., Coroutine[Any, Any, None]]:
    """What ``agent.run(event_stream_handler=…)`` takes: records tool calls, thoughts and pieces of
    text. It is not told of the run's beginning, end or exception: put ``with run.agent(name):``
    around the run, or use ``RecordedRun``.

    Args:
        agent: the agent's name where it has none.
    """

    async def handle(context: Any, events: AsyncIterable[Any]) -> None:
        stream = _Stream(run, _name(context, agent), _run_id(context))
        async for event in events:
            stream.take(event)
            await run.room()
        stream.tell_thoughts()  # the handler is called anew for each of the agent's steps

    return handle


class RecordedRun(AbstractCapability[Any]):
    """Records a run from its beginning to its end or exception, which is raised again. Agents that
    a tool runs with a capability of the same run are nested in it."""

    def __init__(self, run: AgentRun) -> None:
        """
        Args:
            run: ``recorder.run(user_id, run_id)``.
        """
        self._run = run
        self._stream: _Stream | None = None

    async def for_run(self, ctx: Any) -> RecordedRun:
        """One of the agent's runs has a state of its own."""
        return RecordedRun(self._run)

    async def wrap_run(self, ctx: Any, *, handler: Callable[[], Any]) -> Any:
        """Around the run."""
        run, name, agent_id = self._run, _name(ctx, "agent"), _run_id(ctx)
        stream = self._stream = _Stream(run, name, agent_id)
        run.started(name, agent_id=agent_id, parent_id=_agent.get())
        token = _agent.set(agent_id)
        try:
            result = await handler()
        except BaseException as error:
            stream.end(error)
            run.failed(name, error, agent_id=agent_id)
            raise
        finally:
            _agent.reset(token)
        stream.end(None)
        run.completed(name, result.output, agent_id=agent_id)
        await run.room()
        return result

    async def before_model_request(self, ctx: Any, request_context: Any) -> Any:
        """The model is asked."""
        model = getattr(getattr(ctx, "model", None), "model_name", None)
        self._run.thinking(_name(ctx, "agent"), agent_id=_run_id(ctx), model=model)
        return request_context

    async def on_event(self, ctx: Any, *, event: Any) -> None:
        """An event of the stream."""
        if self._stream is not None:
            self._stream.take(event)
            await self._run.room()


def _name(context: Any, otherwise: str) -> str:
    return str(getattr(getattr(context, "agent", None), "name", None) or otherwise)


def _run_id(context: Any) -> str:
    return str(getattr(context, "run_id", None) or id(context))
