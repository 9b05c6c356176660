"""Celery while Redis servers change places or refuse: workers, relay and beat go on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from celery.beat import Scheduler, Service

from delivery.bench.faults import replication
from delivery.bench.faults.proxy import fault_proxy
from delivery.bus.redis_bus import RedisBus
from delivery.domain.operators.outages import OutageKind
from delivery.tasks.broker.app import MAINTENANCE_QUEUE, make_app
from delivery.tasks.broker.relay import Relay
from tests import servers
from tests.integration.test_celery_redis import Chain
from tests.waiting import until, until_blocking

pytestmark = pytest.mark.timeout(240)

Pair = tuple[servers.Server, servers.Server]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A primary and its replica."""
    with (
        servers.redis_server(persistent=True) as primary,
        replication.replica_of(primary) as replica,
    ):
        yield primary, replica


def port_of(server: servers.Server) -> int:
    return int(server.url.rpartition(":")[2].partition("/")[0])


def kinds(relay: Relay) -> set[OutageKind]:
    return {outage.kind for outage in relay.outages()}


@pytest.mark.parametrize("pool", ["prefork", "threads"])
async def test_a_worker_outlives_a_failover_and_serves_the_new_primary(
    pair: Pair, tmp_path: Path, pool: str
) -> None:
    primary, replica = pair
    async with fault_proxy(port_of(primary)) as proxy:
        chain = Chain(tmp_path, f"redis://127.0.0.1:{proxy.port}/0")

        def fail_over() -> None:
            proxy.targets = [port_of(replica)]
            replication.redis_switch_over(primary, replica)

        await asyncio.to_thread(serve_over_a_failover, chain, pool, fail_over)


async def test_a_worker_whose_acknowledgement_meets_the_old_primary_goes_on(
    pair: Pair, tmp_path: Path
) -> None:
    primary, replica = pair
    async with fault_proxy(port_of(primary)) as proxy:
        chain = Chain(tmp_path, f"redis://127.0.0.1:{proxy.port}/0")
        chain.relay.start()
        chain.be("slow")
        with chain.worker() as process:
            before = chain.hand_over()
            chain.sweeper.sweep()
            await asyncio.to_thread(until_blocking, lambda: chain.messages == [before])
            proxy.targets = [port_of(replica)]
            replication.redis_switch_over(primary, replica)  # in the middle of the task
            chain.be("kind")
            after = chain.hand_over()
            await asyncio.to_thread(chain.sweep_until_over, after)
            assert process.poll() is None
        chain.close()


def test_a_worker_follows_sentinel(pair: Pair, tmp_path: Path) -> None:
    primary, _ = pair
    with replication.sentinel_of(primary, "tasks") as sentinel:
        chain = Chain(tmp_path, sentinel.url)
        serve_over_a_failover(
            chain, "prefork", lambda: replication.sentinel_fail_over(sentinel, primary)
        )


def serve_over_a_failover(chain: Chain, pool: str, fail_over: Callable[[], None]) -> None:
    """One event before it, one after it, by the same worker."""
    chain.relay.start()
    with chain.worker(pool) as process:
        before = chain.hand_over()
        chain.sweep_until_over(before)
        fail_over()
        after = chain.hand_over()
        chain.sweep_until_over(after)
        assert process.poll() is None, "it did not end"
    assert chain.messages == [before, after]
    assert kinds(chain.relay) == set()
    chain.close()


