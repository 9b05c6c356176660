"""A pydantic-ai agent whose user receives what it does. Its model is scripted: no key is needed.

Run: DELIVERY_URL=... DELIVERY_TOKEN=... python examples/adapters/pydantic_agent.py
"""

import asyncio
import os
from collections.abc import AsyncIterator

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, DeltaToolCalls, FunctionModel

from delivery.adapters.process import ProcessRecorder
from delivery.adapters.pydantic_ai import RecordedRun, event_stream_handler


async def script(
    messages: list[ModelMessage], info: AgentInfo
) -> AsyncIterator[str | DeltaToolCalls]:
    """Stands for a real model."""
    if len(messages) == 1:
        yield {0: DeltaToolCall("search", '{"query": "life"}', tool_call_id="call-1")}
    else:
        yield "It is "
        yield "42."


agent = Agent(FunctionModel(stream_function=script), name="researcher")


@agent.tool_plain
def search(query: str) -> str:
    """Look something up."""
    return "42"


async def main() -> None:
    url, token = os.environ["DELIVERY_URL"], os.environ["DELIVERY_TOKEN"]
    async with ProcessRecorder(url, token, spool=os.environ.get("AGENT_SPOOL")) as recorder:
        # A capability, which records the run as a whole …
        run = recorder.run("ada", "pydantic-1")
        result = await agent.run("What is the answer?", capabilities=[RecordedRun(run)])
        # … or an event stream handler, inside of a run that is named here.
        run = recorder.run("ada", "pydantic-2")
        with run.agent("researcher") as span:
            handler = event_stream_handler(run)
            result = await agent.run("What is the answer?", event_stream_handler=handler)
            span.result = result.output
        print(result.output)


if __name__ == "__main__":
    asyncio.run(main())
