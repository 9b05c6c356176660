"""Whole processes over real sockets: ``delivery up`` with short times, and its HTTP API."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from delivery.domain.event import AGENT_TYPES
from tests.policies import quick_policies
from tests.processes import Process, running


class Service:
    """One running ``delivery up``."""

    def __init__(self, process: Process, said: dict[str, Any], data_dir: Path) -> None:
        self.process = process
        self.said = said
        self.data_dir = data_dir
        self.url: str = said["url"]
        self.http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {said['service_token']}"},
            timeout=10.0,
        )

    def token(self, user_id: str) -> str:
        """A client's token."""
        secret = (self.data_dir / "dev-secret").read_text().strip()
        return jwt.encode({"sub": user_id, "exp": 4_000_000_000}, secret, algorithm="HS256")

    def emit(self, user_id: str, run_id: str, types: tuple[str, ...] = AGENT_TYPES) -> list[str]:
        """Post events in one request; their ids."""
        events = [
            {"type": type, "user_id": user_id, "run_id": run_id, "data": {"step": step}}
            for step, type in enumerate(types)
        ]
        answer = self.http.post("/v1/events", json={"events": events})
        assert answer.status_code == 202, answer.text
        assert answer.json()["rejected"] == []
        return [one["id"] for one in answer.json()["accepted"]]

    def event(self, event_id: str) -> dict[str, Any]:
        """An event with everything that happened to it."""
        answer = self.http.get(f"/v1/events/{event_id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def states(self, ids: list[str]) -> list[str]:
        """Where each event stands."""
        return [self.event(event_id)["state"] for event_id in ids]

    def outcomes(self, event_id: str) -> list[tuple[str, str]]:
        """Channel and outcome of each attempt, oldest first."""
        return [(a["channel"], a["outcome"]) for a in self.event(event_id)["attempts"]]

    def inbox(self, kind: str, to: str) -> list[dict[str, Any]]:
        """What the local sinks took for one address, oldest first."""
        messages = self.http.get("/v1/inbox").json()["messages"]
        return [m for m in reversed(messages) if m["kind"] == kind and m["to"] == to]

    def contact(self, user_id: str, **fields: Any) -> None:
        """Store how a user is reached."""
        answer = self.http.put(f"/v1/users/{user_id}/contacts", json=fields)
        assert answer.status_code == 200, answer.text


Start = Callable[..., Service]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts ``delivery up``; small keyword arguments are ``quick_policies`` times, capital ones
    ``DELIVERY_*`` variables."""
    with ExitStack() as stack:

        def start(**options: Any) -> Service:
            times = {name: value for name, value in options.items() if name.islower()}
            settings = {name: value for name, value in options.items() if name.isupper()}
            file = tmp_path / "policies.toml"
            file.write_text(quick_policies(**times))
            data_dir = tmp_path / "data"
            process = stack.enter_context(
                running(
                    "up",
                    "--json",
                    "--port",
                    "0",
                    cwd=tmp_path,
                    settings={"POLICIES": str(file), "DATA_DIR": str(data_dir), **settings},
                )
            )
            service = Service(process, process.json_line(), data_dir)
            stack.callback(service.http.close)
            return service

        yield start
