"""The Claude Agent SDK: its message stream, and its hooks.

::

    async for message in recorded(run, query(prompt="why?", options=options)):
        ...  # the SDK's messages, each after it was recorded

    session = Session(run)                             # where hooks shall tell of tools, too
    options = ClaudeAgentOptions(hooks=session.hooks)
    async for message in session.messages(query(prompt="why?", options=options)):
        ...

Owns: which agent a message is from, and that a call which hooks and messages both tell of is one.
Never does: answer a hook: nothing is allowed, denied or changed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from delivery.adapters.agent_run import AgentRun
from delivery.errors import needs_extra

try:
    from claude_agent_sdk import (
        AssistantMessage,
        HookMatcher,
        ResultMessage,
        TextBlock,
        ThinkingBlock,
        ToolResultBlock,
        ToolUseBlock,
        UserMessage,
    )
    from claude_agent_sdk.types import ServerToolResultBlock, ServerToolUseBlock, StreamEvent
except ImportError as missing:
    raise needs_extra(
        "delivery.adapters.claude_agent needs the Claude Agent SDK", "claude-agent"
    ) from missing

_HOOKS = ("PreToolUse", "PostToolUse", "PostToolUseFailure", "SubagentStart", "SubagentStop")
_PROMPTS = ("UserPromptSubmit", "Stop")
MAX_CALLS = 100_000


@dataclass(slots=True)
class _Agent:
    name: str
    agent_id: str


class Session:
    """Records one session: hooks, messages, or both. Not shared between sessions at once."""

    def __init__(self, run: AgentRun, agent: str = "claude") -> None:
        """
        Args:
            run: ``recorder.run(user_id, run_id)``.
            agent: the name of the outermost agent.
        """
        self._run = run
        self._name = agent
        self._main: _Agent | None = None
        self._agents: dict[str, _Agent] = {}  # nested ones, by the call or by the SDK's id
        self._calls: dict[str, tuple[str, Any, str]] = {}  # open ones: tool, input, agent's id
        self._seen: set[str] = set()
        self._has_messages = self._is_failed = False
        self._message_id = ""

    @property
    def hooks(self) -> dict[str, list[HookMatcher]]:
        """What ``ClaudeAgentOptions(hooks=…)`` takes. With your own: put both lists together."""
        return {name: [HookMatcher(hooks=[self._on_hook])] for name in (*_HOOKS, *_PROMPTS)}

    def messages(self, source: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
        """The messages of ``query()`` or ``client.receive_response()``, each after it was recorded.
        The session goes on to its end also when the reader stops."""
        self._has_messages = True
        return self._run.passed_on(source, self._on_message, self._failed)

    # --- messages

    def _on_message(self, message: Any) -> None:
        if isinstance(message, AssistantMessage | UserMessage):
            self._is_failed = False  # a client goes on after a turn that failed
        main = self._started()
        if isinstance(message, AssistantMessage):
            self._on_assistant(message)
        elif isinstance(message, UserMessage) and isinstance(message.content, list):
            for block in message.content:
                if isinstance(block, ToolResultBlock):
                    self._on_result(block.tool_use_id, block.content, bool(block.is_error))
        elif isinstance(message, StreamEvent):
            self._on_piece(message)
        elif isinstance(message, ResultMessage):
            if message.is_error:
                self._failed(message.result or ", ".join(message.errors or []) or message.subtype)
            else:
                output = message.structured_output or message.result
                self._end_nested(None)
                self._main = None
                self._run.completed(main.name, output, agent_id=main.agent_id)

    def _on_assistant(self, message: AssistantMessage) -> None:
        agent = self._agent_of(message.parent_tool_use_id)
        calls = [b for b in message.content if isinstance(b, ToolUseBlock | ServerToolUseBlock)]
        for block in message.content:
            if isinstance(block, ThinkingBlock):
                self._think(agent, block.thinking, message.model)
            elif isinstance(block, TextBlock) and calls:
                self._think(agent, block.text, message.model)
            elif isinstance(block, ToolUseBlock | ServerToolUseBlock):
                self._on_call(block.id, block.name, block.input, agent)
            elif isinstance(block, ServerToolResultBlock | ToolResultBlock):
                self._on_result(block.tool_use_id, block.content, False)

    def _think(self, agent: _Agent, thought: str, model: str) -> None:
        self._run.thinking(agent.name, agent_id=agent.agent_id, thought=thought, model=model)

    def _on_piece(self, message: StreamEvent) -> None:
        event = message.event
        if event.get("type") == "message_start":
            self._message_id = str((event.get("message") or {}).get("id") or message.uuid)
        delta = event.get("delta")
        if isinstance(delta, Mapping) and delta.get("type") == "text_delta":
            agent = self._agent_of(message.parent_tool_use_id)
            message_id = self._message_id or message.uuid
            self._run.delta(
                str(delta.get("text") or ""), agent_id=agent.agent_id, message_id=message_id
            )

    # --- hooks

    async def _on_hook(self, given: Any, tool_use_id: str | None, context: Any) -> dict[str, Any]:
        name, agent = given.get("hook_event_name"), self._agent_of_hook(given)
        call_id = str(given.get("tool_use_id") or tool_use_id or uuid4())
        if name == "PreToolUse":
            self._on_call(call_id, str(given["tool_name"]), given.get("tool_input"), agent)
        elif name == "PostToolUse":
            self._on_result(call_id, given.get("tool_response"), False)
        elif name == "PostToolUseFailure":
            self._on_result(call_id, given.get("error"), True)
        elif not self._has_messages:  # messages tell of agents themselves
            self._on_agent_hook(str(name), given)
        await self._run.room()
        return {}

    def _agent_of_hook(self, given: Mapping[str, Any]) -> _Agent:
        found = self._agents.get(str(given.get("agent_id")))
        return found or self._started()

    def _on_agent_hook(self, name: str, given: Mapping[str, Any]) -> None:
        nested = str(given.get("agent_id"))
        if name == "SubagentStart":
            self._start_nested(nested, str(given.get("agent_type") or "agent"))
        elif name == "SubagentStop" and (agent := self._agents.pop(nested, None)) is not None:
            self._run.completed(agent.name, None, agent_id=agent.agent_id)
        elif name == "Stop" and (main := self._main) is not None:
            self._main = None
            self._run.completed(main.name, None, agent_id=main.agent_id)

    # --- both

    def _started(self) -> _Agent:
        if self._main is None:
            self._main = _Agent(self._name, str(uuid4()))
            self._run.started(self._name, agent_id=self._main.agent_id)
        return self._main

    def _agent_of(self, call_id: str | None) -> _Agent:
        """The agent that runs inside of a call; the outermost one for ``None``."""
        if call_id is None:
            return self._started()
        found = self._agents.get(call_id)
        if found is None:
            _, given, _ = self._calls.get(call_id, ("", None, ""))
            kind = given.get("subagent_type") if isinstance(given, Mapping) else None
            found = self._start_nested(call_id, str(kind or "agent"))
        return found

    def _start_nested(self, key: str, name: str) -> _Agent:
        parent = self._calls[key][2] if key in self._calls else self._started().agent_id
        agent = self._agents[key] = _Agent(name, str(uuid4()))
        self._run.started(name, agent_id=agent.agent_id, parent_id=parent)
        return agent

    def _on_call(self, call_id: str, tool: str, given: Any, agent: _Agent) -> None:
        if call_id in self._seen:
            return
        if len(self._seen) < MAX_CALLS:
            self._seen.add(call_id)
        self._calls[call_id] = (tool, given, agent.agent_id)
        self._run.tool_started(tool, given, tool_call_id=call_id, agent_id=agent.agent_id)

    def _on_result(self, call_id: str, content: Any, is_error: bool) -> None:
        call = self._calls.pop(call_id, None)
        if call is None:
            return  # told before
        nested = self._agents.pop(call_id, None)
        if nested is not None and is_error:
            self._run.failed(nested.name, _text(content), agent_id=nested.agent_id)
        elif nested is not None:
            self._run.completed(nested.name, _result(content), agent_id=nested.agent_id)
        self._run.tool_completed(
            call[0],
            None if is_error else _result(content),
            tool_call_id=call_id,
            agent_id=call[2],
            error=_text(content) if is_error else None,
        )

    def _failed(self, error: BaseException | str) -> None:
        """The session ended with an exception, or said that it failed."""
        if self._is_failed:
            return  # the SDK also raises what its last message said
        self._is_failed = True
        main, self._main = self._started(), None
        self._end_nested(error)
        self._run.failed(main.name, error, agent_id=main.agent_id)

    def _end_nested(self, error: BaseException | str | None) -> None:
        for call_id, (tool, _, agent_id) in list(self._calls.items()):
            fault = error or "no result"
            self._run.tool_completed(tool, tool_call_id=call_id, agent_id=agent_id, error=fault)
        for agent in list(self._agents.values()):
            self._run.failed(agent.name, error or "no result", agent_id=agent.agent_id)
        self._calls.clear()
        self._agents.clear()


def recorded(
    run: AgentRun, messages: AsyncIterator[Any], *, agent: str = "claude"
) -> AsyncGenerator[Any, None]:
    """See ``Session.messages``."""
    return Session(run, agent).messages(messages)


def _result(content: Any) -> Any:
    if isinstance(content, list) and all(isinstance(b, Mapping) and "text" in b for b in content):
        return _text(content)
    return content


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(b.get("text", "")) for b in content if isinstance(b, Mapping))
    return str(content)
