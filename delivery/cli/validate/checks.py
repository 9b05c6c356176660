"""The checks of ``delivery validate``: requests to the service, with a run of its own.

Owns: the requests, the expected answers and the mends. Never does: print, decide which checks run,
or acknowledge an event that is not its own.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from uuid_utils import uuid7

from delivery.cli.http import Api
from delivery.cli.validate.watcher import Watcher
from delivery.domain.event import AGENT_TYPES
from delivery.errors import Unreachable

UNHEARD_TYPE = "validation_probe"
"""No class lists it: without a client's token, critical events would end as an alert."""
POLL = 0.05
GATEWAY = "see that DELIVERY_URL is the gateway's address, that it runs, and what its log says"
SERVICE_TOKEN = 'export DELIVERY_TOKEN=$(delivery token --service --scope "emit read")'  # noqa: S105
CLIENT_TOKEN = "give --client-token $(delivery token --user {user})"  # noqa: S105
UPGRADE = (
    "let proxies pass WebSockets: HTTP/1.1 to the gateway with the Upgrade and Connection headers"
)
BUFFERING = "let proxies pass /v1/stream unbuffered and for long (nginx: proxy_buffering off)"


class CheckFailed(Exception):
    """A check failed."""

    def __init__(self, found: str, mend: str) -> None:
        super().__init__(found)
        self.mend = mend


@dataclass(frozen=True, slots=True)
class Target:
    """The service and the user to validate.

    Attributes:
        timeout: seconds that one check may take.
    """

    url: str
    token: str
    client_token: str | None
    user: str
    timeout: float


