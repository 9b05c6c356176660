"""A session of the Claude Agent SDK whose user receives what it does. Its answers are scripted.

Run: DELIVERY_URL=... DELIVERY_TOKEN=... python examples/adapters/claude_agent.py
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from typing import Any

from claude_agent_sdk import ClaudeAgentOptions, ResultMessage, Transport, query

from delivery.adapters.claude_agent import Session
from delivery.adapters.process import ProcessRecorder


def said(*content: dict[str, Any]) -> dict[str, Any]:
    return {"type": "assistant", "message": {"model": "scripted", "content": list(content)}}


CALL = {"type": "tool_use", "id": "call-1", "name": "Search", "input": {"query": "life"}}
ANSWER = {"type": "tool_result", "tool_use_id": "call-1", "content": "42"}
RESULT = {"type": "result", "subtype": "success", "is_error": False, "result": "It is 42."}
SCRIPT = [
    said({"type": "text", "text": "I look it up."}, CALL),
    {"type": "user", "message": {"content": [ANSWER]}},
    said({"type": "text", "text": "It is 42."}),
    RESULT | {"duration_ms": 1, "duration_api_ms": 1, "num_turns": 2, "session_id": "s-1"},
]


class ScriptedTransport(Transport):
    """Stands for the process of Claude Code: leave ``transport`` out to have the real one."""

    def __init__(self, script: list[dict[str, Any]]) -> None:
        self._script = script
        self._to_send: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    async def connect(self) -> None:
        pass

    async def write(self, data: str) -> None:
        message = json.loads(data)
        if message["type"] == "control_request":
            answer = {"subtype": "success", "request_id": message["request_id"], "response": {}}
            await self._to_send.put({"type": "control_response", "response": answer})
        elif message["type"] == "user":
            for line in [*self._script, None]:
                await self._to_send.put(line)

    async def read_messages(self) -> AsyncIterator[dict[str, Any]]:
        while (message := await self._to_send.get()) is not None:
            yield message

    async def close(self) -> None:
        pass

    def is_ready(self) -> bool:
        return True

    async def end_input(self) -> None:
        pass


async def main() -> None:
    url, token = os.environ["DELIVERY_URL"], os.environ["DELIVERY_TOKEN"]
    async with ProcessRecorder(url, token, spool=os.environ.get("AGENT_SPOOL")) as recorder:
        session = Session(recorder.run("ada", "claude-1"), agent="researcher")
        options = ClaudeAgentOptions(hooks=session.hooks)
        messages = query(prompt="Why?", options=options, transport=ScriptedTransport(SCRIPT))
        async for message in session.messages(messages):
            if isinstance(message, ResultMessage):
                print(message.result)


if __name__ == "__main__":
    asyncio.run(main())
