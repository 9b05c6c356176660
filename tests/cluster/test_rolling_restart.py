"""A deploy: the gateways are replaced one after another while clients listen and events flow."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from uuid_utils import uuid7

import delivery
from tests.cluster.balancer import Balancer, balancing
from tests.cluster.conftest import Cluster
from tests.wire import eventually

CLIENTS = 50
PER_SECOND = 50
LEAST = 10.0  # seconds of load
LONGEST_AWAY = 5.0


class Audience:
    """Clients that listen, what each handled, and how long each was away at most."""

    def __init__(self, cluster: Cluster, url: str) -> None:
        self._cluster = cluster
        self._url = url
        self.users = [f"rolling-{number}" for number in range(CLIENTS)]
        self.handled: dict[str, list[int]] = {user: [] for user in self.users}
        self.away: dict[str, float] = dict.fromkeys(self.users, 0.0)
        self._clients: dict[str, delivery.Client] = {}
        self.reconnects = 0
        self.first_connect = 0.0

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Audience]:
        """All of them, connected."""
        tasks = [asyncio.create_task(self._listen(user)) for user in self.users]
        begun = time.monotonic()
        async with asyncio.timeout(30):
            while not all(self._is_connected(user) for user in self.users):
                await asyncio.sleep(0.02)
        self.first_connect = time.monotonic() - begun
        tasks.append(asyncio.create_task(self._watch()))
        try:
            yield self
        finally:
            self.reconnects = sum(client.reconnects for client in self._clients.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _is_connected(self, user: str) -> bool:
        return user in self._clients and self._clients[user].is_connected

    async def _listen(self, user: str) -> None:
        async with delivery.Client(self._url, self._cluster.token(user)) as client:
            self._clients[user] = client
            async for event in client:
                self.handled[user].append(event.data["number"])

    async def _watch(self) -> None:
        since: dict[str, float] = {}
        while True:
            now = time.monotonic()
            for user in self.users:
                if self._is_connected(user):
                    since.pop(user, None)
                    continue
                self.away[user] = max(self.away[user], now - since.setdefault(user, now))
            await asyncio.sleep(0.01)


class Producer:
    """Posts events at a steady rate, in order for each user; repeats a post that got no answer."""

    def __init__(self, cluster: Cluster, balancer: Balancer, users: list[str]) -> None:
        headers = {"Authorization": f"Bearer {cluster.service_token}"}
        self._http = httpx.AsyncClient(base_url=balancer.url, headers=headers, timeout=10.0)
        self._users = users
        self._turns = {user: asyncio.Lock() for user in users}
        self.sent: dict[str, list[int]] = {user: [] for user in users}
        self.ids: list[str] = []
        self.is_over = False
        self.repeats = 0

    async def run(self) -> None:
        """Until ``is_over``; returns when everything has been accepted."""
        begun = time.monotonic()
        number = 0
        async with self._http, asyncio.TaskGroup() as group:
            while not self.is_over or time.monotonic() - begun < LEAST:
                user = self._users[number % len(self._users)]
                self.sent[user].append(number)
                group.create_task(self._post(user, number))
                number += 1
                await asyncio.sleep(max(0.0, begun + number / PER_SECOND - time.monotonic()))

    async def _post(self, user: str, number: int) -> None:
        event = {
            "id": str(uuid7()),
            "type": "agent_thinking",
            "user_id": user,
            "run_id": "rolling",
            "data": {"number": number},
        }
        async with self._turns[user], asyncio.timeout(30):
            while not await self._is_taken(event):
                self.repeats += 1
                await asyncio.sleep(0.05)
        self.ids.append(str(event["id"]))

    async def _is_taken(self, event: dict[str, Any]) -> bool:
        try:
            answer = await self._http.post("/v1/events", json=event)
        except httpx.TransportError:
            return False  # accepted or not: the id makes it safe to ask again
        assert answer.status_code in (202, 429, 503), answer.text
        return answer.status_code == 202


async def test_a_rolling_restart_under_load_loses_and_repeats_nothing(cluster: Cluster) -> None:
    async with balancing([gateway.port for gateway in cluster.gateways]) as balancer:
        audience = Audience(cluster, balancer.url)
        async with audience.listening():
            producer = Producer(cluster, balancer, audience.users)
            producing = asyncio.create_task(producer.run())
            for gateway in cluster.gateways:
                assert await asyncio.to_thread(gateway.running.stop) == 0, gateway.running.tail()
                await asyncio.to_thread(lambda gateway=gateway: gateway.begin().ready())
            producer.is_over = True
            await asyncio.wait_for(producing, 60)

            def missing() -> int:
                return sum(
                    len(set(producer.sent[user]) - set(audience.handled[user]))
                    for user in audience.users
                )

            await eventually(missing, lambda count: count == 0, 30.0)
        assert audience.handled == producer.sent, "once each, in order"
        assert audience.reconnects >= CLIENTS, "everybody was sent elsewhere"
        assert producer.repeats < len(producer.ids) / 10, "a stopping gateway answers what it took"
    # "One reconnect" takes as long as the first connect did, on a busy machine too, where twice as
    # many processes as processors make everything take twice as long.
    longest = max(audience.away.values())
    pressure = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    most = max(LONGEST_AWAY * pressure, 3 * audience.first_connect)
    assert longest < most, sorted(audience.away.values())

    def unconfirmed() -> int:
        found = 0
        for user in audience.users:
            listed = cluster.http().get("/v1/events", params={"user_id": user, "limit": 1000})
            found += sum(event["state"] != "confirmed" for event in listed.json()["events"])
        return found

    await eventually(unconfirmed, lambda count: count == 0, 30.0)
