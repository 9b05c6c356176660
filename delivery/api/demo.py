"""``/v1/demo``: an agent to talk to, where the process has one on stage.

Owns: the two requests of the demonstration page. Never does: emit; the stage that ``bootstrap``
brings does, through the same emitter as everybody. Without a stage (in production) there is nothing
here.
"""

from __future__ import annotations

from aiohttp import web

from delivery.api.problems import Problem
from delivery.api.requests import json_response, read_object, service
from delivery.api.stage import Stage
from delivery.gateway.auth import Authenticator

MAX_PROMPT = 500


class DemoApi:
    """Handlers of the demonstration."""

    def __init__(self, auth: Authenticator, stage: Stage | None) -> None:
        self._auth = auth
        self._on_stage = stage

    def routes(self) -> list[web.RouteDef]:
        """What to mount; without a stage both answer 404."""
        return [
            web.post("/v1/demo/session", self.session),
            web.post("/v1/demo/runs", self.start_run),
        ]

    async def session(self, request: web.Request) -> web.Response:
        """``POST /v1/demo/session``: become the demonstration's user (scope operate)."""
        await service(request, self._auth, "operate")
        part = self._stage().part()
        return json_response({"user_id": part.user_id, "token": part.token, "quick": part.is_quick})

    async def start_run(self, request: web.Request) -> web.Response:
        """``POST /v1/demo/runs``: ask the agent something (scope emit)."""
        await service(request, self._auth, "emit")
        prompt = (await read_object(request, ("prompt",))).get("prompt")
        if not isinstance(prompt, str) or not 0 < len(prompt.strip()) <= MAX_PROMPT:
            raise Problem(
                "invalid-request", f"prompt must be a text of 1 to {MAX_PROMPT} characters",
                field="prompt",
            )  # fmt: skip
        return json_response({"run_id": self._stage().start_run(prompt.strip())}, status=202)

    def _stage(self) -> Stage:
        if self._on_stage is None:
            raise Problem("not-found", "no demonstration runs here; start one: delivery demo")
        return self._on_stage
