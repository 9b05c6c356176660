"""The checks of ``delivery validate``: the service and its tokens, one run, its user.

Owns: the expected answers and the mends. Never does: print, decide which checks run, or acknowledge
an event that is not its own.
"""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

from delivery.cli.validate.probe import GATEWAY, CheckFailed, Probe, explain
from delivery.cli.validate.watcher import Watcher
from delivery.domain.event import AGENT_TYPES
from delivery.errors import Unreachable

UNHEARD_TYPE = "validation_probe"
"""No class lists it: without a client's token, critical events would end as an alert."""
SERVICE_TOKEN = 'export DELIVERY_TOKEN=$(delivery token --service --scope "emit read")'  # noqa: S105
CLIENT_TOKEN = "give --client-token $(delivery token --user {user})"  # noqa: S105
UPGRADE = (
    "let proxies pass WebSockets: HTTP/1.1 to the gateway with the Upgrade and Connection headers"
)
BUFFERING = "let proxies pass /v1/stream unbuffered and for long (nginx: proxy_buffering off)"


class Checks:
    """Each method is one check: returns a finding, or raises ``CheckFailed`` or ``Unreachable``.

    Args:
        watcher: a connection as the user.

    Attributes:
        can_acknowledge: whether the client's token is good.
    """

    def __init__(self, probe: Probe, watcher: Watcher) -> None:
        self.can_acknowledge = False
        self._probe = probe
        self._watcher = watcher
        self._events: list[dict[str, Any]] = []
        self._seqs: list[int] = []
        self._posted_at = 0.0

    @property
    def _timeout(self) -> float:
        return self._probe.target.timeout

    @property
    def _ids(self) -> list[str]:
        return [event["id"] for event in self._events]

    # The service and the tokens

    async def healthz(self) -> str:
        status, answer = await self._probe.ask("GET", "/healthz")
        if status != 200 or answer.get("status") != "ok":
            raise CheckFailed(f"/healthz answered {status}, but not as delivery", GATEWAY)
        return f"node {answer.get('node')} answers"

    async def readyz(self) -> str:
        status, answer = await self._probe.ask("GET", "/readyz")
        told = answer.get("reasons") or ()
        if status != 200 or told:
            reasons = "; ".join(told) or f"HTTP {status}"
            raise CheckFailed(
                reasons, "`delivery check` on the gateway's machine says what is away"
            )
        return f"takes work; {answer.get('backlog')} events wait for their commit"

    async def scopes(self) -> str:
        read, answer = await self._probe.ask(
            "GET", f"/v1/events?limit=1&run_id={self._probe.run_id}"
        )
        if read == 401:
            raise CheckFailed(explain(401, answer), SERVICE_TOKEN)
        emit, _ = await self._probe.ask("POST", "/v1/events", {"events": []})
        missing = [n for n, status in (("read", read), ("emit", emit)) if status == 403]
        if missing:
            raise CheckFailed(f"scope {' and '.join(missing)} missing", SERVICE_TOKEN)
        if read != 200:
            raise CheckFailed(explain(read, answer), GATEWAY)
        return "a service's token with emit and read"

    async def client_token(self) -> str:
        mend = CLIENT_TOKEN.format(user=self._probe.target.user)
        path = f"/v1/events?limit=1&user_id={quote(self._probe.target.user, safe='')}"
        status, answer = await self._probe.ask_as_client("GET", path)
        if status != 200:
            raise CheckFailed(explain(status, answer), mend)
        status, _ = await self._probe.ask_as_client("POST", "/v1/events", {"events": []})
        if status != 403:
            raise CheckFailed("it may emit, so it is not a client's: it must have no scope", mend)
        self.can_acknowledge = True
        return f"a client's, of user {self._probe.target.user}"

    # The promises to the emitter

    async def accepted(self) -> str:
        self._events = [
            self._probe.event(type_ if self.can_acknowledge else UNHEARD_TYPE, step=step)
            for step, type_ in enumerate(AGENT_TYPES, 1)
        ]
        self._posted_at = time.monotonic()
        rows = await self._probe.post(*self._events)
        took = (time.monotonic() - self._posted_at) * 1_000.0
        if not all(row["durable"] for row in rows):
            raise CheckFailed(
                "accepted, but not durable", "take these types out of class ephemeral"
            )
        self._seqs = [row["seq"] for row in rows]
        return f"{len(rows)} events, durable after {took:.0f} ms"

    async def order(self) -> str:
        if self._seqs != list(range(1, len(self._events) + 1)):
            raise CheckFailed(f"seq {self._seqs}", "report this with the gateway's version and log")
        return f"seq 1 to {len(self._seqs)} of run {self._probe.run_id}"

    async def duplicate(self) -> str:
        status, answer = await self._probe.ask("POST", "/v1/events", self._events[0])
        row = (answer.get("accepted") or [{}])[0]
        if status != 202 or row.get("duplicate") is not True or row.get("seq") != 1:
            raise CheckFailed(f"the same event again: {explain(status, answer)}", GATEWAY)
        return "the same event again counts once"

    async def conflict(self) -> str:
        status, answer = await self._probe.ask(
            "POST", "/v1/events", self._events[0] | {"data": {"text": "something else"}}
        )
        if status != 409:
            raise CheckFailed(f"other content under a known id: {explain(status, answer)}", GATEWAY)
        return "other content under a known id is refused with 409"

    # The promises to the user

    async def websocket(self) -> str:
        try:
            took = await self._watcher.open_socket(self._timeout)
        except Unreachable as error:
            raise CheckFailed(f"{error}; clients go on over SSE", UPGRADE) from error
        return f"welcome after {took * 1_000:.0f} ms"

    async def delivered(self) -> str:
        seen = await self._watcher.receive(self._ids, self._timeout)
        took = (self._watcher.last_at - self._posted_at) * 1_000.0
        if len(set(seen)) < len(self._events):
            raise CheckFailed(
                f"{len(set(seen))} of {len(self._events)} came within {self._timeout:g} s",
                "see the gateways' log, and that they share one DELIVERY_REDIS_URL",
            )
        if seen != self._ids:
            raise CheckFailed(
                "they came out of order or twice", "report this with the gateway's log"
            )
        return f"{len(seen)} events over WebSocket, once, in order, {took:.0f} ms after the request"

    async def ack(self) -> str:
        began = time.monotonic()
        await self._watcher.acknowledge(self._ids, self._timeout)
        states = await self._probe.states_until_confirmed(self._ids)
        late = sorted({state for state in states.values() if state != "confirmed"})
        if late:
            raise CheckFailed(f"still {', '.join(late)} after the acks", GATEWAY)
        return f"all confirmed {(time.monotonic() - began) * 1_000:.0f} ms after the acks"

    async def timeline(self) -> str:
        event = await self._probe.timeline(self._ids[-1])
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
        event = self._probe.event(AGENT_TYPES[0], "-sse")
        try:
            await self._watcher.open_stream(self._timeout)
        except Unreachable as error:
            raise CheckFailed(str(error), BUFFERING) from error
        began = time.monotonic()
        await self._probe.ask("POST", "/v1/events", event)
        if event["id"] not in await self._watcher.receive([event["id"]], self._timeout):
            raise CheckFailed(f"nothing came within {self._timeout:g} s", BUFFERING)
        took = (self._watcher.last_at - began) * 1_000.0
        status, answer = await self._probe.ask_as_client("POST", "/v1/acks", {"ids": [event["id"]]})
        if event["id"] not in answer.get("confirmed", []):
            raise CheckFailed(f"POST /v1/acks: {explain(status, answer)}", GATEWAY)
        self._probe.confirmed.add(event["id"])
        return f"an event over SSE after {took:.0f} ms, confirmed by POST /v1/acks"
