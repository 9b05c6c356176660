"""The adapter of the Claude Agent SDK, beside the real SDK and a scripted transport."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from claude_agent_sdk import ClaudeAgentOptions, ResultMessage, Transport, query

from delivery.adapters.claude_agent import Session, recorded
from tests.adapters.examples import run_example
from tests.adapters.support import AWAY, calls, events, gateway, run_of, types

END = {"duration_ms": 1, "duration_api_ms": 1, "num_turns": 2, "session_id": "s1"}
DONE = {"type": "result", "subtype": "success", "is_error": False, "result": "done", **END}


def said(*content: Any, parent: str | None = None) -> dict[str, Any]:
    message = {"model": "scripted", "content": list(content)}
    return {"type": "assistant", "message": message, "parent_tool_use_id": parent}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def asks(id: str, tool: str = "Search", **given: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": tool, "input": given or {"query": id}}


def answers(id: str, content: Any, *, parent: str | None = None, is_error: bool = False):
    block = {"type": "tool_result", "tool_use_id": id, "content": content, "is_error": is_error}
    return {"type": "user", "message": {"content": [block]}, "parent_tool_use_id": parent}


def hook(name: str, **given: Any) -> dict[str, Any]:
    return {"type": "hook", "name": name, "input": {"hook_event_name": name, **given}}


class ScriptedTransport(Transport):
    """Speaks Claude Code's side: answers requests, calls hooks, and says what the script has."""

    def __init__(self, *script: Any) -> None:
        self._script = script
        self._out: asyncio.Queue[Any] = asyncio.Queue()
        self._hooks: dict[str, str] = {}
        self._answered: asyncio.Event = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def connect(self) -> None: ...

    async def write(self, data: str) -> None:
        message = json.loads(data)
        if message["type"] == "control_request":
            for name, matchers in (message["request"].get("hooks") or {}).items():
                self._hooks[name] = matchers[0]["hookCallbackIds"][0]
            answer = {"subtype": "success", "request_id": message["request_id"], "response": {}}
            self._out.put_nowait({"type": "control_response", "response": answer})
        elif message["type"] == "control_response":
            assert message["response"]["subtype"] == "success", message
            self._answered.set()
        elif message["type"] == "user":
            self._tasks.append(asyncio.create_task(self._play()))

    async def _play(self) -> None:
        for line in self._script:
            if isinstance(line, dict) and line["type"] == "hook":
                request = {"subtype": "hook_callback", "callback_id": self._hooks[line["name"]]}
                request |= {"input": line["input"], "tool_use_id": line["input"].get("tool_use_id")}
                self._answered.clear()
                self._out.put_nowait(
                    {"type": "control_request", "request_id": "h", "request": request}
                )
                await self._answered.wait()
            else:
                self._out.put_nowait(line)
        self._out.put_nowait(None)

    async def read_messages(self):
        while (message := await self._out.get()) is not None:
            if isinstance(message, Exception):
                raise message
            yield message

    async def close(self) -> None: ...

    def is_ready(self) -> bool:
        return True

    async def end_input(self) -> None: ...


def session(*script: Any, options: ClaudeAgentOptions | None = None) -> Any:
    return query(prompt="why?", options=options, transport=ScriptedTransport(*script))


async def last_of(messages: Any) -> Any:
    found = None
    async for message in messages:
        found = message
    return found


async def test_messages_become_events():
    script = (
        said(text("Two look-ups."), asks("c1"), asks("c2")),
        answers("c2", [text("about c2")]),
        answers("c1", "about c1"),
        said(text("done")),
        DONE,
    )
    with gateway() as server:
        with run_of(server.url) as run:
            result = await last_of(recorded(run, session(*script), agent="researcher"))
            assert isinstance(result, ResultMessage)
        named = types(server)
        assert (named[0], named[-1]) == ("agent_started", "agent_completed")
        assert events(server)[-1]["data"]["result"] == "done"
        assert events(server, "agent_thinking")[0]["data"]["thought"] == "Two look-ups."
        for call, (began, ended) in calls(server).items():
            assert began["args"] == {"query": call}
            assert ended["result"] == f"about {call}"
        assert len({one["data"]["agent_id"] for one in events(server)}) == 1


