"""The scenarios of `delivery bench faults`, small: one cluster, a few seconds of load for each.

Each asserts what no fault may cost (an event lost, handled twice or out of order) and that it
took place. How long it takes is for the benchmark to say: this machine may be busy.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest
import pytest_asyncio

from delivery.bench.faults.cluster import Cluster, Shape, running, two_servers
from delivery.bench.faults.injection import Plan
from delivery.bench.faults.runner import Outcome, run_scenario
from delivery.bench.faults.scenarios import BY_NAME

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow, pytest.mark.timeout(120)]

PLAN = Plan(
    users=20, rate=60.0, seconds=1.7, outage=1.5, away=0.5, every=0.7, drain=45.0, backlog=1_000
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """Two gateways, two workers and beat, which reach their servers through fault proxies."""
    folder = tmp_path_factory.mktemp("faults")
    with two_servers() as servers:
        async with running(Shape(pace=0.15, proxied=True), servers, folder) as made:
            yield made


async def played(
    cluster: Cluster, name: str, plan: Plan = PLAN, *, in_order: bool = True
) -> Outcome:
    """The outcome of a scenario that cost nothing it may not cost."""
    # A client that is thrown out comes back soon: tests do not wait for the clients' backoff.
    outcome = await run_scenario(cluster, replace(BY_NAME[name], leaves=True), plan)
    verdict = outcome.verdict
    assert verdict.accepted > 0
    assert (verdict.refused, verdict.lost, verdict.unconfirmed, verdict.twice) == (0, 0, 0, 0), (
        verdict
    )
    assert verdict.disordered == 0 or not in_order, verdict
    return outcome


def spoke_of(cluster: Cluster, words: str) -> Callable[[], int]:
    """How often the gateways have logged these words since now."""
    logs = [gateway.log for gateway in cluster.gateways]
    before = sum(log.read_text().count(words) for log in logs)
    return lambda: sum(log.read_text().count(words) for log in logs) - before


async def test_clients_whose_connections_are_reset_miss_nothing(cluster: Cluster) -> None:
    before = cluster.clients_proxy.count("reset")
    outcome = await played(cluster, "tcp-kill")
    assert cluster.clients_proxy.count("reset") - before >= 5
    assert outcome.verdict.replay > 0


async def test_a_gateway_killed_in_mid_burst_costs_a_reconnect(cluster: Cluster) -> None:
    pids = [gateway.process.pid for gateway in cluster.gateways if gateway.process]
    await played(cluster, "gateway-kill")
    assert pids != [gateway.process.pid for gateway in cluster.gateways if gateway.process]


async def test_all_gateways_killed_at_once_cost_their_restart(cluster: Cluster) -> None:
    outcome = await played(cluster, "gateway-kill-all", replace(PLAN, seconds=1.0))
    assert outcome.verdict.replay > 0


async def test_killed_workers_leave_nothing_undone(cluster: Cluster) -> None:
    await played(cluster, "worker-kill", replace(PLAN, away=1.0))


async def test_a_redis_that_comes_back_empty_takes_nothing_with_it(cluster: Cluster) -> None:
    await played(cluster, "redis-empty")


async def test_a_redis_that_is_flushed_takes_nothing_with_it(cluster: Cluster) -> None:
    await played(cluster, "redis-flushed")


async def test_a_database_that_crashes_in_mid_transaction_has_everything(cluster: Cluster) -> None:
    drained = spoke_of(cluster, "from the spool")
    await played(cluster, "postgres-restarted")
    assert drained() > 0


async def test_a_database_that_takes_no_writes_is_one_that_is_away(cluster: Cluster) -> None:
    drained = spoke_of(cluster, "from the spool")
    await played(cluster, "postgres-read-only")
    assert drained() > 0


async def test_with_database_and_redis_away_the_spool_alone_keeps_the_promise(
    cluster: Cluster,
) -> None:
    drained = spoke_of(cluster, "from the spool")
    # What no ledger has numbered can overtake what the bus has lost.
    await played(cluster, "all-away", in_order=False)
    assert drained() > 0


async def test_posts_whose_answers_are_lost_are_taken_once(cluster: Cluster) -> None:
    outcome = await played(cluster, "answers-lost")
    assert outcome.notes["answers lost"] > 0


async def test_commits_whose_answers_are_lost_are_done_once(cluster: Cluster) -> None:
    outcome = await played(cluster, "commits-lost")
    assert outcome.notes["commits whose answer was lost"] > 0


async def test_slow_and_silent_clients_hold_up_no_other(cluster: Cluster) -> None:
    outcome = await played(cluster, "slow-clients", replace(PLAN, users=25, drain=80.0))
    assert outcome.verdict.dead > 0, "operators know of the mute one without an address"
    assert outcome.verdict.fallback > 0, "and a mail reached the other"


async def test_a_backlog_is_drained_when_the_database_is_back(cluster: Cluster) -> None:
    outcome = await played(cluster, "postgres-backlog")
    assert outcome.verdict.accepted == PLAN.backlog
