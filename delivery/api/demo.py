"""``/v1/demo``: the demonstration's agent, in processes that have one.

Owns: the two requests of the demonstration page. Never does: emit; the agent does. Without an agent
(in production) both answer 404.
"""

from __future__ import annotations

from aiohttp import web

from delivery.api.demo_agent import DemoAgent
from delivery.api.problems import Problem
from delivery.api.requests import json_response, read_object, service
from delivery.callers.auth import Authenticator

MAX_PROMPT = 500


class DemoApi:
    """Handlers of the demonstration."""

    def __init__(self, auth: Authenticator, agent: DemoAgent | None) -> None:
        self._auth = auth
        self._agent = agent

    def routes(self) -> list[web.RouteDef]:
        """Routes to mount; without an agent they answer 404."""
        return [
            web.post("/v1/demo/session", self.session),
            web.post("/v1/demo/runs", self.start_run),
        ]

    async def session(self, request: web.Request) -> web.Response:
        """``POST /v1/demo/session``: a client's token for the demonstration (scope operate)."""
        await service(request, self._auth, "operate")
        visitor = self._require_agent().visitor()
        return json_response(
            {"user_id": visitor.user_id, "token": visitor.token, "quick": visitor.is_quick}
        )

    async def start_run(self, request: web.Request) -> web.Response:
        """``POST /v1/demo/runs``: start a run of the agent (scope emit)."""
        await service(request, self._auth, "emit")
        prompt = (await read_object(request, ("prompt",))).get("prompt")
        if not isinstance(prompt, str) or not 0 < len(prompt.strip()) <= MAX_PROMPT:
            raise Problem(
                "invalid-request",
                f"prompt must be a text of 1 to {MAX_PROMPT} characters",
                field="prompt",
            )
        return json_response(
            {"run_id": self._require_agent().start_run(prompt.strip())}, status=202
        )

    def _require_agent(self) -> DemoAgent:
        if self._agent is None:
            raise Problem("not-found", "no demonstration runs here; start one: delivery demo")
        return self._agent
