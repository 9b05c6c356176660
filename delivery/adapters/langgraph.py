"""LangChain and LangGraph: a callback handler, and the stream of ``astream_events``.

::

    graph.invoke({"messages": [("user", "why?")]}, config={"callbacks": [AgentCallbacks(run)]})

    async for event in recorded(run, graph.astream_events(question, version="v2")):
        ...                                    # LangChain's own events, each after it was recorded

Owns: which of LangChain's runs are agents, and what their callbacks mean. Use one of the two for a
run, not both.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from typing import Any

from delivery.adapters.agent_run import AgentRun
from delivery.errors import needs_extra

try:
    from langchain_core.callbacks import BaseCallbackHandler
except ImportError as missing:
    raise needs_extra("delivery.adapters.langgraph needs LangChain", "langgraph") from missing

MAX_OPEN = 100_000
GRAPH = "LangGraph"
"""The name of a graph that was compiled without one."""


class _Agent:
    def __init__(self, name: str, agent_id: str) -> None:
        self.name = name
        self.agent_id = agent_id


class _Runs:
    """LangChain's tree of runs: which agent each is part of. Safe to share between threads."""

    def __init__(self, run: AgentRun, agents: Collection[str]) -> None:
        self.run = run
        self._agents = frozenset(agents)
        self._owner: dict[str, _Agent] = {}  # by the id of a run that has not ended
        self._tools: dict[str, tuple[str, str]] = {}  # by such an id: name and call
        self._lock = threading.Lock()

    def chain_started(
        self, id: str, parent: str | None, name: str, metadata: Mapping[str, Any]
    ) -> None:
        owner = self._of(parent)
        is_agent = name in self._agents or name in (metadata.get("lc_agent_name"), GRAPH)
        if owner is None or is_agent:
            agent = _Agent(name, id)
            self._open(id, agent)
            parent_id = None if owner is None else owner.agent_id
            self.run.started(name, agent_id=id, parent_id=parent_id)
        else:
            self._open(id, owner)

    def chain_ended(self, id: str, output: Any, error: BaseException | None = None) -> None:
        agent = self._close(id)
        if agent is None or agent.agent_id != id:
            return
        if error is not None:
            self.run.failed(agent.name, error, agent_id=id)
        else:
            self.run.completed(agent.name, answer(output), agent_id=id)

    def model_started(
        self, id: str, parent: str | None, name: str, metadata: Mapping[str, Any]
    ) -> None:
        agent = self._of(parent) or self._alone(id, name)
        self._open(id, agent)
        model = metadata.get("ls_model_name") or name
        self.run.thinking(agent.name, agent_id=agent.agent_id, model=model)

    def token(self, id: str, text: str) -> None:
        agent = self._of(id)
        if agent is not None and text:
            self.run.delta(text, agent_id=agent.agent_id, message_id=id)

    def model_ended(self, id: str, message: Any, error: BaseException | None = None) -> None:
        agent = self._close(id)
        if agent is None:
            return
        if agent.agent_id == id:  # a model outside of any chain
            if error is not None:
                self.run.failed(agent.name, error, agent_id=id)
            else:
                self.run.completed(agent.name, text_of(message), agent_id=id)
        elif getattr(message, "tool_calls", None) and (text := text_of(message)):
            self.run.thinking(agent.name, agent_id=agent.agent_id, thought=text)

    def tool_started(
        self, id: str, parent: str | None, name: str, args: Any, call_id: str | None
    ) -> None:
        agent = self._of(parent)
        if agent is not None:
            self._open(id, agent)
        call = call_id or id
        with self._lock:
            if len(self._tools) < MAX_OPEN:
                self._tools[id] = (name, call)
        self.run.tool_started(
            name, args, tool_call_id=call, agent_id=None if agent is None else agent.agent_id
        )

    def tool_ended(self, id: str, output: Any, error: BaseException | str | None = None) -> None:
        agent = self._close(id)
        with self._lock:
            name, call = self._tools.pop(id, ("", id))
        if error is None and getattr(output, "status", None) == "error":
            error = text_of(output)  # a failure that the framework tells the model
        self.run.tool_completed(
            name,
            None if error is not None else _result(output),
            tool_call_id=call,
            agent_id=None if agent is None else agent.agent_id,
            error=error,
        )

    def _of(self, id: str | None) -> _Agent | None:
        with self._lock:
            return None if id is None else self._owner.get(id)

    def _alone(self, id: str, name: str) -> _Agent:
        self.run.started(name, agent_id=id)
        return _Agent(name, id)

    def _open(self, id: str, agent: _Agent) -> None:
        with self._lock:
            if len(self._owner) < MAX_OPEN:
                self._owner[id] = agent

    def _close(self, id: str) -> _Agent | None:
        with self._lock:
            return self._owner.pop(id, None)


