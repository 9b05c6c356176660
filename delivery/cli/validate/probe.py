"""The probe of ``delivery validate``: requests as a service and as users, and its events.

Owns: the requests, and what is known of each event that was sent. Never does: a check.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from uuid_utils import uuid7

from delivery.cli.http import Api

POLL = 0.05
GATEWAY = "see that DELIVERY_URL is the gateway's address, that it runs, and what its log says"


class CheckFailed(Exception):
    """A check failed."""

    def __init__(self, found: str, mend: str) -> None:
        super().__init__(found)
        self.mend = mend


@dataclass(frozen=True, slots=True)
class Target:
    """The service and the users to validate.

    Attributes:
        timeout: seconds that one check may take.
        other_token: a client's token of another user, for the check of isolation.
        chain_timeout: seconds until an event that no client acknowledges has been in its chain.
        min_rate: events per second that must be delivered and confirmed; 0 asks for none.
        max_p99: seconds that 99 of 100 events may take to the client; 0 asks for no bound.
        is_disposable: the user was made for this and is erased in the end, where the token may.
    """

    url: str
    token: str
    client_token: str | None
    user: str
    timeout: float
    other_token: str | None = None
    other_user: str = ""
    chain_timeout: float = 30.0
    min_rate: float = 0.0
    max_p99: float = 0.0
    is_disposable: bool = False


class Probe:
    """What all checks share.

    Args:
        service: the API with the service's token; ``client`` with the client's, ``other`` with that
            of another user's client.

    Attributes:
        run_id: the run of the first events; other runs start with it.
        events: all that were sent as events of the user.
        confirmed: ids whose confirmation was read back.
    """

    def __init__(self, target: Target, service: Api, client: Api, other: Api) -> None:
        self.target = target
        self.run_id = f"validate-{secrets.token_hex(4)}"
        self.events: list[dict[str, Any]] = []
        self.confirmed: set[str] = set()
        self._service = service
        self._client = client
        self._other = other

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        """Status and document of an answer to the service."""
        return await _asked(self._service, method, path, body)

    async def ask_as_client(
        self, method: str, path: str, body: Any = None
    ) -> tuple[int, dict[str, Any]]:
        """The same as the user's client."""
        return await _asked(self._client, method, path, body)

    async def ask_as_other(
        self, method: str, path: str, body: Any = None
    ) -> tuple[int, dict[str, Any]]:
        """The same as another user's client."""
        return await _asked(self._other, method, path, body)

    def event(self, type_: str, run: str = "", *, step: int = 1, user: str = "") -> dict[str, Any]:
        """An event to send. Those of the user are remembered, to be acknowledged in the end."""
        made = {
            "id": str(uuid7()),
            "type": type_,
            "user_id": user or self.target.user,
            "run_id": self.run_id + run,
            "data": {"text": "delivery validate", "step": step},
        }
        if not user:
            self.events.append(made)
        return made

    async def post(self, *events: dict[str, Any]) -> list[dict[str, Any]]:
        """Send events in one request; a row for each.

        Raises:
            CheckFailed: one of them was refused.
        """
        status, answer = await self.ask("POST", "/v1/events", {"events": list(events)})
        rows: list[dict[str, Any]] = answer.get("accepted", [])
        if status != 202 or len(rows) != len(events):
            raise CheckFailed(explain(status, answer), GATEWAY)
        return rows

    async def timeline(self, event_id: str) -> dict[str, Any]:
        """The record of an event; empty where there is none."""
        status, event = await self.ask("GET", f"/v1/events/{event_id}")
        return event if status == 200 else {}

    async def states_until_confirmed(self, ids: Sequence[str]) -> dict[str, str]:
        """States of events, as soon as all are confirmed or the time of one check is over."""
        deadline = time.monotonic() + self.target.timeout
        while True:
            states = {id_: (await self.timeline(id_)).get("state", "missing") for id_ in ids}
            self.confirmed |= {id_ for id_, state in states.items() if state == "confirmed"}
            if set(states.values()) <= {"confirmed"} or time.monotonic() >= deadline:
                return states
            await asyncio.sleep(POLL)

    async def confirmed_in_time(self, run: str, count: int) -> int:
        """How many events of a run are confirmed, as soon as ``count`` are or the time is over."""
        path = f"/v1/events?run_id={self.run_id}{run}&state=confirmed&limit=500"
        deadline = time.monotonic() + self.target.timeout
        while True:
            _, answer = await self.ask("GET", path)
            ids = [event["id"] for event in answer.get("events", [])]
            self.confirmed.update(ids)
            if len(ids) >= count or time.monotonic() >= deadline:
                return len(ids)
            await asyncio.sleep(POLL)


async def _asked(api: Api, method: str, path: str, body: Any) -> tuple[int, dict[str, Any]]:
    status, answer = await asyncio.to_thread(api.ask, method, path, body)
    return status, answer if isinstance(answer, dict) else {}


def explain(status: int, answer: dict[str, Any]) -> str:
    """The problem that an answer names, or its status."""
    problem = answer.get("detail") or answer.get("title")
    return f"{problem} ({status})" if problem else f"HTTP {status}"
