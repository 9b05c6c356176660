"""The demonstration: an agent that answers on a stage, through the same emitter as everybody.

Owns: what the agent says and when, and the visitor's token. Never does: deliver; what happens to
the events is the pipeline's work.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from delivery import resources
from delivery.api.stage import Part
from delivery.bootstrap.tokens import issue
from delivery.config import Settings
from delivery.domain.emission import Emission
from delivery.errors import DeliveryError, Overloaded

logger = logging.getLogger(__name__)

USER = "demo"
TOKEN_TTL = 3_600.0
MAX_RUNS = 8

Beat = tuple[float, str, dict[str, Any]]
"""Seconds of pause, event type, data."""

_ANSWER = (
    "Three of your suppliers were late in the last quarter. Northwind is the one to talk to: "
    "9 of 41 orders came late, by 6 days on average. Harbor and Tellus had two each, both in the "
    "week of the port strike. I have drafted a message to Northwind; it waits for your approval."
)


def demo_policies() -> Path:
    """The policy file with the chain's times shortened.

    Raises:
        ConfigError: the package lacks it.
    """
    return resources.file("config", "policies-demo.toml")


class DemoStage:
    """See ``delivery.api.stage.Stage``.

    Args:
        settings: signs the visitor's token; its policies tell whether the times are short.
        emitter: makes an emitter for a user and a run.
    """

    def __init__(self, settings: Settings, emitter: Callable[[str, str], Emission]) -> None:
        self._settings = settings
        self._emitter = emitter
        self._runs: set[asyncio.Task[None]] = set()

    def part(self) -> Part:
        """A client's token for the demonstration's user.

        Raises:
            ConfigError: tokens come from an identity provider here.
        """
        token = issue(self._settings, USER, scopes=None, ttl=TOKEN_TTL)
        return Part(USER, token, self._settings.policies == demo_policies())

    def start_run(self, prompt: str) -> str:
        """Let the agent answer; see ``Stage``."""
        if len(self._runs) >= MAX_RUNS:
            raise Overloaded("the demonstration's agent has enough to do; ask again in a moment")
        run_id = f"run-{uuid4().hex[:12]}"
        task = asyncio.get_running_loop().create_task(self._play(run_id, prompt))
        self._runs.add(task)
        task.add_done_callback(self._runs.discard)
        return run_id

    async def close(self) -> None:
        """End what is on stage."""
        for task in self._runs:
            task.cancel()
        await asyncio.gather(*self._runs, return_exceptions=True)

    async def _play(self, run_id: str, prompt: str) -> None:
        emitter = self._emitter(USER, run_id)
        try:
            for pause, type, data in script(prompt):
                await asyncio.sleep(pause)
                if type == "token_delta":
                    emitter.emit_nowait(type, data)
                else:
                    await emitter.emit(type, data)
        except DeliveryError as error:
            logger.warning("the demonstration's run %s ended early: %s", run_id, error)


def script(prompt: str) -> list[Beat]:
    """What the agent does with a question: about ten seconds."""
    search = {"query": "orders delivered late, last quarter"}
    draft = {"to": "Northwind", "about": "9 late orders"}
    words = _ANSWER.split(" ")
    deltas: list[Beat] = [(0.03, "token_delta", {"text": f"{word} "}) for word in words]
    return [
        (0.2, "agent_started", {"agent": "supply analyst", "title": prompt}),
        (0.9, "agent_thinking", {"thought": "I need the deliveries of the last quarter."}),
        (1.2, "tool_executing", {"tool": "search_orders", "args": search}),
        (1.6, "tool_completed", {"tool": "search_orders", "result": {"late": 13, "of": 187}}),
        (0.9, "agent_thinking", {"thought": "Most are from one supplier. I draft a message."}),
        (1.0, "tool_executing", {"tool": "draft_message", "args": draft}),
        (1.2, "tool_completed", {"tool": "draft_message", "result": {"draft": "ready"}}),
        (0.5, "agent_thinking", {"thought": "Now the answer."}),
        *deltas,
        (0.4, "agent_completed", {"result": _ANSWER, "title": prompt}),
    ]
