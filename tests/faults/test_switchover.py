"""A switchover beneath a whole service: the old primary stays up, and operators are told."""

from __future__ import annotations

import asyncio

import pytest
import redis
import uuid_utils
from sqlalchemy import make_url

from delivery.bench.faults import replication
from delivery.bench.faults.proxy import fault_proxy
from tests import databases, servers
from tests.acceptance.conftest import Service, Start
from tests.wire import eventually

pytestmark = pytest.mark.timeout(180)

LONG_WAIT = 60.0


def port(server: servers.Server) -> int:
    return make_url(server.url).port or 0


def post(service: Service) -> str:
    event_id = str(uuid_utils.uuid7())
    event = {"id": event_id, "type": "note", "user_id": "ada", "run_id": "r", "data": {}}
    answer = service.http.post("/v1/events", json=event, timeout=LONG_WAIT)
    assert answer.status_code == 202, answer.text
    return event_id


def kinds(service: Service) -> set[str]:
    """The outages that ``/readyz`` names; a gateway that accepts is ready all the time."""
    ready = service.http.get("/readyz")
    assert ready.status_code == 200, ready.text
    assert len(ready.json()["reasons"]) == len(ready.json()["outages"])
    return {outage["kind"] for outage in ready.json()["outages"]}


def recorded(service: Service, ids: list[str]) -> set[int]:
    found = {service.http.get(f"/v1/events/{one}", timeout=LONG_WAIT).status_code for one in ids}
    return found


async def test_a_gateway_leaves_the_old_primary_when_its_address_points_elsewhere(
    start: Start,
) -> None:
    with servers.postgres() as primary, replication.standby_of(primary) as standby:
        async with fault_proxy(port(primary)) as proxy:
            url = databases.text(make_url(primary.url).set(port=proxy.port))
            service = await asyncio.to_thread(start, ack_timeout=60.0, DATABASE_URL=url)
            ids = [await asyncio.to_thread(post, service)]
            await asyncio.to_thread(replication.switch_over, primary, standby)
            # The old primary is back under the old address, answers, and takes no writes.
            reads_of_the_standby = proxy.count("connect") + 3
            while proxy.count("connect") < reads_of_the_standby:
                ids.append(await asyncio.to_thread(post, service))
            spooling = {"ledger_read_only", "spooling"}
            await eventually(lambda: kinds(service), spooling.issubset, LONG_WAIT)
            proxy.targets = [port(standby)]
            ids.append(await asyncio.to_thread(post, service))
            # Within 5 s on a machine with time: `delivery bench faults --scenario switchover`.
            await eventually(lambda: recorded(service, ids), lambda seen: seen == {200}, LONG_WAIT)
            await eventually(lambda: kinds(service), lambda seen: seen == set(), LONG_WAIT)
            service.process.kill()


async def test_several_hosts_need_no_proxy(start: Start) -> None:
    with servers.postgres() as primary, replication.standby_of(primary) as standby:
        url = f"postgresql://postgres@127.0.0.1:{port(primary)},127.0.0.1:{port(standby)}/postgres"
        service = await asyncio.to_thread(start, ack_timeout=60.0, DATABASE_URL=url)
        ids = [await asyncio.to_thread(post, service)]
        await asyncio.to_thread(replication.switch_over, primary, standby)
        ids.append(await asyncio.to_thread(post, service))
        await eventually(lambda: recorded(service, ids), lambda seen: seen == {200}, LONG_WAIT)
        service.process.kill()


async def test_readyz_names_what_is_wrong_with_redis(start: Start) -> None:
    with servers.redis_server() as primary, replication.replica_of(primary) as replica:
        service = await asyncio.to_thread(
            start, ack_timeout=60.0, REDIS_URL=replica.url, BROKER_URL=primary.url
        )
        await eventually(lambda: kinds(service), {"redis_replica", "bus_deaf"}.issubset, LONG_WAIT)
        replication.redis_switch_over(primary, replica)
        # Now the broker is the replica.
        await eventually(lambda: kinds(service), lambda seen: seen == {"redis_replica"}, LONG_WAIT)
        with redis.Redis.from_url(replica.url) as client:
            client.config_set("maxmemory", "100kb")  # less than an empty one of any version uses
        await eventually(lambda: kinds(service), {"redis_oom"}.issubset, LONG_WAIT)
        primary.kill()
        replica.kill()
        gone = {"redis_away", "bus_deaf", "broker_away"}
        await eventually(lambda: kinds(service), gone.issubset, LONG_WAIT)
        service.process.kill()