class AgentCallbacks(BaseCallbackHandler):
    """Records what LangChain and LangGraph call back: ``config={"callbacks": [...]}``.

    One handler serves one run of one user, with all agents in it, also parallel and nested ones.
    """

    run_inline = True  # nothing here waits, unless the recorder was told to block

    def __init__(self, run: AgentRun, *, agents: Collection[str] = ()) -> None:
        """
        Args:
            run: ``recorder.run(user_id, run_id)``.
            agents: names of runnables that are agents of their own, beside the outermost one,
                those of ``create_agent`` and graphs that were compiled without a name.
        """
        self._runs = _Runs(run, agents)

    def on_chain_start(
        self,
        serialized: Any,
        inputs: Any,
        *,
        run_id: Any,
        parent_run_id: Any = None,
        metadata: Any = None,
        **more: Any,
    ) -> None:
        """A graph, one of its nodes, or any other runnable."""
        name = _name(serialized, more)
        self._runs.chain_started(str(run_id), _id(parent_run_id), name, metadata or {})

    def on_chain_end(self, outputs: Any, *, run_id: Any, **more: Any) -> None:
        """Its end."""
        self._runs.chain_ended(str(run_id), outputs)
        self._runs.run.wait_for_room()

    def on_chain_error(self, error: BaseException, *, run_id: Any, **more: Any) -> None:
        """Its exception, which LangChain raises again."""
        self._runs.chain_ended(str(run_id), None, error)

    def on_chat_model_start(
        self,
        serialized: Any,
        messages: Any,
        *,
        run_id: Any,
        parent_run_id: Any = None,
        metadata: Any = None,
        **more: Any,
    ) -> None:
        """A model is asked."""
        name = _name(serialized, more)
        self._runs.model_started(str(run_id), _id(parent_run_id), name, metadata or {})

    on_llm_start = on_chat_model_start

    def on_llm_new_token(self, token: Any, *, run_id: Any, **more: Any) -> None:
        """A piece of its text."""
        self._runs.token(str(run_id), text_of(token))

    def on_llm_end(self, response: Any, *, run_id: Any, **more: Any) -> None:
        """Its message."""
        generations = getattr(response, "generations", None) or [[None]]
        first = generations[0][0] if generations[0] else None
        self._runs.model_ended(str(run_id), getattr(first, "message", first))
        self._runs.run.wait_for_room()

    def on_llm_error(self, error: BaseException, *, run_id: Any, **more: Any) -> None:
        """Its failure; the agent's own is another callback."""
        self._runs.model_ended(str(run_id), None, error)

    def on_tool_start(
        self,
        serialized: Any,
        input_str: str,
        *,
        run_id: Any,
        parent_run_id: Any = None,
        inputs: Any = None,
        tool_call_id: str | None = None,
        **more: Any,
    ) -> None:
        """A tool is called."""
        name = _name(serialized, more)
        args = input_str if inputs is None else inputs
        self._runs.tool_started(str(run_id), _id(parent_run_id), name, args, tool_call_id)

    def on_tool_end(self, output: Any, *, run_id: Any, **more: Any) -> None:
        """Its result."""
        self._runs.tool_ended(str(run_id), output)
        self._runs.run.wait_for_room()

    def on_tool_error(self, error: BaseException, *, run_id: Any, **more: Any) -> None:
        """Its exception, which LangChain raises again."""
        self._runs.tool_ended(str(run_id), None, error)


