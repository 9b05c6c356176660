"""An agent of the OpenAI Agents SDK whose user receives what it does. Its model is scripted.

Run: DELIVERY_URL=... DELIVERY_TOKEN=... python examples/adapters/openai_agent.py
"""

import asyncio
import os

from agents import Agent, function_tool, set_tracing_disabled
from agents.testing import ScriptedModel, assistant_message, function_call

from delivery.adapters.openai_agents import recorded, recorded_stream
from delivery.adapters.process import ProcessRecorder

set_tracing_disabled(True)  # there is no key in this example


@function_tool
def search(query: str) -> str:
    """Look something up."""
    return "42"


def researcher() -> Agent:
    script = [
        [function_call("search", {"query": "life"}, call_id="call-1")],
        [assistant_message("It is 42.")],
    ]
    return Agent(name="researcher", model=ScriptedModel(script), tools=[search])


async def main() -> None:
    url, token = os.environ["DELIVERY_URL"], os.environ["DELIVERY_TOKEN"]
    async with ProcessRecorder(url, token, spool=os.environ.get("AGENT_SPOOL")) as recorder:
        run = recorder.run("ada", "openai-1")
        result = await recorded(run, researcher(), "What is the answer?")
        run = recorder.run("ada", "openai-2")
        async for _ in recorded_stream(run, researcher(), "What is the answer?"):
            pass
        print(result.final_output)


if __name__ == "__main__":
    asyncio.run(main())
