"""The OpenAI Agents SDK: run hooks, and the stream of a run.

::

    result = await recorded(run, agent, "why?")              # Runner.run, recorded
    async for event in recorded_stream(run, agent, "why?"):  # Runner.run_streamed, recorded
        ...

    agent.as_tool("ask", "…", hooks=hooks)                   # the same hooks: a nested agent

Owns: which of the SDK's runs an event is part of. Never does: change a result or an exception.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator
from typing import Any
from uuid import uuid4

from delivery.adapters.agent_run import AgentRun
from delivery.errors import needs_extra

try:
    from agents import RunHooks, Runner
except ImportError as missing:
    raise needs_extra(
        "delivery.adapters.openai_agents needs the OpenAI Agents SDK", "openai-agents"
    ) from missing


class _Agent:
    """One agent within one of the SDK's runs, from its start to its end or hand-off."""

    def __init__(self, name: str, caller: str | None) -> None:
        self.name = name
        self.agent_id = str(uuid4())
        self.caller = caller  # the tool call inside of which it runs


class AgentHooks(RunHooks):
    """Records what the SDK calls back: ``Runner.run(agent, …, hooks=AgentHooks(run))``.

    One object serves one run of one user, with nested agents in it. The SDK tells hooks of no
    exception: use ``recorded``, or call ``failed``.
    """

    def __init__(self, run: AgentRun) -> None:
        """
        Args:
            run: ``recorder.run(user_id, run_id)``.
        """
        self._run = run
        self._lock = threading.Lock()
        self._agents: dict[int, _Agent] = {}  # by the SDK's run
        self._pending: dict[int, str] = {}  # agents whose caller is not known yet
        self._calls: dict[str, tuple[str, _Agent | None]] = {}  # open ones: tool, agent
        self._kept: dict[int, object] = {}  # what the keys are made of, so that none is used twice

    async def on_agent_start(self, context: Any, agent: Any) -> None:
        """An agent begins. Whether a tool has called it is known when its model is asked."""
        key = self._key(context)
        with self._lock:
            is_outermost = not self._calls
            if not is_outermost:
                self._pending[key] = str(agent.name)
        if is_outermost:
            self._start(key, str(agent.name), None)
        await self._run.room()

    async def on_llm_start(self, context: Any, agent: Any, *_: Any) -> None:
        """The model is asked."""
        key = self._key(context)
        with self._lock:
            name = self._pending.pop(key, None)
        if name is not None:
            self._start(key, name, getattr(context, "tool_call_id", None))
        found = self._agents.get(key)
        if found is not None:
            model = getattr(agent, "model", None)
            name = model if isinstance(model, str) else getattr(model, "model", None)
            self._run.thinking(found.name, agent_id=found.agent_id, model=name)

    async def on_llm_end(self, context: Any, agent: Any, response: Any) -> None:
        """The model's message: its text beside tool calls is a thought."""
        found = self._agents.get(self._key(context))
        output = getattr(response, "output", None) or []
        texts = [_text(item) for item in output if getattr(item, "type", "") == "message"]
        has_calls = any(str(getattr(item, "type", "")).endswith("_call") for item in output)
        if found is not None and has_calls and (thought := "".join(texts)):
            self._run.thinking(found.name, agent_id=found.agent_id, thought=thought)
        await self._run.room()

    async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
        """A tool is called."""
        call_id = getattr(context, "tool_call_id", None) or f"{tool.name}-{id(context)}"
        found = self._agents.get(self._key(context))
        with self._lock:
            self._calls[call_id] = (str(tool.name), found)
        self._run.tool_started(
            str(tool.name),
            getattr(context, "tool_arguments", None),
            tool_call_id=call_id,
            agent_id=None if found is None else found.agent_id,
        )

    async def on_tool_end(self, context: Any, agent: Any, tool: Any, result: Any) -> None:
        """Its result."""
        call_id = getattr(context, "tool_call_id", None) or f"{tool.name}-{id(context)}"
        self._end_agents_of(call_id)
        self._end_call(call_id, result, None)
        await self._run.room()

    async def on_handoff(self, context: Any, from_agent: Any, to_agent: Any) -> None:
        """Another agent goes on: this one is done."""
        found = self._end(self._key(context))
        if found is not None:
            self._run.completed(
                found.name, None, agent_id=found.agent_id, handed_off_to=str(to_agent.name)
            )

    async def on_agent_end(self, context: Any, agent: Any, output: Any) -> None:
        """The agent's result."""
        found = self._end(self._key(context))
        if found is not None:
            self._run.completed(found.name, output, agent_id=found.agent_id)
        await self._run.room()

    def failed(self, error: BaseException) -> None:
        """Record that the run ended with an exception: for calls and agents that are open."""
        for call_id in list(self._calls):
            self._end_call(call_id, None, error)
        for key in list(reversed(self._agents)):
            found = self._end(key)
            if found is not None:
                self._run.failed(found.name, error, agent_id=found.agent_id)

    def delta(self, text: str, message_id: str) -> None:
        """A piece of the outermost agent's text, of a streamed run."""
        found = next(iter(self._agents.values()), None)
        if found is not None:
            self._run.delta(text, agent_id=found.agent_id, message_id=message_id)

    def _key(self, context: Any) -> int:
        """One of the SDK's runs: its contexts differ from hook to hook, and share this object."""
        shared = getattr(context, "_approvals", None)
        shared = getattr(context, "usage", context) if shared is None else shared
        with self._lock:
            self._kept.setdefault(id(shared), shared)
        return id(shared)

    def _start(self, key: int, name: str, caller: str | None) -> None:
        agent = _Agent(name, caller)
        with self._lock:
            parent = self._calls[caller][1] if caller in self._calls else None
            self._agents[key] = agent
        parent_id = None if parent is None else parent.agent_id
        self._run.started(name, agent_id=agent.agent_id, parent_id=parent_id)

    def _end(self, key: int) -> _Agent | None:
        with self._lock:
            return self._agents.pop(key, None)

    def _end_call(self, call_id: str, result: Any, error: BaseException | None) -> None:
        with self._lock:
            tool, agent = self._calls.pop(call_id, ("", None))
        agent_id = None if agent is None else agent.agent_id
        self._run.tool_completed(tool, result, tool_call_id=call_id, agent_id=agent_id, error=error)

    def _end_agents_of(self, call_id: str) -> None:
        """A nested agent that failed tells no hook, only its tool has an answer then."""
        for key, agent in list(self._agents.items()):
            if agent.caller == call_id and self._end(key) is not None:
                error = "the agent ended without a result"
                self._run.failed(agent.name, error, agent_id=agent.agent_id)


