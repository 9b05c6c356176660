"""A gateway that is cut off from PostgreSQL and Redis, and still holds its clients' sockets."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import pytest

import delivery
from tests import servers
from tests.cluster.blackhole import blackhole
from tests.cluster.conftest import Cluster
from tests.wire import eventually

pytestmark = pytest.mark.timeout(150)

THINKING = ("agent_thinking",)
LONG_WAIT = 40.0


def through(url: str, port: int) -> str:
    """The URL of the same server behind a proxy."""
    return url.replace(f":{urlsplit(url).port}", f":{port}", 1)


def states(cluster: Cluster, ids: list[str]) -> list[str]:
    """Where each event stands; one that is still in a spool is nowhere."""
    answers = [cluster.http().get(f"/v1/events/{event_id}").json() for event_id in ids]
    return [answer.get("state", "nowhere") for answer in answers]


async def test_a_node_cut_off_serves_its_clients_and_no_client_handles_anything_twice(
    cluster: Cluster, own_postgres: servers.Server, own_redis: servers.Server
) -> None:
    database, bus = (urlsplit(server.url).port or 0 for server in (own_postgres, own_redis))
    handled: list[str] = []
    with (
        blackhole(database) as to_database,
        blackhole(bus) as to_bus,
        cluster.extra(
            "island",
            DATABASE_URL=through(own_postgres.url, to_database.port),
            REDIS_URL=through(own_redis.url, to_bus.port),
        ) as island,
    ):
        cluster.gateways.append(island)
        number = cluster.gateways.index(island)
        await asyncio.to_thread(cluster.contact, "islander", email="islander@example.org")

        async def handle() -> None:
            async with delivery.Client(island.url, cluster.token("islander")) as client:
                async for event in client:
                    handled.append(event.id)

        handling = asyncio.create_task(handle())
        try:
            before = await asyncio.to_thread(
                cluster.emit, "islander", "r", THINKING, gateway=number
            )
            await eventually(lambda: handled, lambda seen: seen == before)
            for line in (to_database, to_bus):
                line.cut()
            here, there = await asyncio.gather(
                asyncio.to_thread(cluster.emit, "islander", "here", gateway=number),
                asyncio.to_thread(cluster.emit, "islander", "there"),
            )
            await eventually(lambda: handled, lambda seen: set(here) <= set(seen), LONG_WAIT)
            # Other nodes do not hear of the island's clients: the chain takes over.
            await eventually(
                lambda: cluster.mails_to("islander@example.org"), lambda mails: mails, LONG_WAIT
            )
            assert not set(there) & set(handled)
            for line in (to_database, to_bus):
                line.mend()
            every = before + here + there
            await eventually(lambda: handled, lambda seen: set(every) <= set(seen), LONG_WAIT)
            await eventually(
                lambda: states(cluster, every), lambda s: set(s) == {"confirmed"}, LONG_WAIT
            )
            assert sorted(handled) == sorted(every), "each once"
            assert [i for i in handled if i in here] == here, "in order"
            assert len(cluster.mails_to("islander@example.org")) == 1, "needless, and one"
        finally:
            cluster.gateways.remove(island)
            handling.cancel()
            await asyncio.gather(handling, return_exceptions=True)
