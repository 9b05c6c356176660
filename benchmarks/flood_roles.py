"""The producers of ``benchmarks.flood``: one posts steadily, one floods. One line of JSON each."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from typing import Any

import aiohttp

import delivery
from delivery.bench.processes import processor_s
from delivery.emitter.validate import new_event_id

USERS = 4


async def steady(
    session: aiohttp.ClientSession, url: str, seconds: float, rate: float, gateway: int
) -> dict[str, Any]:
    """Post single events at a rate, whether or not the ones before are answered.

    Args:
        gateway: the gateway's process id, whose processor time from post to answer is noted too.
    """
    waits: list[float] = []
    work: list[float] = []
    refused: Counter[str] = Counter()

    async def post(user: str) -> None:
        worked, began = processor_s(gateway), time.perf_counter()
        async with session.post(f"{url}/v1/events", json=_event(user)) as answer:
            await answer.read()
        if answer.status == 202:
            waits.append(time.perf_counter() - began)
            work.append(processor_s(gateway) - worked)
        else:
            refused[str(answer.status)] += 1

    began, number = time.perf_counter(), 0
    async with asyncio.TaskGroup() as posts:
        while (due := number / rate) < seconds:
            await asyncio.sleep(max(0.0, began + due - time.perf_counter()))
            posts.create_task(post(f"steady-{number % USERS}"))
            number += 1
    return {"waits_s": waits, "work_s": work, "refused": refused}


async def flood(
    session: aiohttp.ClientSession, url: str, seconds: float, connections: int, batch: int
) -> dict[str, Any]:
    """Post batches from several connections, each without a pause."""
    statuses: Counter[str] = Counter()
    accepted = 0
    until = time.perf_counter() + seconds

    async def post(user: str) -> None:
        nonlocal accepted
        while time.perf_counter() < until:
            events = [_event(user) for _ in range(batch)]
            body = {"events": events} if batch > 1 else events[0]
            async with session.post(f"{url}/v1/events", json=body) as answer:
                found = await answer.json(content_type=None)
            statuses[str(answer.status)] += 1
            accepted += len(found.get("accepted", ()))

    await asyncio.gather(*(post(f"flood-{n % USERS}") for n in range(connections)))
    return {"statuses": statuses, "accepted": accepted}


def _event(user: str) -> dict[str, Any]:
    return {
        "id": new_event_id(),
        "type": "agent_thinking",
        "user_id": user,
        "run_id": f"run-of-{user}",
        "data": {"text": "x" * 100},
    }


async def listen(url: str, token: str) -> None:
    """Be a user who acknowledges every event."""
    async with delivery.Client(url, token) as client:
        async for _ in client:
            pass


async def main() -> None:
    """Do what the order on the input says."""
    order = json.loads(sys.stdin.read())
    role, url, token = order.pop("role"), order.pop("url"), order.pop("token")
    listeners = [asyncio.create_task(listen(url, one)) for one in order.pop("listeners")]
    await asyncio.sleep(0.5)
    timeout = aiohttp.ClientTimeout(total=30.0)
    async with aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {token}"},
        timeout=timeout,
        connector=aiohttp.TCPConnector(limit=0),
    ) as session:
        produce = steady if role == "steady" else flood
        found = await produce(session, url, **order)
        sys.stdout.write(json.dumps(found) + "\n")
    for one in listeners:
        one.cancel()
    await asyncio.gather(*listeners, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main())