async def recorded(run: AgentRun, agent: Any, input: Any, **options: Any) -> Any:
    """``Runner.run`` with everything recorded, its exception too. A caller that is cancelled leaves
    the agent running.

    Args:
        options: of ``Runner.run``; ``hooks``, an ``AgentHooks`` that nested agents have, too.
    """
    hooks = options.pop("hooks", None) or AgentHooks(run)

    async def work() -> Any:
        try:
            return await Runner.run(agent, input, hooks=hooks, **options)
        except BaseException as error:
            hooks.failed(error)
            raise

    return await run.keep(work())


def recorded_stream(
    run: AgentRun, agent: Any, input: Any, **options: Any
) -> AsyncGenerator[Any, None]:
    """The events of ``Runner.run_streamed``, each after it was recorded, with its text's pieces.
    The agent runs to its end also when the reader stops. Arguments as of ``recorded``."""
    hooks = options.pop("hooks", None) or AgentHooks(run)
    result = Runner.run_streamed(agent, input, hooks=hooks, **options)

    def on_event(event: Any) -> None:
        data: Any = getattr(event, "data", None)
        if getattr(data, "type", None) == "response.output_text.delta":
            hooks.delta(str(data.delta), str(data.item_id))

    return run.passed_on(result.stream_events(), on_event, hooks.failed)


def _text(message: Any) -> str:
    parts = getattr(message, "content", None) or []
    return "".join(str(getattr(part, "text", "") or "") for part in parts)