async def test_nested_agents_keep_apart():
    script = (
        said(asks("t1", "Task", subagent_type="one"), asks("t2", "Task", subagent_type="two")),
        said(asks("one-call"), parent="t1"),
        said(asks("two-call"), parent="t2"),
        answers("two-call", "2", parent="t2"),
        answers("one-call", "1", parent="t1"),
        answers("t1", "one done"),
        answers("t2", "two failed", is_error=True),
        DONE,
    )
    with gateway() as server:
        with run_of(server.url) as run:
            await last_of(recorded(run, session(*script)))
        outer, *inners = [one["data"] for one in events(server, "agent_started")]
        ids = {one["agent"]: one["agent_id"] for one in inners}
        assert set(ids) == {"one", "two"}
        assert {one["parent_id"] for one in inners} == {outer["agent_id"]}
        assert calls(server)["one-call"][0]["agent_id"] == ids["one"]
        assert calls(server)["two-call"][1]["agent_id"] == ids["two"]
        (failed,) = events(server, "agent_error")
        assert failed["data"]["agent_id"] == ids["two"]
        completed = [one["data"]["agent_id"] for one in events(server, "agent_completed")]
        assert completed == [ids["one"], outer["agent_id"]]


@pytest.mark.parametrize("both", [True, False], ids=["hooks and messages", "hooks alone"])
async def test_hooks_become_events_and_each_call_is_told_once(both):
    call = {"tool_name": "Search", "tool_input": {"query": "c1"}, "tool_use_id": "c1"}
    script = (
        hook("UserPromptSubmit", prompt="why?"),
        said(asks("c1")),
        hook("PreToolUse", **call),
        hook("PostToolUse", **call, tool_response="about c1"),
        answers("c1", "about c1"),
        hook("PreToolUse", **call | {"tool_use_id": "c2"}),
        hook("PostToolUseFailure", **call | {"tool_use_id": "c2"}, error="no such page"),
        hook("Stop"),
        DONE,
    )
    with gateway() as server:
        with run_of(server.url) as run:
            one = Session(run)
            messages = session(*script, options=ClaudeAgentOptions(hooks=one.hooks))
            await last_of(one.messages(messages) if both else messages)
        assert types(server) == [
            "agent_started",
            *["tool_executing", "tool_completed"] * 2,
            "agent_completed",
        ]
        assert calls(server)["c1"][1]["result"] == "about c1"
        assert calls(server)["c2"][1]["error"]["message"] == "no such page"


async def test_an_exception_is_an_event_and_is_raised_again():
    script = (said(asks("c1")), ConnectionResetError("process gone"))
    with gateway() as server:
        with run_of(server.url) as run, pytest.raises(Exception, match="process gone"):
            await last_of(recorded(run, session(*script)))
        assert types(server) == ["agent_started", "tool_executing", "tool_completed", "agent_error"]


async def test_a_session_that_says_that_it_failed_has_failed():
    script = (said(text("hm")), DONE | {"is_error": True, "result": "too many turns"})
    with gateway() as server:
        with run_of(server.url) as run:
            await last_of(recorded(run, session(*script)))
        assert types(server)[-1] == "agent_error"
        assert events(server)[-1]["data"]["error"]["message"] == "too many turns"


async def test_pieces_of_text_are_ephemeral_events():
    def piece(value: str) -> dict[str, Any]:
        event = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": value}}
        return {"type": "stream_event", "uuid": "u", "session_id": "s1", "event": event}

    with gateway() as server:
        with run_of(server.url) as run:
            await last_of(recorded(run, session(*map(piece, "streamed"), said(text("x")), DONE)))
        deltas = events(server, "token_delta")
        assert "".join(one["data"]["text"] for one in deltas) == "streamed"


async def test_a_reader_that_leaves_ends_no_session():
    with gateway() as server:
        with run_of(server.url) as run:
            messages = recorded(run, session(said(asks("c1")), answers("c1", "1"), DONE))
            await anext(messages)
            await messages.aclose()
            while "agent_completed" not in types(server):
                await asyncio.sleep(0.01)
        assert types(server)[-1] == "agent_completed"


@pytest.mark.parametrize("away", AWAY)
async def test_a_gateway_that_is_away_changes_no_result(away):
    with AWAY[away]() as url, run_of(url, close_timeout=0.1) as run:
        assert (await last_of(recorded(run, session(said(asks("c1")), DONE)))).result == "done"


def test_the_example(tmp_path):
    said, accepted = run_example("claude_agent.py", tmp_path)
    assert said == "It is 42."
    assert accepted.count("agent_completed") == accepted.count("tool_completed") == 1


def test_the_example_without_a_gateway(tmp_path):
    assert run_example("claude_agent.py", tmp_path, away=True)[0] == "It is 42."
