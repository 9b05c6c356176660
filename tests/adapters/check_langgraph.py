"""The LangChain and LangGraph adapter, beside the real libraries and a scripted model."""

from __future__ import annotations

import asyncio
import json
import operator
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langgraph.graph import END, START, StateGraph

from delivery.adapters.langgraph import AgentCallbacks, recorded
from tests.adapters.examples import run_example
from tests.adapters.support import AWAY, calls, events, gateway, run_of, types

QUESTION: Any = {"messages": [("user", "why?")]}


class ScriptedModel(BaseChatModel):
    """Gives the messages of its script, one for each time that it is asked in a conversation."""

    script: list[Any]
    streams: bool = False

    def bind_tools(self, tools, **options):
        return self

    def _next(self, messages):
        asked = sum(one.type == "ai" for one in messages)
        found = self.script[asked]
        if isinstance(found, BaseException):
            raise found
        return found.model_copy()

    def _generate(self, messages, *args, **options):
        return ChatResult(generations=[ChatGeneration(message=self._next(messages))])

    async def _astream(self, messages, *args, run_manager=None, **options):
        message = self._next(messages)
        for piece in [*message.content] or [""]:
            chunk = ChatGenerationChunk(message=AIMessageChunk(piece))
            if run_manager is not None:
                await run_manager.on_llm_new_token(piece, chunk=chunk)
            yield chunk
        yield ChatGenerationChunk(
            message=AIMessageChunk(
                "",
                tool_call_chunks=[
                    {"name": c["name"], "args": json.dumps(c["args"]), "id": c["id"], "index": i}
                    for i, c in enumerate(message.tool_calls)
                ],
            )
        )

    @property
    def _llm_type(self):
        return "scripted"


def asks(*ids: str, tool: str = "search", text: str = "") -> AIMessage:
    called = [{"name": tool, "args": {"query": one}, "id": one} for one in ids]
    return AIMessage(text, tool_calls=called)


def search(query: str) -> str:
    """Look something up."""
    return f"about {query}"


def scripted(*script: Any, tools: Any = (search,), name: str = "researcher") -> Any:
    return create_agent(ScriptedModel(script=list(script)), list(tools), name=name)


async def by_callbacks(agent: Any, run: Any) -> None:
    await agent.ainvoke(QUESTION, config={"callbacks": [AgentCallbacks(run)]})


async def by_blocking_callbacks(agent: Any, run: Any) -> None:
    await asyncio.to_thread(agent.invoke, QUESTION, config={"callbacks": [AgentCallbacks(run)]})


async def by_stream(agent: Any, run: Any) -> None:
    async for _ in recorded(run, agent.astream_events(QUESTION, version="v2")):
        pass


WAYS = [by_callbacks, by_blocking_callbacks, by_stream]
every_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)


@every_way
async def test_an_agent_with_parallel_calls(way):
    agent = scripted(asks("c1", "c2", text="Two look-ups."), AIMessage("done"))
    with gateway() as server:
        with run_of(server.url) as run:
            await way(agent, run)
        named = types(server)
        assert (named[0], named[-1]) == ("agent_started", "agent_completed")
        assert events(server)[-1]["data"]["result"] == "done"
        thoughts = [one["data"]["thought"] for one in events(server, "agent_thinking")]
        assert "Two look-ups." in thoughts
        assert set(calls(server)) == {"c1", "c2"}
        for call, (began, ended) in calls(server).items():
            assert began["args"] == {"query": call}
            assert ended["result"] == f"about {call}"
        assert {one["data"]["agent"] for one in events(server, "agent_started")} == {"researcher"}


