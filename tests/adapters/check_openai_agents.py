"""The adapter of the OpenAI Agents SDK, beside the real SDK and its scripted model."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from agents import Agent, ModelBehaviorError, function_tool, set_tracing_disabled
from agents.exceptions import UserError
from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call

from delivery.adapters.openai_agents import AgentHooks, recorded, recorded_stream
from tests.adapters.examples import run_example
from tests.adapters.support import AWAY, calls, events, gateway, run_of, types

set_tracing_disabled(True)


@function_tool
def search(query: str) -> str:
    """Look something up."""
    return f"about {query}"


@function_tool(failure_error_function=None)
def broken(query: str) -> str:
    """Look something up."""
    raise LookupError("no such page")


def asks(*ids: str, tool: str = "search") -> list[Any]:
    return [function_call(tool, {"query": one}, call_id=one) for one in ids]


def scripted(*steps: Any, tools: Any = (search,), name: str = "researcher", **more: Any) -> Agent:
    return Agent(name=name, model=ScriptedModel(list(steps)), tools=list(tools), **more)


async def by_run(run, agent, **options):
    return (await recorded(run, agent, "why?", **options)).final_output


async def by_stream(run, agent, **options):
    async for _ in recorded_stream(run, agent, "why?", **options):
        pass


every_way = pytest.mark.parametrize("way", [by_run, by_stream], ids=lambda way: way.__name__)


@every_way
async def test_an_agent_with_parallel_calls(way):
    with gateway() as server:
        with run_of(server.url) as run:
            await way(run, scripted(asks("c1", "c2"), [assistant_message("done")]))
        named = types(server)
        assert (named[0], named[-1]) == ("agent_started", "agent_completed")
        assert events(server)[-1]["data"]["result"] == "done"
        assert set(calls(server)) == {"c1", "c2"}
        for call, (began, ended) in calls(server).items():
            assert began["args"] == {"query": call}
            assert ended["result"] == f"about {call}"
        assert len({one["data"]["agent_id"] for one in events(server)}) == 1


@every_way
async def test_nested_agents_keep_apart(way):
    with gateway() as server:
        with run_of(server.url) as run:
            hooks = AgentHooks(run)
            one, two = (
                scripted(asks(f"{n}-call"), [assistant_message(n)], name=n).as_tool(
                    f"ask_{n}", "ask", hooks=hooks
                )
                for n in ("one", "two")
            )
            step = [
                function_call("ask_one", {"input": "x"}, call_id="c1"),
                function_call("ask_two", {"input": "x"}, call_id="c2"),
            ]
            await way(
                run, scripted(step, [assistant_message("done")], tools=(one, two)), hooks=hooks
            )
        outer, *inners = [one["data"] for one in events(server, "agent_started")]
        assert {one["parent_id"] for one in inners} == {outer["agent_id"]}
        ids = {one["agent"]: one["agent_id"] for one in inners}
        assert set(ids) == {"one", "two"}
        assert calls(server)["one-call"][0]["agent_id"] == ids["one"]
        assert calls(server)["two-call"][0]["agent_id"] == ids["two"]
        ended = {one["data"]["agent_id"] for one in events(server, "agent_completed")}
        assert ended == {outer["agent_id"], *ids.values()}


@every_way
async def test_a_handoff_ends_one_agent_and_starts_another(way):
    writer = scripted([assistant_message("written")], name="writer")
    step = [function_call("transfer_to_writer", {}, call_id="h1")]
    with gateway() as server:
        with run_of(server.url) as run:
            await way(run, scripted(step, handoffs=[writer]))
        started = [one["data"]["agent"] for one in events(server, "agent_started")]
        assert started == ["researcher", "writer"]
        first, last = events(server, "agent_completed")
        assert first["data"]["handed_off_to"] == "writer"
        assert last["data"]["result"] == "written"


@every_way
async def test_an_exception_of_a_tool_is_an_event_and_is_raised_again(way):
    agent = scripted(asks("c1", tool="broken"), tools=(broken,))
    with gateway() as server:
        with run_of(server.url) as run, pytest.raises((LookupError, UserError)):
            await way(run, agent)
        _, ended = calls(server)["c1"]
        assert "no such page" in ended["error"]["message"]
        assert types(server)[-1] == "agent_error"


@every_way
async def test_an_exception_of_the_model_is_an_event_and_is_raised_again(way):
    agent = scripted(ModelStep.raise_error(ModelBehaviorError("model away")))
    with gateway() as server:
        with run_of(server.url) as run, pytest.raises(ModelBehaviorError):
            await way(run, agent)
        assert types(server) == ["agent_started", "agent_thinking", "agent_error"]


async def test_the_texts_pieces_are_ephemeral_events():
    with gateway() as server:
        with run_of(server.url) as run:
            await by_stream(run, scripted([assistant_message("streamed")]))
        deltas = events(server, "token_delta")
        assert "".join(one["data"]["text"] for one in deltas) == "streamed"


async def test_a_caller_that_goes_away_ends_no_run():
    go = asyncio.Event()

    @function_tool
    async def search(query: str) -> str:
        """Look something up."""
        await go.wait()
        return "late"

    with gateway() as server:
        with run_of(server.url) as run:
            agent = scripted(asks("c1"), [assistant_message("done")], tools=(search,))
            request = asyncio.create_task(by_run(run, agent))
            while "tool_executing" not in types(server):
                await asyncio.sleep(0.01)
            request.cancel()
            await asyncio.wait([request])
            go.set()
            while "agent_completed" not in types(server):
                await asyncio.sleep(0.01)
        assert types(server)[-1] == "agent_completed"


@pytest.mark.parametrize("away", AWAY)
async def test_a_gateway_that_is_away_changes_no_result(away):
    with AWAY[away]() as url, run_of(url, close_timeout=0.1) as run:
        assert await by_run(run, scripted(asks("c1"), [assistant_message("done")])) == "done"


def test_the_example(tmp_path):
    said, accepted = run_example("openai_agent.py", tmp_path)
    assert said == "It is 42."
    assert accepted.count("agent_completed") == accepted.count("tool_completed") == 2


def test_the_example_without_a_gateway(tmp_path):
    assert run_example("openai_agent.py", tmp_path, away=True)[0] == "It is 42."