class Checks:
    """Each method is one check: returns a finding, or raises ``CheckFailed`` or ``Unreachable``.

    Args:
        service: the API with the service's token; ``client`` with the client's.
        watcher: a connection as the user.

    Attributes:
        can_acknowledge: whether the client's token is good.
    """

    def __init__(self, target: Target, service: Api, client: Api, watcher: Watcher) -> None:
        self.target = target
        self.can_acknowledge = False
        self.run_id = f"validate-{secrets.token_hex(4)}"
        self._service = service
        self._client = client
        self._watcher = watcher
        self._events: list[dict[str, Any]] = []
        self._seqs: list[int] = []
        self._confirmed: set[str] = set()
        self._posted_at = 0.0

    async def _ask(
        self, method: str, path: str, body: Any = None, *, as_client: bool = False
    ) -> tuple[int, Any]:
        api = self._client if as_client else self._service
        status, answer = await asyncio.to_thread(api.ask, method, path, body)
        document: dict[str, Any] = answer if isinstance(answer, dict) else {}
        return status, document

    @property
    def _ids(self) -> list[str]:
        return [event["id"] for event in self._events]

    # The service and the tokens

    async def healthz(self) -> str:
        status, answer = await self._ask("GET", "/healthz")
        if status != 200 or answer.get("status") != "ok":
            raise CheckFailed(f"/healthz answered {status}, but not as delivery", GATEWAY)
        return f"node {answer.get('node')} answers"

    async def readyz(self) -> str:
        status, answer = await self._ask("GET", "/readyz")
        told = answer.get("reasons") or ()
        if status != 200 or told:
            reasons = "; ".join(told) or f"HTTP {status}"
            raise CheckFailed(
                reasons, "`delivery check` on the gateway's machine says what is away"
            )
        return f"takes work; {answer.get('backlog')} events wait for their commit"

    async def scopes(self) -> str:
        read, answer = await self._ask("GET", f"/v1/events?limit=1&run_id={self.run_id}")
        if read == 401:
            raise CheckFailed(_explain(401, answer), SERVICE_TOKEN)
        emit, _ = await self._ask("POST", "/v1/events", {"events": []})
        missing = [n for n, status in (("read", read), ("emit", emit)) if status == 403]
        if missing:
            raise CheckFailed(f"scope {' and '.join(missing)} missing", SERVICE_TOKEN)
        if read != 200:
            raise CheckFailed(_explain(read, answer), GATEWAY)
        return "a service's token with emit and read"

    async def client_token(self) -> str:
        mend = CLIENT_TOKEN.format(user=self.target.user)
        path = f"/v1/events?limit=1&user_id={quote(self.target.user, safe='')}"
        status, answer = await self._ask("GET", path, as_client=True)
        if status != 200:
            raise CheckFailed(_explain(status, answer), mend)
        status, _ = await self._ask("POST", "/v1/events", {"events": []}, as_client=True)
        if status != 403:
            raise CheckFailed("it may emit, so it is not a client's: it must have no scope", mend)
        self.can_acknowledge = True
        return f"a client's, of user {self.target.user}"

    # The promises to the emitter

    async def accepted(self) -> str:
        self._events = [
            self._event(type_ if self.can_acknowledge else UNHEARD_TYPE, self.run_id, step)
            for step, type_ in enumerate(AGENT_TYPES, 1)
        ]
        self._posted_at = time.monotonic()
        status, answer = await self._ask("POST", "/v1/events", {"events": self._events})
        took = (time.monotonic() - self._posted_at) * 1_000.0
        rows = answer.get("accepted", [])
        if status != 202 or len(rows) != len(self._events):
            raise CheckFailed(_explain(status, answer), GATEWAY)
        if not all(row["durable"] for row in rows):
            raise CheckFailed(
                "accepted, but not durable", "take these types out of class ephemeral"
            )
        self._seqs = [row["seq"] for row in rows]
        return f"{len(rows)} events, durable after {took:.0f} ms"

    def _event(self, type_: str, run_id: str, step: int) -> dict[str, Any]:
        data = {"text": "delivery validate", "step": step}
        return {
            "id": str(uuid7()),
            "type": type_,
            "user_id": self.target.user,
            "run_id": run_id,
            "data": data,
        }

    async def order(self) -> str:
        if self._seqs != list(range(1, len(self._events) + 1)):
            raise CheckFailed(f"seq {self._seqs}", "report this with the gateway's version and log")
        return f"seq 1 to {len(self._seqs)} of run {self.run_id}"

    async def duplicate(self) -> str:
        status, answer = await self._ask("POST", "/v1/events", self._events[0])
        row = (answer.get("accepted") or [{}])[0]
        if status != 202 or row.get("duplicate") is not True or row.get("seq") != 1:
            raise CheckFailed(f"the same event again: {_explain(status, answer)}", GATEWAY)
        return "the same event again counts once"

    async def conflict(self) -> str:
        status, answer = await self._ask(
            "POST", "/v1/events", self._events[0] | {"data": {"text": "something else"}}
        )
        if status != 409:
            raise CheckFailed(
                f"other content under a known id: {_explain(status, answer)}", GATEWAY
            )
        return "other content under a known id is refused with 409"

    # The promises to the user

    async def websocket(self) -> str:
        try:
            took = await self._watcher.open_socket(self.target.timeout)
        except Unreachable as error:
            raise CheckFailed(f"{error}; clients go on over SSE", UPGRADE) from error
        return f"welcome after {took * 1_000:.0f} ms"

    async def delivered(self) -> str:
        seen = await self._watcher.receive(self._ids, self.target.timeout)
        took = (self._watcher.last_at - self._posted_at) * 1_000.0
        if len(set(seen)) < len(self._events):
            raise CheckFailed(
                f"{len(set(seen))} of {len(self._events)} came within {self.target.timeout:g} s",
                "see the gateways' log, and that they share one DELIVERY_REDIS_URL",
            )
        if seen != self._ids:
            raise CheckFailed(
                "they came out of order or twice", "report this with the gateway's log"
            )
        return f"{len(seen)} events over WebSocket, once, in order, {took:.0f} ms after the request"

    async def ack(self) -> str:
        began = time.monotonic()
        await self._watcher.acknowledge(self._ids, self.target.timeout)
        states = await self._states_until_confirmed(self._ids)
        self._confirmed |= {id_ for id_, state in states.items() if state == "confirmed"}
        late = sorted({state for state in states.values() if state != "confirmed"})
        if late:
            raise CheckFailed(f"still {', '.join(late)} after the acks", GATEWAY)
        return f"all confirmed {(time.monotonic() - began) * 1_000:.0f} ms after the acks"

    async def _states_until_confirmed(self, ids: list[str]) -> dict[str, str]:
        deadline = time.monotonic() + self.target.timeout
        while True:
            states = {id_: (await self._timeline_of(id_)).get("state", "missing") for id_ in ids}
            if set(states.values()) <= {"confirmed"} or time.monotonic() >= deadline:
                return states
            await asyncio.sleep(POLL)

    async def _timeline_of(self, event_id: str) -> dict[str, Any]:
        status, event = await self._ask("GET", f"/v1/events/{event_id}")
        return event if status == 200 else {}

    async def timeline(self) -> str:
        event = await self._timeline_of(self._ids[-1])
        attempts, confirmations = event.get("attempts") or [], event.get("confirmations") or []
        over = [one for one in attempts if one["channel"] == "websocket"]
        if (
            not over
            or not confirmations
            or not all(confirmations[0].get(k) for k in ("by", "evidence", "at"))
        ):
            raise CheckFailed("it lacks the confirmation: by, channel, evidence, at", GATEWAY)
        first = confirmations[0]
        return f"{first['by']} has it, over {first['channel']}, since {first['at']}"

    async def stream(self) -> str:
        event = self._event(AGENT_TYPES[0], f"{self.run_id}-sse", 1)
        self._events.append(event)
        try:
            await self._watcher.open_stream(self.target.timeout)
        except Unreachable as error:
            raise CheckFailed(str(error), BUFFERING) from error
        began = time.monotonic()
        await self._ask("POST", "/v1/events", event)
        if event["id"] not in await self._watcher.receive([event["id"]], self.target.timeout):
            raise CheckFailed(f"nothing came within {self.target.timeout:g} s", BUFFERING)
        took = (self._watcher.last_at - began) * 1_000.0
        status, answer = await self._ask("POST", "/v1/acks", {"ids": [event["id"]]}, as_client=True)
        if event["id"] not in answer.get("confirmed", []):
            raise CheckFailed(f"POST /v1/acks: {_explain(status, answer)}", GATEWAY)
        self._confirmed.add(event["id"])
        return f"an event over SSE after {took:.0f} ms, confirmed by POST /v1/acks"

    async def tidy(self) -> str:
        """Acknowledge what other checks left open: no probe may end as an alert."""
        left = [id_ for id_ in self._ids if id_ not in self._confirmed]
        if left:
            status, answer = await self._ask("POST", "/v1/acks", {"ids": left}, as_client=True)
            # An event that was never accepted is not left behind.
            states = await self._states_until_confirmed(answer.get("confirmed", []))
            if status != 200 or set(states.values()) - {"confirmed"}:
                raise CheckFailed(
                    f"{len(left)} events of {self.target.user} are unconfirmed",
                    "expect the chain to work on them, and an alert",
                )
        return f"nothing; {len(left)} acknowledged in the end" if left else "nothing"


def _explain(status: int, answer: dict[str, Any]) -> str:
    """The problem that an answer names, or its status."""
    problem = answer.get("detail") or answer.get("title")
    return f"{problem} ({status})" if problem else f"HTTP {status}"
