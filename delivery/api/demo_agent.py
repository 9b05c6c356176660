"""The agent of the demonstration page: emits the events of a run through the public emitter.

Owns: the script: events, their data and pauses. Never does: deliver; its events are emitted like
all others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from delivery.domain.emission import Emission
from delivery.errors import DeliveryError, Overloaded

logger = logging.getLogger(__name__)

MAX_RUNS = 8

Step = tuple[float, str, dict[str, Any]]
"""Seconds of pause, event type, data."""

_ANSWER = (
    "Three of your suppliers were late in the last quarter. Northwind is the one to talk to: "
    "9 of 41 orders came late, by 6 days on average. Harbor and Tellus had two each, both in the "
    "week of the port strike. I have drafted a message to Northwind; it waits for your approval."
)


@dataclass(frozen=True, slots=True)
class Visitor:
    """The demonstration's user, whom the page connects as.

    Attributes:
        is_quick: the chain's times are the demonstration's, not the shipped ones.
    """

    user_id: str
    token: str
    is_quick: bool


class DemoAgent:
    """Emits the events of runs that answer prompts; on the loop.

    Args:
        user_id: the demonstration's user.
        make_token: signs a client's token for that user; may raise ``ConfigError``.
        make_emitter: makes an emitter for a user and a run.
        is_quick: the policies are the demonstration's, whose chain takes seconds.
    """

    def __init__(
        self,
        user_id: str,
        make_token: Callable[[], str],
        make_emitter: Callable[[str, str], Emission],
        *,
        is_quick: bool,
    ) -> None:
        self._user_id = user_id
        self._make_token = make_token
        self._make_emitter = make_emitter
        self._is_quick = is_quick
        self._runs: set[asyncio.Task[None]] = set()

    def visitor(self) -> Visitor:
        """A client's token for the demonstration's user.

        Raises:
            ConfigError: tokens come from an identity provider here.
        """
        return Visitor(self._user_id, self._make_token(), self._is_quick)

    def start_run(self, prompt: str) -> str:
        """Start a run that answers the prompt; returns its id at once.

        Raises:
            Overloaded: too many runs at once.
        """
        if len(self._runs) >= MAX_RUNS:
            raise Overloaded(
                f"the demonstration has {MAX_RUNS} runs under way; try again in a moment"
            )
        run_id = f"run-{uuid4().hex[:12]}"
        task = asyncio.get_running_loop().create_task(self._play(run_id, prompt))
        self._runs.add(task)
        task.add_done_callback(self._runs.discard)
        return run_id

    async def close(self) -> None:
        """Cancel the runs under way."""
        for task in self._runs:
            task.cancel()
        await asyncio.gather(*self._runs, return_exceptions=True)

    async def _play(self, run_id: str, prompt: str) -> None:
        emitter = self._make_emitter(self._user_id, run_id)
        try:
            for pause, type, data in script(prompt):
                await asyncio.sleep(pause)
                if type == "token_delta":
                    emitter.emit_nowait(type, data)
                else:
                    await emitter.emit(type, data)
        except DeliveryError as error:
            logger.warning("demonstration run %s ended early: %s", run_id, error)


def script(prompt: str) -> list[Step]:
    """Events of a run that answers a question; it takes about ten seconds."""
    search = {"query": "orders delivered late, last quarter"}
    draft = {"to": "Northwind", "about": "9 late orders"}
    words = _ANSWER.split(" ")
    deltas: list[Step] = [(0.03, "token_delta", {"text": f"{word} "}) for word in words]
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