@every_way
async def test_nested_agents_keep_apart(way):
    inner = scripted(asks("inner-call"), AIMessage("inner done"), name="librarian")

    def delegate(query: str) -> str:
        """Ask the librarian."""
        return str(inner.invoke(QUESTION)["messages"][-1].content)

    agent = scripted(asks("c1", "c2", tool="delegate"), AIMessage("done"), tools=(delegate,))
    with gateway() as server:
        with run_of(server.url) as run:
            await way(agent, run)
        outer, *inners = [one["data"] for one in events(server, "agent_started")]
        assert [one["agent"] for one in inners] == ["librarian", "librarian"]
        assert {one["parent_id"] for one in inners} == {outer["agent_id"]}
        owners = {
            one["data"]["agent_id"]
            for one in events(server, "tool_executing")
            if one["data"]["tool"] == "search"
        }
        assert owners == {one["agent_id"] for one in inners}
        ended = {one["data"]["agent_id"] for one in events(server, "agent_completed")}
        assert ended == {outer["agent_id"], *owners}


@every_way
async def test_an_exception_of_a_tool_is_an_event_and_is_raised_again(way):
    def search(query: str) -> str:
        """Look something up."""
        raise LookupError("no such page")

    agent = scripted(asks("c1"), AIMessage("done"), tools=(search,))
    with gateway() as server:
        with run_of(server.url) as run, pytest.raises(LookupError, match="no such page"):
            await way(agent, run)
        _, ended = calls(server)["c1"]
        assert ended["error"] == {"type": "LookupError", "message": "no such page"}
        assert types(server)[-1] == "agent_error"
        assert events(server)[-1]["data"]["error"]["type"] == "LookupError"


@every_way
async def test_an_exception_of_the_model_is_an_event_and_is_raised_again(way):
    with gateway() as server:
        with run_of(server.url) as run, pytest.raises(TimeoutError):
            await way(scripted(TimeoutError("model away")), run)
        assert types(server) == ["agent_started", "agent_thinking", "agent_error"]


@every_way
async def test_a_plain_graph_is_one_agent_and_its_nodes_are_none(way):
    class State(TypedDict):
        messages: Annotated[list[Any], operator.add]

    graph: Any = StateGraph(State)
    graph.add_node("think", lambda state: {"messages": ["thought"]})
    graph.add_edge(START, "think")
    graph.add_edge("think", END)
    with gateway() as server:
        with run_of(server.url) as run:
            await way(graph.compile(), run)
        assert types(server) == ["agent_started", "agent_completed"]


async def test_tokens_are_ephemeral_events_of_their_message():
    agent = scripted(AIMessage("streamed"))
    with gateway() as server:
        with run_of(server.url) as run:
            await by_stream(agent, run)
        deltas = events(server, "token_delta")
        assert "".join(one["data"]["text"] for one in deltas) == "streamed"
        assert len({one["data"]["message_id"] for one in deltas}) == 1


async def test_a_tool_may_return_what_json_cannot_express():
    def search(query: str) -> Any:
        """Look something up."""
        return object()

    agent = scripted(asks("c1"), AIMessage("done"), tools=(search,))
    with gateway() as server:
        with run_of(server.url) as run:
            await by_callbacks(agent, run)
        assert "object object" in str(calls(server)["c1"][1]["result"])


async def test_a_reader_that_leaves_ends_no_run():
    with gateway() as server:
        with run_of(server.url) as run:
            agent = scripted(asks("c1"), AIMessage("done"))
            stream = recorded(run, agent.astream_events(QUESTION, version="v2"))
            await anext(stream)
            await stream.aclose()
            while "agent_completed" not in types(server):
                await asyncio.sleep(0.01)
        assert types(server)[-1] == "agent_completed"


@pytest.mark.parametrize("away", AWAY)
@every_way
async def test_a_gateway_that_is_away_changes_no_result(way, away):
    agent = scripted(asks("c1"), AIMessage("done"))
    with AWAY[away]() as url, run_of(url, close_timeout=0.1) as run:
        await way(agent, run)


def test_the_example(tmp_path):
    said, server_types = run_example("langgraph_agent.py", tmp_path)
    assert said == "It is 42."
    assert server_types.count("agent_completed") == 2
    assert server_types.count("tool_completed") == 2


def test_the_example_without_a_gateway(tmp_path):
    assert run_example("langgraph_agent.py", tmp_path, away=True)[0] == "It is 42."
