"""The list of scenarios: a fault, the cluster it is injected into, and its budget.

Owns: names, budgets, and the misbehaving clients. Never does: inject a fault.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from delivery.bench.faults import failover, injection, listeners
from delivery.bench.faults.audit import Verdict
from delivery.bench.faults.cluster import Spare
from delivery.bench.faults.injection import ScenarioContext
from delivery.bench.faults.listeners import Misbehaviour
from delivery.errors import ConfigError

MISBEHAVIOURS: tuple[tuple[str, Misbehaviour], ...] = (
    ("slow", listeners.slow),
    ("deaf", listeners.deaf),
    ("restless", listeners.restless),
    ("mute", listeners.mute),
    ("mute", listeners.mute),
)
"""One of each in turn; of the mute ones every second has a mail address."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of a scenario's times; ``None`` sets none. No event may be lost in any scenario.

    Attributes:
        p99_s: to the handler, for clients that are back within 2 s.
        settle_s: until a backlog has been handled and confirmed.
        recover_s: from the end of the fault until everything works again.
    """

    p99_s: float | None = None
    settle_s: float | None = None
    recover_s: float | None = None


@dataclass(frozen=True, slots=True)
class Scenario:
    """One fault and the cluster for it.

    Attributes:
        inject: runs beside the load.
        proxied: the gateways reach their servers through fault proxies.
        leaves: clients that lose their connection stay away for the plan's ``away``.
        misbehaving_share: the share of users whose clients do not behave.
        is_backlog: the only load are events that gather while a server is away.
        apart: every event is posted at another gateway than the one that has its user.
        spare: the server that has a second one, which takes over.
    """

    name: str
    what: str
    inject: Callable[[ScenarioContext], Awaitable[None]]
    budget: Budget = Budget()
    proxied: bool = False
    leaves: bool = False
    misbehaving_share: float = 0.0
    is_backlog: bool = False
    apart: bool = False
    spare: Spare = Spare.NONE


SCENARIOS = (
    Scenario(
        "tcp-kill",
        "RST for half of the clients every 5 s, away for 2 s",
        injection.cut_clients,
        Budget(p99_s=3.0),
        leaves=True,
    ),
    Scenario(
        "gateway-kill",
        "kill -9 of a gateway every 5 s, a second one alive",
        injection.kill_a_gateway,
        Budget(p99_s=5.0),
    ),
    Scenario(
        "gateway-kill-all",
        "kill -9 of every gateway at once, and their restart",
        injection.kill_all_gateways,
    ),
    Scenario(
        "rolling-restart",
        "SIGTERM and restart of one gateway after the other",
        injection.roll_gateways,
        Budget(p99_s=5.0),
    ),
    Scenario(
        "worker-kill",
        "kill -9 of a worker every 5 s, half of the users away for 2 s",
        injection.kill_workers,
        Budget(p99_s=3.0),
        leaves=True,
    ),
    Scenario("redis-frozen", "Redis stopped (SIGSTOP) for 20 s", injection.freeze_redis),
    Scenario("redis-killed", "Redis killed, back after 20 s with its data", injection.kill_redis),
    Scenario("redis-empty", "Redis killed, back after 20 s with nothing", injection.empty_redis),
    Scenario("redis-flushed", "FLUSHALL every 5 s", injection.flush_redis),
    Scenario(
        "redis-backlog",
        "10,000 events while Redis is stopped for 20 s",
        injection.gather_without_redis,
        Budget(settle_s=10.0),
        is_backlog=True,
        apart=True,
    ),
    Scenario("postgres-frozen", "PostgreSQL stopped (SIGSTOP) for 20 s", injection.freeze_postgres),
    Scenario(
        "postgres-restarted",
        "PostgreSQL crashes in mid-transaction, again and again",
        injection.restart_postgres,
    ),
    Scenario("postgres-read-only", "PostgreSQL takes no writes for 20 s", injection.lock_postgres),
    Scenario(
        "postgres-backlog",
        "10,000 events while PostgreSQL is stopped for 20 s",
        injection.gather_without_postgres,
        Budget(settle_s=10.0),
        is_backlog=True,
    ),
    Scenario(
        "switchover",
        "PostgreSQL's standby takes over, the old primary stays up as a standby",
        failover.switch_postgres,
        Budget(recover_s=5.0),
        spare=Spare.POSTGRES,
    ),
    Scenario(
        "redis-failover",
        "a Redis replica takes over, the old primary stays up as a replica",
        failover.switch_redis,
        Budget(recover_s=5.0),
        spare=Spare.REDIS,
        apart=True,
    ),
    Scenario(
        "sentinel",
        "the Redis primary is killed, Sentinel promotes its replica",
        failover.lose_the_sentinels_primary,
        Budget(recover_s=5.0),
        spare=Spare.SENTINEL,
        apart=True,
    ),
    Scenario(
        "all-away",
        "PostgreSQL and Redis killed, back after 20 s",
        injection.kill_everything_below,
    ),
    Scenario(
        "bus-deaf",
        "subscribers hear nothing while heartbeats go on",
        injection.deafen_the_bus,
        proxied=True,
    ),
    Scenario(
        "answers-lost",
        "posts are taken and their answers lost",
        injection.lose_answers,
    ),
    Scenario(
        "commits-lost",
        "commits are done and their answers lost",
        injection.lose_commits,
        proxied=True,
    ),
    Scenario(
        "slow-clients",
        "slow, deaf, mute and restless clients among healthy ones",
        injection.nothing,
        Budget(p99_s=1.0),
        misbehaving_share=0.2,
    ),
    Scenario("calm", "nothing breaks, to compare with", injection.nothing, Budget(p99_s=1.0)),
)
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


def chosen(names: tuple[str, ...]) -> list[Scenario]:
    """The scenarios of these names; all when none is given.

    Raises:
        ConfigError: there is no such scenario.
    """
    unknown = sorted(set(names) - set(BY_NAME))
    if unknown:
        raise ConfigError(f"no scenario {unknown[0]!r}; known: {', '.join(BY_NAME)}")
    return [BY_NAME[name] for name in names] or list(SCENARIOS)


def budget_misses(budget: Budget, verdict: Verdict) -> tuple[str, ...]:
    """Sentences about limits that were passed."""
    found = []
    p99 = verdict.to_handler_s.get("p99", 0.0)
    if budget.p99_s is not None and p99 > budget.p99_s:
        found.append(f"p99 to the handler {p99:.2f} s, budget {budget.p99_s:g} s")
    if budget.recover_s is not None and verdict.recover_s > budget.recover_s:
        found.append(f"recovered in {verdict.recover_s:.1f} s, budget {budget.recover_s:g} s")
    if budget.settle_s is not None:
        if verdict.settle_s is None:
            found.append("the backlog was not drained in time")
        elif verdict.settle_s > budget.settle_s:
            found.append(
                f"backlog drained after {verdict.settle_s:.1f} s, budget {budget.settle_s:g} s"
            )
    return tuple(found)