def recorded(
    run: AgentRun, events: AsyncIterator[Any], *, agents: Collection[str] = ()
) -> AsyncGenerator[Any, None]:
    """The events of ``astream_events(..., version="v2")``, each after it was recorded. The agent
    runs to its end also when the reader stops.

    Args:
        agents: as of ``AgentCallbacks``.
    """
    stream = _Stream(_Runs(run, agents))
    return run.passed_on(events, stream.take, stream.failed)


class _Stream:
    """Translates the items of ``astream_events``."""

    def __init__(self, runs: _Runs) -> None:
        self._runs = runs
        self._calls: dict[str, list[Any]] = {}  # by a node's run id: calls that it was given
        self._root: tuple[str, str] | None = None

    def take(self, event: Any) -> None:
        if not isinstance(event, Mapping):
            return
        kind, id = str(event.get("event")), str(event.get("run_id"))
        parents = event.get("parent_ids") or [None]
        data: Mapping[str, Any] = event.get("data") or {}
        name = str(event.get("name"))
        runs, parent, metadata = self._runs, parents[-1], event.get("metadata") or {}
        match kind:
            case "on_chain_start":
                self._root = self._root or (id, name)
                self._keep_calls(id, data.get("input"))
                runs.chain_started(id, parent, name, metadata)
            case "on_chain_end":
                self._calls.pop(id, None)
                runs.chain_ended(id, data.get("output"))
            case "on_chat_model_start" | "on_llm_start":
                runs.model_started(id, parent, name, metadata)
            case "on_chat_model_stream" | "on_llm_stream":
                runs.token(id, text_of(data.get("chunk")))
            case "on_chat_model_end" | "on_llm_end":
                runs.model_ended(id, data.get("output"))
            case "on_tool_start":
                args = data.get("input")
                runs.tool_started(id, parent, name, args, self._call_id(parent, name, args))
            case "on_tool_end":
                runs.tool_ended(id, data.get("output"))
            case "on_tool_error":
                runs.tool_ended(id, None, data.get("error") or "the tool failed")

    def failed(self, error: BaseException) -> None:
        """The stream ended with an exception: so did the outermost agent."""
        if self._root is not None:
            self._runs.chain_ended(self._root[0], None, error)

    def _keep_calls(self, id: str, given: Any) -> None:
        """The start of a tool does not tell its call; the node around it was given it."""
        calls = given if isinstance(given, list) else [given]
        found = [one for one in calls if isinstance(one, Mapping) and one.get("id")]
        if found and len(self._calls) < MAX_OPEN:
            self._calls[id] = found

    def _call_id(self, parent: str | None, name: str, args: Any) -> str | None:
        calls = self._calls.get(parent or "", [])
        for call in [one for one in calls if one.get("args") == args] or calls:
            if call.get("name") == name:
                calls.remove(call)
                return str(call["id"])
        return None


def answer(output: Any) -> Any:
    """What an agent gives: the text of its last message, or its output as it is."""
    messages = output.get("messages") if isinstance(output, Mapping) else None
    if isinstance(messages, list) and messages:
        return text_of(messages[-1]) or None
    return text_of(output) if hasattr(output, "content") else output


def text_of(message: Any) -> str:
    """The text of a message or of a piece of one: content blocks of other kinds are left out."""
    content = getattr(message, "content", message)
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_block_text(block) for block in content)
    found = getattr(message, "text", None)
    return found if isinstance(found, str) else ""


def _block_text(block: Any) -> str:
    if isinstance(block, str):
        return block
    text = block.get("text") if isinstance(block, Mapping) else None
    return text if isinstance(text, str) else ""


def _result(output: Any) -> Any:
    content = getattr(output, "content", output)
    return text_of(output) if isinstance(content, list) and hasattr(output, "content") else content


def _name(serialized: Any, more: Mapping[str, Any]) -> str:
    found = more.get("name")
    if not found and isinstance(serialized, Mapping):
        path = serialized.get("id") or [None]
        found = serialized.get("name") or path[-1]
    return str(found or "runnable")


def _id(value: Any) -> str | None:
    return None if value is None else str(value)
