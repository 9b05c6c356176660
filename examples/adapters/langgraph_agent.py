"""A LangChain agent whose user receives what it does. Its model is scripted: no key is needed.

Run: DELIVERY_URL=... DELIVERY_TOKEN=... python examples/adapters/langgraph_agent.py
"""

import asyncio
import os
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from delivery.adapters.langgraph import AgentCallbacks, recorded
from delivery.adapters.process import ProcessRecorder


class ScriptedModel(BaseChatModel):
    """Stands for ChatOpenAI, ChatAnthropic or any other."""

    def bind_tools(self, tools: Any, **options: Any) -> "ScriptedModel":
        return self

    def _generate(self, messages: list[BaseMessage], *args: Any, **options: Any) -> ChatResult:
        call = {"name": "search", "args": {"query": "life"}, "id": "call-1"}
        message = AIMessage("I look it up.", tool_calls=[call])
        if messages[-1].type == "tool":
            message = AIMessage(f"It is {messages[-1].content}.")
        return ChatResult(generations=[ChatGeneration(message=message)])

    @property
    def _llm_type(self) -> str:
        return "scripted"


def search(query: str) -> str:
    """Look something up."""
    return "42"


agent = create_agent(ScriptedModel(), [search], name="researcher")
QUESTION: Any = {"messages": [("user", "What is the answer?")]}


async def main() -> None:
    url, token = os.environ["DELIVERY_URL"], os.environ["DELIVERY_TOKEN"]
    async with ProcessRecorder(url, token, spool=os.environ.get("AGENT_SPOOL")) as recorder:
        # A callback handler, for invoke, ainvoke, stream and astream …
        run = recorder.run("ada", "langgraph-1")
        result = await agent.ainvoke(QUESTION, config={"callbacks": [AgentCallbacks(run)]})
        # … or the stream of events, for code that reads it anyway.
        run = recorder.run("ada", "langgraph-2")
        async for _ in recorded(run, agent.astream_events(QUESTION, version="v2")):
            pass
        print(result["messages"][-1].content)


if __name__ == "__main__":
    asyncio.run(main())
