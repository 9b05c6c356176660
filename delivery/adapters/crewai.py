"""CrewAI: what its event bus tells of a crew.

::

    with recorded(run):                  # or async with
        result = crew.kickoff()

Owns: which run an event of the one bus of a process is part of: it is told by the context in which
the crew was started. Never does: change a result or an exception.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any

from delivery.adapters.agent_run import AgentRun
from delivery.errors import needs_extra

try:
    from crewai.events import crewai_event_bus
    from crewai.events.types.agent_events import (
        AgentExecutionCompletedEvent,
        AgentExecutionErrorEvent,
        AgentExecutionStartedEvent,
        LiteAgentExecutionCompletedEvent,
        LiteAgentExecutionErrorEvent,
        LiteAgentExecutionStartedEvent,
    )
    from crewai.events.types.crew_events import (
        CrewKickoffCompletedEvent,
        CrewKickoffFailedEvent,
        CrewKickoffStartedEvent,
    )
    from crewai.events.types.flow_events import FlowStartedEvent
    from crewai.events.types.llm_events import LLMCallStartedEvent, LLMStreamChunkEvent
    from crewai.events.types.task_events import TaskStartedEvent
    from crewai.events.types.tool_usage_events import (
        ToolUsageErrorEvent,
        ToolUsageFinishedEvent,
        ToolUsageStartedEvent,
    )
except ImportError as missing:
    raise needs_extra("delivery.adapters.crewai needs CrewAI", "crewai") from missing

FLUSH_TIMEOUT = 10.0
"""Seconds for which the end of a run waits for the bus to tell all of it."""
MAX_OPEN = 100_000


class _Agent:
    def __init__(self, name: str, agent_id: str) -> None:
        self.name = name
        self.agent_id = agent_id
        self.error: str | None = None


class recorded:
    """Records the crews, agents and tools that run inside of it, nested and parallel ones too."""

    def __init__(self, run: AgentRun, *, crew: str = "crew") -> None:
        """
        Args:
            run: ``recorder.run(user_id, run_id)``.
            crew: what a crew without a name is called.
        """
        self.run = run
        self._crew = crew
        self._lock = threading.Lock()
        self._owners: dict[str, _Agent] = {}  # by the bus's event: the agent that it is part of
        self._agents: dict[str, _Agent] = {}  # open ones, outermost first
        self._calls: dict[str, tuple[str, _Agent | None]] = {}  # open ones, by their first event
        self._token: Token[recorded | None] | None = None

    # --- what the bus tells

    def on_event(self, source: Any, event: Any) -> None:
        """Record one event of the bus."""
        owner = self._owner(event)
        match event:
            case CrewKickoffStartedEvent():
                name = event.crew_name
                self._start(event, self._crew if name in (None, "crew") else str(name), owner)
            case AgentExecutionStartedEvent():
                self._start(event, str(event.agent.role), owner)
            case LiteAgentExecutionStartedEvent():
                self._start(event, str(event.agent_info.get("role", "agent")), owner)
            case AgentExecutionCompletedEvent() | LiteAgentExecutionCompletedEvent():
                self._complete(event, event.output)
            case CrewKickoffCompletedEvent():
                self._complete(event, getattr(event.output, "raw", event.output))
            case AgentExecutionErrorEvent() | LiteAgentExecutionErrorEvent():
                self._fail(event)
            case CrewKickoffFailedEvent():
                self._fail(event)
            case ToolUsageStartedEvent():
                self._call(event, owner)
            case ToolUsageFinishedEvent():
                failure = event.failure
                self._answer(event, event.output, None if failure is None else str(failure))
            case ToolUsageErrorEvent():
                self._answer(event, None, event.error)
            case LLMCallStartedEvent() if owner is not None:
                self.run.thinking(owner.name, agent_id=owner.agent_id, model=event.model)
            case LLMStreamChunkEvent() if owner is not None:
                self.run.delta(event.chunk, agent_id=owner.agent_id, message_id=event.call_id)

    def _owner(self, event: Any) -> _Agent | None:
        """The agent that an event is part of; what stands below the event is, too."""
        with self._lock:
            owner = self._owners.get(str(event.parent_event_id))
            if owner is not None and len(self._owners) < MAX_OPEN:
                self._owners[event.event_id] = owner
            return owner

    def _start(self, event: Any, name: str, parent: _Agent | None) -> None:
        agent = _Agent(name, event.event_id)
        with self._lock:
            self._owners[event.event_id] = self._agents[event.event_id] = agent
        parent_id = None if parent is None else parent.agent_id
        self.run.started(name, agent_id=agent.agent_id, parent_id=parent_id)

    def _end(self, event: Any) -> _Agent | None:
        with self._lock:
            return self._agents.pop(str(event.started_event_id), None)

    def _complete(self, event: Any, output: Any) -> None:
        agent = self._end(event)
        if agent is not None:
            self.run.completed(agent.name, output, agent_id=agent.agent_id)

    def _fail(self, event: Any) -> None:
        """The bus has the exception's text only: the outermost agent's end waits for itself."""
        with self._lock:
            key = str(event.started_event_id)
            agent = self._agents.get(key)
            if agent is None:
                return
            agent.error = str(event.error)
            if key == next(iter(self._agents)):
                return
            del self._agents[key]
        self.run.failed(agent.name, agent.error, agent_id=agent.agent_id)

    def _call(self, event: Any, owner: _Agent | None) -> None:
        with self._lock:
            self._calls[event.event_id] = (event.tool_name, owner)
        self.run.tool_started(
            event.tool_name,
            event.tool_args,
            tool_call_id=event.event_id,
            agent_id=None if owner is None else owner.agent_id,
        )

    def _answer(self, event: Any, output: Any, error: Any) -> None:
        with self._lock:
            call_id = str(event.started_event_id)
            if call_id not in self._calls:
                same = [id for id, (tool, _) in self._calls.items() if tool == event.tool_name]
                if not same:
                    return  # a tool that failed is told more than once
                call_id = same[-1]
            tool, owner = self._calls.pop(call_id)
        self.run.tool_completed(
            tool,
            None if error is not None else output,
            tool_call_id=call_id,
            agent_id=None if owner is None else owner.agent_id,
            error=error,
        )

    # --- around the crew

    def __enter__(self) -> recorded:
        _listen()
        self._token = _current.set(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave()
        crewai_event_bus.flush(FLUSH_TIMEOUT)
        self._finish(error)

    async def __aenter__(self) -> recorded:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave()
        await asyncio.to_thread(crewai_event_bus.flush, FLUSH_TIMEOUT)
        self._finish(error)

    def _leave(self) -> None:
        token, self._token = self._token, None
        if token is not None:
            with contextlib.suppress(ValueError):  # left in another context
                _current.reset(token)

    def _finish(self, error: BaseException | None) -> None:
        """Calls and agents that are still open ended with the exception."""
        for call_id, (tool, owner) in list(self._calls.items()):
            agent_id = None if owner is None else owner.agent_id
            fault = error or "no result"
            self.run.tool_completed(tool, tool_call_id=call_id, agent_id=agent_id, error=fault)
        for agent in reversed(list(self._agents.values())):
            fault = error or agent.error or "no result"
            self.run.failed(agent.name, fault, agent_id=agent.agent_id)
        self._calls.clear()
        self._agents.clear()


_current: ContextVar[recorded | None] = ContextVar("delivery_crew", default=None)
_listening = threading.Lock()
_is_listening: list[bool] = []

_EVENTS = (
    CrewKickoffStartedEvent,
    CrewKickoffCompletedEvent,
    CrewKickoffFailedEvent,
    TaskStartedEvent,
    FlowStartedEvent,
    AgentExecutionStartedEvent,
    AgentExecutionCompletedEvent,
    AgentExecutionErrorEvent,
    LiteAgentExecutionStartedEvent,
    LiteAgentExecutionCompletedEvent,
    LiteAgentExecutionErrorEvent,
    ToolUsageStartedEvent,
    ToolUsageFinishedEvent,
    ToolUsageErrorEvent,
    LLMCallStartedEvent,
    LLMStreamChunkEvent,
)


def _listen() -> None:
    """Subscribe to the bus, once in a process. Asynchronous handlers run in the order of events and
    in the context of the code that caused them; the bus's threads for others keep no order."""
    with _listening:
        if not _is_listening:
            for kind in _EVENTS:
                crewai_event_bus.on(kind)(_on_event)
            _is_listening.append(True)


async def _on_event(source: Any, event: Any) -> None:
    found = _current.get()
    if found is not None:
        found.on_event(source, event)
        await found.run.room()
