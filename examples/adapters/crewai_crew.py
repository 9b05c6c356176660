"""A CrewAI crew whose user receives what it does. Its model is scripted: no key is needed.

Run: DELIVERY_URL=... DELIVERY_TOKEN=... python examples/adapters/crewai_crew.py
"""

import os
from typing import Any

os.environ.setdefault("CREWAI_DISABLE_TELEMETRY", "true")
os.environ.setdefault("CREWAI_TRACING_ENABLED", "false")

from crewai import Agent, BaseLLM, Crew, Task
from crewai.tools import tool

from delivery.adapters.crewai import recorded
from delivery.adapters.process import ProcessRecorder


class ScriptedModel(BaseLLM):
    """Stands for a real model."""

    def call(self, messages: Any, *args: Any, **options: Any) -> str:
        if "42" in str(messages):
            return "Thought: I know it.\nFinal Answer: It is 42."
        return 'Thought: I look it up.\nAction: search\nAction Input: {"query": "life"}'

    def supports_function_calling(self) -> bool:
        return False


@tool("search")
def search(query: str) -> str:
    """Look something up."""
    return "42"


def crew() -> Crew:
    model = ScriptedModel(model="scripted")
    agent = Agent(role="researcher", goal="know", backstory="curious", llm=model, tools=[search])
    task = Task(description="What is the answer?", expected_output="a number", agent=agent)
    return Crew(name="library", agents=[agent], tasks=[task])


if __name__ == "__main__":
    url, token = os.environ["DELIVERY_URL"], os.environ["DELIVERY_TOKEN"]
    with ProcessRecorder(url, token, spool=os.environ.get("AGENT_SPOOL")) as recorder:
        with recorded(recorder.run("ada", "crewai-1")):
            result = crew().kickoff()
        print(result.raw)