async def test_servers_and_sentinels_have_passwords_of_their_own() -> None:
    with servers.redis_server() as server, replication.sentinel_of(server, "tasks") as sentinel:
        place = sentinel.url.split("/")[2]
        with (
            redis.Redis.from_url(server.url) as admin,
            redis.Redis.from_url(f"redis://{place}") as guard,
        ):
            admin.config_set("requirepass", "p@ss,/word")
            guard.execute_command("SENTINEL", "SET", "tasks", "auth-pass", "p@ss,/word")
            guard.execute_command("ACL", "SETUSER", "default", "resetpass", ">other")
        user = "sentinel://:p%40ss%2C%2Fword@"
        url = f"{user}127.0.0.1:1,{place}/tasks/0?sentinel_password=other"
        bus = RedisBus(url, "one")
        await bus.start(lambda message: None)
        await until(lambda: bus.healthy and not bus.outages())
        await bus.stop()
        relay = Relay(make_app(url))
        relay.start()
        relay.publish("queue", ["id"])
        await until(lambda: relay.sent == 1)
        relay.stop()


def test_a_worker_waits_for_a_broker_without_memory(tmp_path: Path) -> None:
    with servers.redis_server(persistent=True) as server, redis.Redis.from_url(server.url) as admin:
        chain = Chain(tmp_path, server.url)
        chain.relay.start()
        with chain.worker() as process:
            before = chain.hand_over()
            chain.sweep_until_over(before)
            admin.config_set("maxmemory", "100kb")  # less than an empty one of any version uses
            until_blocking(lambda: kinds(chain.relay) == {OutageKind.REDIS_OOM})
            [outage] = chain.relay.outages()
            assert "out of memory" in outage.text
            after = chain.hand_over()
            chain.sweeper.sweep()
            until_blocking(lambda: chain.relay.failed)
            admin.config_set("maxmemory", "0")
            chain.sweep_until_over(after)
            assert process.poll() is None
        assert chain.messages == [before, after]
        until_blocking(lambda: kinds(chain.relay) == set())
        chain.close()


def test_a_relay_names_a_replica_and_leaves_it(pair: Pair) -> None:
    primary, replica = pair
    relay = Relay(make_app(replica.url))
    relay.start()
    until_blocking(lambda: kinds(relay) == {OutageKind.REDIS_REPLICA})
    replication.redis_switch_over(primary, replica)
    until_blocking(lambda: kinds(relay) == set())
    relay.stop()


async def test_beat_publishes_on_the_new_primary(pair: Pair) -> None:
    primary, replica = pair
    async with fault_proxy(port_of(primary)) as proxy:
        beat = Service(make_app(f"redis://127.0.0.1:{proxy.port}/0"), scheduler_cls=Scheduler)
        thread = threading.Thread(target=beat.start, daemon=True)
        thread.start()
        await asyncio.to_thread(until_blocking, lambda: waiting(primary))
        proxy.targets = [port_of(replica)]
        replication.redis_switch_over(primary, replica)
        with redis.Redis.from_url(replica.url) as client:
            client.delete(MAINTENANCE_QUEUE)
        await asyncio.to_thread(until_blocking, lambda: waiting(replica))
        beat.stop()


def waiting(server: servers.Server) -> int:
    with redis.Redis.from_url(server.url) as client:
        return int(client.llen(MAINTENANCE_QUEUE))


def test_a_broker_that_answers_and_takes_no_task_is_named_until_it_takes_one() -> None:
    with servers.redis_server() as server, redis.Redis.from_url(server.url) as admin:
        relay = Relay(make_app(server.url))
        relay.start()
        relay.publish("queue", ["first"])
        until_blocking(lambda: relay.sent == 1)
        admin.execute_command("ACL", "SETUSER", "default", "-lpush")
        relay.publish("queue", ["second"])
        until_blocking(lambda: relay.failed == 1)
        until_blocking(
            lambda: admin.info("commandstats")["cmdstat_lpush"]["rejected_calls"] > 2  # tries again
        )
        [outage] = relay.outages()
        assert outage.kind is OutageKind.REDIS_REFUSES, "still, though it answers each question"
        assert "does not permit this user" in outage.text
        admin.execute_command("ACL", "SETUSER", "default", "+lpush")
        until_blocking(lambda: kinds(relay) == set())
        assert admin.llen("delivery.queue") == 2, "and the task that it refused is there"
        relay.stop()
