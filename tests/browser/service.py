"""The running service and its HTTP API as an operator or a backend uses it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import jwt

from tests.processes import Process, running

DEADLINE = 40.0
POLICIES = """
[class.critical]
types = ["agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_completed"]
ack_timeout = 2.0
retries = 1
backoff = { base = 0.05, max = 0.2, jitter = 0.1 }
ttl = 600
[[class.critical.chain]]
channel = "database"
[[class.critical.chain]]
channel = "direct"
after = 0.5
attempts = 3
[[class.critical.chain]]
channel = "email"
after = 2.0
only = ["agent_completed"]
digest = { by = ["user_id", "run_id"], window = 0.2, min_interval = 0 }
confirms = "link"
[class.standard]
types = []
ack_timeout = 60.0
retries = 0
ttl = 600
[class.auth]
types = ["auth_started", "auth_validating", "auth_completed", "auth_failed"]
ack_timeout = 0.3
ttl = 600
[[class.auth.chain]]
channel = "direct"
[[class.auth.chain]]
channel = "alert"
[class.ephemeral]
types = ["progress", "token_delta"]
"""


class Service:
    """One running command that serves."""

    def __init__(self, process: Process, said: dict[str, Any], data_dir: Path) -> None:
        self.process = process
        self.said = said
        self.ledger_url = f"sqlite:///{data_dir / 'delivery.sqlite3'}"
        self.url: str = said["url"]
        self.port = int(self.url.rpartition(":")[2])
        self.secret = (data_dir / "dev-secret").read_text().strip()
        self.http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {said['service_token']}"},
            timeout=15.0,
            trust_env=False,
        )

    @property
    def page(self) -> str:
        """The address of the page, with a link of its own: each works once."""
        answer = self.http.post("/v1/session/links")
        assert answer.status_code == 200, answer.text
        url: str = answer.json()["url"]
        return url.replace("/#", "/demo#") if "/demo#" in self.said["page"] else url

    def token(self, user_id: str) -> str:
        """A client's token."""
        claims = {"sub": user_id, "exp": time.time() + 600.0}
        return jwt.encode(claims, self.secret, algorithm="HS256")

    def emit(
        self, user_id: str, *types: str, run_id: str = "run-1", data: dict[str, Any] | None = None
    ) -> list[str]:
        """Post events, at most 1,000 in a request; their ids."""
        events = [
            {"type": type, "user_id": user_id, "run_id": run_id, "data": {"n": n, **(data or {})}}
            for n, type in enumerate(types)
        ]
        ids: list[str] = []
        for at in range(0, len(events), 1_000):
            answer = self.http.post("/v1/events", json={"events": events[at : at + 1_000]})
            assert answer.status_code == 202, answer.text
            ids += [one["id"] for one in answer.json()["accepted"]]
        return ids

    def event(self, event_id: str) -> dict[str, Any]:
        """An event with everything that happened to it."""
        answer = self.http.get(f"/v1/events/{event_id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def state(self, event_id: str) -> str:
        """Where it stands."""
        return str(self.event(event_id)["state"])

    def settled(self, user_id: str) -> int:
        """How many of a user's events are confirmed once none is waiting; 0 before."""
        for state in ("accepted", "sent", "falling_back"):
            if self.page_of(user_id, state, limit=1)[0]:
                return 0
        count, after = 0, None
        while True:
            events, after = self.page_of(user_id, "confirmed", after=after)
            count += len(events)
            if after is None:
                return count

    def page_of(
        self, user_id: str, state: str, *, limit: int = 1_000, after: str | None = None
    ) -> tuple[list[dict[str, Any]], str | None]:
        """One page of a user's events in a state, and where the next one begins."""
        query = {"user_id": user_id, "state": state, "limit": str(limit)}
        found = self.http.get("/v1/events", params=query | ({"after": after} if after else {}))
        assert found.status_code == 200, found.text
        return found.json()["events"], found.json()["next"]


@contextmanager
def serving(
    folder: Path,
    *command: str,
    policies: str | None = POLICIES,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Service]:
    """``delivery up`` (or another command that serves) in a folder of its own."""
    # Tokens end when they say, so that a test need not wait for the leeway.
    settings = {"DATA_DIR": str(folder / "data"), "JWT_LEEWAY": "0"} | dict(settings or {})
    if policies is not None:
        (folder / "policies.toml").write_text(policies)
        settings["POLICIES"] = str(folder / "policies.toml")
    words = command or ("up",)
    with running(*words, "--json", "--port", "0", cwd=folder, settings=settings) as process:
        service = Service(process, process.json_line(), folder / "data")
        try:
            yield service
        finally:
            service.http.close()


async def until(what: str, holds: Callable[[], bool] | Callable[[], Awaitable[bool]]) -> None:
    """Wait for a condition; a deadline fails the test."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        answer = holds()
        if await answer if isinstance(answer, Awaitable) else answer:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"not within {DEADLINE:g} s: {what}")
