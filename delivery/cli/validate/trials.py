"""Trials of ``delivery validate``: every way in, speed, a failure, isolation, and what is left.

Owns: the expected answers and the mends. Never does: print, decide which of them run, or
acknowledge an event that is not its own.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any
from urllib.parse import quote

from delivery.cli.validate.probe import GATEWAY, POLL, CheckFailed, Probe, explain
from delivery.cli.validate.watcher import Watcher
from delivery.domain.event import AGENT_TYPES
from delivery.errors import DeliveryError, Unreachable

SINGLES = 20
"""Events one after the other: how long each takes."""
BATCH = 100
BATCHES = 4
CHAIN = "see that a worker serves each queue and beat runs: `delivery check`, and Flower"
SLOW = "docs/performance.md says what costs what, and what to add"
REPORT = "report this with the gateway's version and log"
GUARD = "a client sees another user's events: stop this release, and report it with its version"


class Trials:
    """Each method is one check: returns a finding, or raises ``CheckFailed`` or ``Unreachable``.

    Args:
        watcher: a connection as the user, ``other`` one as another user.
    """

    def __init__(self, probe: Probe, watcher: Watcher, other: Watcher) -> None:
        self._probe = probe
        self._watcher = watcher
        self._other = other

    @property
    def _timeout(self) -> float:
        return self._probe.target.timeout

    async def ways_in(self) -> str:
        """One run, emitted through every public way in, is numbered and recorded alike."""
        import delivery

        probe = self._probe
        single, batched = (probe.event(AGENT_TYPES[1], "-ways", step=step) for step in (1, 2))
        status, answer = await probe.ask("POST", "/v1/events", single)
        if status != 202:
            raise CheckFailed(f"a single event: {explain(status, answer)}", GATEWAY)
        rows = [*answer["accepted"], *await probe.post(batched)]
        target = probe.target
        try:
            async with delivery.connect(target.url, target.token, timeout=self._timeout) as d:
                receipt = await d.emitter(target.user, single["run_id"]).emit(
                    AGENT_TYPES[1], {"text": "delivery validate", "step": 3}
                )
        except DeliveryError as error:
            raise CheckFailed(f"the Python client: {error}", GATEWAY) from error
        probe.events.append({**single, "id": receipt.id})
        seqs = [row["seq"] for row in rows] + [receipt.seq]
        if seqs != [1, 2, 3]:
            raise CheckFailed(f"one run is numbered {seqs}", REPORT)
        records = [await probe.timeline(one["id"]) for one in (single, batched, probe.events[-1])]
        kinds = {(one.get("type"), one.get("class"), one.get("user_id")) for one in records}
        if len(kinds) != 1:
            raise CheckFailed(f"recorded differently: {kinds}", REPORT)
        return "a single event, a batch and the Python client share one numbering and one class"

    async def speed(self) -> str:
        """Events one after the other, then in batches, until the last one is confirmed."""
        probe, target = self._probe, self._probe.target
        await self._opened(self._watcher)
        times: list[float] = []
        for step in range(SINGLES):
            event = probe.event(AGENT_TYPES[1], "-speed", step=step)
            began = time.monotonic()
            await probe.post(event)
            await self._received([event["id"]], f"event {step + 1} of {SINGLES}")
            times.append(self._watcher.last_at - began)
        many = [probe.event(AGENT_TYPES[1], "-speed") for _ in range(BATCH * BATCHES)]
        ids = [event["id"] for event in many]
        began = time.monotonic()
        for start in range(0, len(many), BATCH):
            await probe.post(*many[start : start + BATCH])
        await self._received(ids, "of the batches")
        every = [event["id"] for event in probe.events if event["run_id"].endswith("-speed")]
        await self._watcher.acknowledge(every, self._timeout)
        confirmed = await probe.confirmed_in_time("-speed", len(every))
        if confirmed < len(every):
            raise CheckFailed(f"{len(every) - confirmed} stay unconfirmed after the acks", GATEWAY)
        rate = len(ids) / (time.monotonic() - began)
        p99 = sorted(times)[max(0, round(len(times) * 0.99) - 1)]
        found = f"{rate:.0f} events/s confirmed; p99 to the client {p99 * 1_000:.0f} ms"
        if rate < target.min_rate:
            raise CheckFailed(f"{found}: fewer than {target.min_rate:g} events/s", SLOW)
        if target.max_p99 and p99 > target.max_p99:
            raise CheckFailed(f"{found}: more than {target.max_p99 * 1_000:g} ms", SLOW)
        return found

    async def _opened(self, watcher: Watcher) -> None:
        try:
            await watcher.open_socket(self._timeout)
        except Unreachable as error:
            raise CheckFailed(str(error), GATEWAY) from error

    async def _received(self, ids: list[str], what: str) -> None:
        seen = set(await self._watcher.receive(ids, self._timeout))
        if len(seen) < len(ids):
            raise CheckFailed(f"{len(ids) - len(seen)} {what} did not come", GATEWAY)

    async def _confirmed(self, ids: list[str]) -> None:
        states = await self._probe.states_until_confirmed(ids)
        late = sorted({state for state in states.values() if state != "confirmed"})
        if late:
            raise CheckFailed(f"still {', '.join(late)} after the acks", GATEWAY)

    async def chain(self) -> str:
        """An event without a connection is handed over, tried by the chain, and confirmed there."""
        probe = self._probe
        await self._watcher.close()
        event = probe.event(AGENT_TYPES[0], "-chain")
        began = time.monotonic()
        await probe.post(event)
        tried = await self._tried(event["id"], began + probe.target.chain_timeout)
        if not tried:
            state = (await probe.timeline(event["id"])).get("state")
            raise CheckFailed(
                f"still {state} without an attempt of its chain after "
                f"{probe.target.chain_timeout:g} s",
                CHAIN,
            )
        took = time.monotonic() - began
        await self._opened(self._watcher)
        await self._received([event["id"]], "event of the chain")
        await self._watcher.acknowledge([event["id"]], self._timeout)
        await self._confirmed([event["id"]])
        return (
            f"no client: {', '.join(tried)} tried within {took:.1f} s; confirmed when it was back"
        )

    async def _tried(self, event_id: str, deadline: float) -> list[str]:
        """Channels that the chain has tried, as soon as there is one."""
        while True:
            attempts = (await self._probe.timeline(event_id)).get("attempts") or []
            found = [one["channel"] for one in attempts if one["channel"] != "websocket"]
            if found or time.monotonic() >= deadline:
                return list(dict.fromkeys(found))
            await asyncio.sleep(POLL)

    async def isolation(self) -> str:
        """Another user's client gets, reads and confirms nothing of the user."""
        probe, target = self._probe, self._probe.target
        await self._opened(self._watcher)
        await self._opened(self._other)
        mine = probe.event(AGENT_TYPES[2], "-mine")
        theirs = probe.event(AGENT_TYPES[2], "-theirs", user=target.other_user)
        await probe.post(mine, theirs)
        await self._received([mine["id"]], "event of the user")
        # What came over the other's connection until its own event was there, which left later.
        seen = await self._other.receive([theirs["id"]], self._timeout)
        if theirs["id"] not in seen:
            raise CheckFailed("the other user's own event did not come", GATEWAY)
        if self._other.has_seen(mine["id"]) or self._watcher.has_seen(theirs["id"]):
            raise CheckFailed("an event came to another user", GUARD)
        await self._refused(mine["id"])
        await self._other.acknowledge([theirs["id"]], self._timeout)
        await self._watcher.acknowledge([mine["id"]], self._timeout)
        await self._confirmed([mine["id"], theirs["id"]])
        return "another user gets, reads and confirms nothing of this one"

    async def _refused(self, event_id: str) -> None:
        """What another user's client asks about the event tells and changes nothing."""
        probe = self._probe
        for path in (
            f"/v1/events/{event_id}",
            f"/v1/events?user_id={quote(probe.target.user, safe='')}",
            f"/v1/users/{quote(probe.target.user, safe='')}/contacts",
        ):
            status, answer = await probe.ask_as_other("GET", path)
            if status not in (403, 404):
                raise CheckFailed(f"GET {path} as another user: {explain(status, answer)}", GUARD)
        _, answer = await probe.ask_as_other("POST", "/v1/acks", {"ids": [event_id]})
        state = (await probe.timeline(event_id)).get("state")
        if answer.get("confirmed") or state == "confirmed":
            raise CheckFailed("another user's acknowledgement confirmed an event", GUARD)

    async def tidy(self) -> str:
        """Acknowledge what is open, so that no probe ends as an alert, and erase a made user."""
        probe = self._probe
        left = [one["id"] for one in probe.events if one["id"] not in probe.confirmed]
        for start in range(0, len(left), BATCH):
            ids = left[start : start + BATCH]
            status, answer = await probe.ask_as_client("POST", "/v1/acks", {"ids": ids})
            # An event that was never accepted is not left behind.
            states = await probe.states_until_confirmed(answer.get("confirmed", []))
            if status != 200 or set(states.values()) - {"confirmed"}:
                raise CheckFailed(
                    f"{len(ids)} events of {probe.target.user} are unconfirmed",
                    "expect the chain to work on them, and an alert",
                )
        said = [f"{len(left)} acknowledged in the end"] if left else []
        if probe.target.is_disposable:
            said += await self._erased()
        return "; ".join(["nothing", *said])

    async def _erased(self) -> list[str]:
        target = self._probe.target
        users = [target.user, *([target.other_user] if target.other_user else [])]
        answers: list[dict[str, Any]] = []
        for user in users:
            status, answer = await self._probe.ask("DELETE", f"/v1/users/{quote(user, safe='')}")
            if status == 403:
                return ["events stay until retention: the token has no scope operate"]
            if status != 200:
                raise Unreachable(f"user {user} was not erased: {explain(status, answer)}")
            answers.append(answer)
        return [f"{sum(one['events'] for one in answers)} events of {len(users)} users erased"]
