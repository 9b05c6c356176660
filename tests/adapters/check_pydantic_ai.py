"""The adapter of pydantic-ai, beside the real library and its scripted models."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.models.function import DeltaThinkingPart, DeltaToolCall, FunctionModel
from pydantic_ai.models.test import TestModel

from delivery.adapters.pydantic_ai import RecordedRun, event_stream_handler
from tests.adapters.examples import run_example
from tests.adapters.support import AWAY, calls, events, gateway, run_of, types

TestModel.__test__ = False  # no test


def search(query: str) -> str:
    """Look something up."""
    return f"about {query}"


def asks(*ids: str, tool: str = "search") -> dict[int, Any]:
    return {
        index: DeltaToolCall(tool, json.dumps({"query": one}), tool_call_id=one)
        for index, one in enumerate(ids)
    }


def scripted(*steps: Any, tools: Any = (search,), name: str = "researcher") -> Agent:
    async def stream(messages, info):
        step = steps[len(messages) // 2]
        if isinstance(step, BaseException):
            raise step
        for piece in step if isinstance(step, list | str) else [step]:
            yield piece

    return Agent(FunctionModel(stream_function=stream), name=name, tools=list(tools))


async def by_capability(run, agent):
    return (await agent.run("why?", capabilities=[RecordedRun(run)])).output


async def by_handler(run, agent):
    with run.agent(agent.name) as span:
        handler = event_stream_handler(run)
        span.result = (await agent.run("why?", event_stream_handler=handler)).output
    return span.result


every_way = pytest.mark.parametrize(
    "way", [by_capability, by_handler], ids=lambda way: way.__name__
)


@every_way
async def test_an_agent_with_parallel_calls(way):
    thought = {0: DeltaThinkingPart(content="Two look-ups.")}
    script = [thought, {index + 1: call for index, call in asks("c1", "c2").items()}]
    with gateway() as server:
        with run_of(server.url) as run:
            assert await way(run, scripted(script, "done")) == "done"
        named = types(server)
        assert (named[0], named[-1]) == ("agent_started", "agent_completed")
        assert events(server)[-1]["data"]["result"] == "done"
        assert "Two look-ups." in [
            one["data"]["thought"] for one in events(server, "agent_thinking")
        ]
        assert set(calls(server)) == {"c1", "c2"}
        for call, (began, ended) in calls(server).items():
            assert began["args"] == {"query": call}
            assert ended["result"] == f"about {call}"
        deltas = events(server, "token_delta")
        assert "".join(one["data"]["text"] for one in deltas) == "done"


async def test_nested_agents_keep_apart():
    with gateway() as server:
        with run_of(server.url) as run:
            inner = scripted(asks("inner-call"), "inner done", name="librarian")

            async def delegate(query: str) -> str:
                """Ask the librarian."""
                return str(await by_capability(run, inner))

            agent = scripted(asks("c1", "c2", tool="delegate"), "done", tools=(delegate,))
            await by_capability(run, agent)
        outer, *inners = [one["data"] for one in events(server, "agent_started")]
        assert [one["agent"] for one in inners] == ["librarian", "librarian"]
        assert {one["parent_id"] for one in inners} == {outer["agent_id"]}
        ids = {one["agent_id"] for one in inners}
        assert len(ids) == 2
        of_search = [
            e["data"] for e in events(server, "tool_executing") if e["data"]["tool"] == "search"
        ]
        assert {one["agent_id"] for one in of_search} == ids
        ended = {one["data"]["agent_id"] for one in events(server, "agent_completed")}
        assert ended == {outer["agent_id"], *ids}


async def test_one_capability_of_an_agent_serves_runs_at_once():
    with gateway() as server:
        with run_of(server.url) as run:
            agent = Agent(TestModel(), tools=[search], capabilities=[RecordedRun(run)])
            await asyncio.gather(agent.run("one"), agent.run("two"))
        started = {one["data"]["agent_id"] for one in events(server, "agent_started")}
        assert len(started) == 2
        assert {one["data"]["agent_id"] for one in events(server, "agent_completed")} == started
        assert {one["data"]["agent_id"] for one in events(server, "tool_completed")} == started


@every_way
async def test_an_exception_of_a_tool_is_an_event_and_is_raised_again(way):
    def search(query: str) -> str:
        """Look something up."""
        raise LookupError("no such page")

    with gateway() as server:
        with run_of(server.url) as run, pytest.raises(LookupError):
            await way(run, scripted(asks("c1"), "done", tools=(search,)))
        assert types(server)[-1] == "agent_error"
        assert events(server)[-1]["data"]["error"]["message"] == "no such page"
        if way is by_capability:
            assert calls(server)["c1"][1]["error"]["type"] == "LookupError"


@every_way
async def test_an_exception_of_the_model_is_an_event_and_is_raised_again(way):
    with gateway() as server:
        with run_of(server.url) as run, pytest.raises(TimeoutError):
            await way(run, scripted(TimeoutError("model away")))
        assert types(server)[0] == "agent_started"
        assert types(server)[-1] == "agent_error"


async def test_a_caller_that_goes_away_ends_no_run():
    go = asyncio.Event()

    async def search(query: str) -> str:
        """Look something up."""
        await go.wait()
        return "late"

    with gateway() as server:
        with run_of(server.url) as run:
            agent = scripted(asks("c1"), "done", tools=(search,))
            request = asyncio.create_task(run.keep(by_capability(run, agent)))
            while "tool_executing" not in types(server):
                await asyncio.sleep(0.01)
            request.cancel()
            await asyncio.wait([request])
            go.set()
            while "agent_completed" not in types(server):
                await asyncio.sleep(0.01)
        assert types(server)[-1] == "agent_completed"


@pytest.mark.parametrize("away", AWAY)
@every_way
async def test_a_gateway_that_is_away_changes_no_result(way, away):
    with AWAY[away]() as url, run_of(url, close_timeout=0.1) as run:
        assert await way(run, scripted(asks("c1"), "done")) == "done"


def test_the_example(tmp_path):
    said, accepted = run_example("pydantic_agent.py", tmp_path)
    assert said == "It is 42."
    assert accepted.count("agent_completed") == accepted.count("tool_completed") == 2


def test_the_example_without_a_gateway(tmp_path):
    assert run_example("pydantic_agent.py", tmp_path, away=True)[0] == "It is 42."
