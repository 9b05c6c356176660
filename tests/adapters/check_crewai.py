"""The adapter of CrewAI, beside the real library and a scripted model."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

os.environ |= {"CREWAI_DISABLE_TELEMETRY": "true", "CREWAI_TRACING_ENABLED": "false"}

from crewai import Agent, BaseLLM, Crew, Task
from crewai.tools import tool

from delivery.adapters.crewai import recorded
from tests.adapters.examples import run_example
from tests.adapters.support import AWAY, calls, events, gateway, run_of, types


@pytest.fixture(autouse=True)
def storage(tmp_path, monkeypatch):
    """A crew keeps its files in the home of its user."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


class ScriptedModel(BaseLLM):
    """Calls a tool once, then answers; or raises."""

    tool: str = "search"
    error: Any = None

    def call(self, messages, *args, **options):
        if self.error is not None:
            raise self.error
        if len(messages) > 2:  # more than the system's and the task's: the tool has answered
            return "Thought: I know it.\nFinal Answer: done"
        return f'Thought: hm\nAction: {self.tool}\nAction Input: {{"query": "x"}}'

    def supports_function_calling(self):
        return False


@tool("search")
def search(query: str) -> str:
    """Look something up."""
    return f"about {query}"


def crew_of(name: str = "library", *, role: str = "researcher", **given: Any) -> Crew:
    found = given.pop("found", search)
    model = ScriptedModel(model="scripted", tool=found.name, **given)
    agent = Agent(role=role, goal="know", backstory="curious", llm=model, tools=[found])
    task = Task(description="Why?", expected_output="an answer", agent=agent)
    return Crew(name=name, agents=[agent], tasks=[task])


def test_a_crew_becomes_events():
    with gateway() as server:
        with run_of(server.url) as run, recorded(run):
            assert crew_of().kickoff().raw == "done"
        assert [one for one in types(server) if one != "agent_thinking"] == [
            *["agent_started"] * 2,
            *["tool_executing", "tool_completed"],
            *["agent_completed"] * 2,
        ]
        crew, agent = [one["data"] for one in events(server, "agent_started")]
        assert (crew["agent"], agent["agent"]) == ("library", "researcher")
        assert agent["parent_id"] == crew["agent_id"]
        ((began, ended),) = calls(server).values()
        assert (began["args"], ended["result"]) == ({"query": "x"}, "about x")
        assert began["agent_id"] == agent["agent_id"]
        assert events(server)[-1]["data"]["result"] == "done"


async def test_crews_at_once_are_told_apart_also_by_run():
    async def work(run, name):
        async with recorded(run):
            await crew_of(name).kickoff_async()

    with gateway() as server:
        with run_of(server.url) as one, run_of(server.url) as two:
            two._context = ("u2", "r2", None)
            await asyncio.gather(work(one, "first"), work(two, "second"))
        for user, name in (("u1", "first"), ("u2", "second")):
            mine = [e for e in events(server, "agent_started") if e["user_id"] == user]
            assert [e["data"]["agent"] for e in mine] == [name, "researcher"]
            ids = {e["data"]["agent_id"] for e in events(server) if e["user_id"] == user}
            assert ids == {e["data"]["agent_id"] for e in mine}


def test_nested_crews_keep_apart():
    @tool("delegate")
    def delegate(query: str) -> str:
        """Ask others."""
        return str(crew_of("inner", role="librarian").kickoff().raw)

    with gateway() as server:
        with run_of(server.url) as run, recorded(run):
            crew_of("outer", found=delegate).kickoff()
        parents = {e["data"]["agent_id"]: e["data"] for e in events(server, "agent_started")}
        (librarian,) = [one for one in parents.values() if one["agent"] == "librarian"]
        inner = parents[librarian["parent_id"]]
        assert inner["agent"] == "inner"
        assert parents[inner["parent_id"]]["agent"] == "researcher"


def test_an_exception_of_a_tool_is_an_answer_with_an_error():
    @tool("search")
    def broken(query: str) -> str:
        """Look something up."""
        raise LookupError("no such page")

    with gateway() as server:
        with run_of(server.url) as run, recorded(run):
            crew_of(found=broken).kickoff()
        answers = [one["data"] for one in events(server, "tool_completed")]
        assert answers
        assert all("no such page" in str(one) for one in answers)
        assert {len(pair) for pair in calls(server).values()} == {2}


def test_an_exception_of_the_model_is_an_event_and_is_raised_again():
    with gateway() as server:
        with run_of(server.url) as run, pytest.raises(Exception, match="model away"), recorded(run):
            crew_of(error=TimeoutError("model away")).kickoff()
        failed = events(server, "agent_error")
        assert len(failed) == len(events(server, "agent_started"))
        assert "model away" in failed[-1]["data"]["error"]["message"]
        assert "agent_completed" not in types(server)


def test_without_a_run_nothing_is_recorded():
    with gateway() as server:
        with run_of(server.url) as run:
            with recorded(run):
                pass
            crew_of().kickoff()
        assert events(server) == []


@pytest.mark.parametrize("away", AWAY)
def test_a_gateway_that_is_away_changes_no_result(away):
    with AWAY[away]() as url, run_of(url, close_timeout=0.1) as run, recorded(run):
        assert crew_of().kickoff().raw == "done"


def test_the_example(tmp_path):
    said, accepted = run_example("crewai_crew.py", tmp_path)
    assert said == "It is 42."
    assert accepted.count("agent_completed") == 2
    assert accepted.count("tool_completed") == 1


def test_the_example_without_a_gateway(tmp_path):
    assert run_example("crewai_crew.py", tmp_path, away=True)[0] == "It is 42."
