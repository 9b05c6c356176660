"""The scenarios of `delivery bench faults` in which servers change places, small.

Each has a cluster of its own: afterwards its servers stand in other places.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from delivery.bench.faults.cluster import Shape, running, two_servers
from delivery.bench.faults.injection import Plan
from delivery.bench.faults.runner import Outcome, run_scenario
from delivery.bench.faults.scenarios import BY_NAME

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

PLAN = Plan(users=10, rate=30.0, seconds=8.0, outage=1.5, away=1.0, every=0.7, drain=60.0)


async def played(name: str, folder: Path) -> Outcome:
    """The outcome of a scenario that cost no event."""
    scenario = BY_NAME[name]
    with two_servers(scenario.spare) as servers:
        async with running(Shape(workers=1, pace=0.5), servers, folder) as cluster:
            outcome = await run_scenario(cluster, scenario, PLAN)
    verdict = outcome.verdict
    assert verdict.accepted > 0
    assert (verdict.refused, verdict.lost, verdict.unconfirmed, verdict.twice) == (0, 0, 0, 0), (
        verdict
    )
    return outcome


async def test_a_database_switchover_costs_no_event(tmp_path: Path) -> None:
    outcome = await played("switchover", tmp_path)
    assert "ledger spooling" in outcome.notes["outages"]


async def test_a_redis_failover_costs_no_event(tmp_path: Path) -> None:
    outcome = await played("redis-failover", tmp_path)
    assert "bus redis_replica" in outcome.notes["outages"]


async def test_a_redis_that_sentinel_replaces_costs_no_event(tmp_path: Path) -> None:
    outcome = await played("sentinel", tmp_path)
    assert outcome.notes["outages"]
