"""One scenario from the first connection to the verdict.

Owns: the order: connect, load and faults side by side, restore, drain, audit. Never does: inject a
fault.
"""

from __future__ import annotations

import asyncio
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from delivery.bench.faults.audit import Audit, Verdict
from delivery.bench.faults.cluster import Cluster, Servers, Shape, running, two_servers
from delivery.bench.faults.injection import Plan, ScenarioContext, restore
from delivery.bench.faults.listeners import Away, Clients, Listener
from delivery.bench.faults.producers import Producers
from delivery.bench.faults.scenarios import MISBEHAVIOURS, Scenario, budget_misses
from delivery.bench.processes import raise_file_limit
from delivery.domain.users.contact import Contact
from delivery.errors import LedgerUnavailable
from delivery.process.event_loop import run

POLL = 0.2
"""Seconds between two reads of the ledger during the drain."""
SECOND_SIGHT = 0.5
"""Seconds for which a resend may still be under way when every event is confirmed."""

OnOutcome = Callable[[Scenario, "Outcome"], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A scenario's verdict, and whether it kept to its budget."""

    verdict: Verdict
    misses: tuple[str, ...]
    notes: dict[str, Any]

    @property
    def is_good(self) -> bool:
        """Nothing lost, nothing handled twice."""
        return self.verdict.is_good

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return self.verdict.as_json() | {"misses": list(self.misses), "notes": self.notes}


def run_scenarios(
    scenarios: Sequence[Scenario], shape: Shape, plan: Plan, on_outcome: OnOutcome
) -> bool:
    """Each on a cluster of its own; whether all of them were good.

    Args:
        on_outcome: called with each outcome as it comes.

    Raises:
        ConfigError: a server's program is missing. ``CommandFailed``: a process did not start.
    """
    raise_file_limit()
    good = True
    for scenario in scenarios:
        with two_servers(scenario.spare) as servers, _folder(scenario) as folder:
            outcome = _run_one(scenario, shape, servers, folder, plan)
        on_outcome(scenario, outcome)
        good = good and outcome.is_good
    return good


def _run_one(
    scenario: Scenario, shape: Shape, servers: Servers, folder: Path, plan: Plan
) -> Outcome:
    found: list[Outcome] = []
    own = Shape(**(asdict(shape) | {"proxied": scenario.proxied}))

    async def main() -> None:
        async with running(own, servers, folder) as cluster:
            found.append(await run_scenario(cluster, scenario, plan))

    run(main())
    return found[0]


@contextmanager
def _folder(scenario: Scenario) -> Iterator[Path]:
    prefix = f"delivery-faults-{scenario.name}-"
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as made:
        yield Path(made)


async def run_scenario(cluster: Cluster, scenario: Scenario, plan: Plan) -> Outcome:
    """One scenario on a cluster that works, and works again afterwards.

    Raises:
        DeliveryError: a client or a process ended that should not have.
    """
    listeners = _listeners(cluster, scenario, plan.users)
    misbehaving = {one.user_id: behaviour for one, behaviour in _misbehaving(listeners, scenario)}
    await asyncio.to_thread(_write_contacts, cluster, listeners)
    clients = Clients(cluster.url, listeners)
    producers = Producers(clients, cluster.producers_url, cluster.token("producer", "emit"))
    cluster.route(apart=scenario.apart)
    try:
        await producers.open()
        await clients.open(Away(seconds=plan.away) if scenario.leaves else None, misbehaving)
        context = ScenarioContext(cluster, clients, producers, plan)
        calm_at = await _play(context, scenario)
        await clients.replace_misbehaving(
            [user for user in misbehaving if clients.by_user[user].returns]
        )
        accepted, refusals = await producers.accepted(plan.drain)
        with closing(cluster.ledger()) as ledger:
            audit = Audit(ledger, accepted, listeners)
            settle = await _drain(audit, clients, calm_at, plan.drain)
            verdict = await asyncio.to_thread(audit.verdict, refusals, context.windows, settle)
        verdict = replace(verdict, recover_s=max(verdict.recover_s, context.recovered_s))
        return Outcome(verdict, budget_misses(scenario.budget, verdict), context.notes)
    finally:
        await clients.close()
        await producers.close()


async def _play(context: ScenarioContext, scenario: Scenario) -> float:
    """Run load and faults side by side; afterwards every part works again.

    Returns:
        When both were over, in monotonic seconds.
    """
    plan = context.plan
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_inject(scenario, context))
            if not scenario.is_backlog:
                group.create_task(context.producers.pace(plan.rate, plan.seconds))
        return time.monotonic()
    finally:
        await restore(context.cluster)


async def _inject(scenario: Scenario, context: ScenarioContext) -> None:
    await scenario.inject(context)


async def _drain(audit: Audit, clients: Clients, since: float, timeout: float) -> float | None:
    """Wait until every event has ended as it should; seconds it took, ``None`` for a timeout."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        clients.check()
        try:
            left = await asyncio.to_thread(audit.open_events)
        except LedgerUnavailable:
            left = ["unknown"]
        if not left:
            took = time.monotonic() - since
            await asyncio.sleep(SECOND_SIGHT)
            return took
        await asyncio.sleep(POLL)
    return None


def _listeners(cluster: Cluster, scenario: Scenario, users: int) -> list[Listener]:
    """Users of this run alone: a cluster may serve several."""
    run_id = secrets.token_hex(3)
    names = [f"{scenario.name}-{run_id}-{number}" for number in range(users)]
    return [Listener(name, cluster.token(name)) for name in names]


def _misbehaving(listeners: list[Listener], scenario: Scenario) -> Iterator[tuple[Listener, Any]]:
    count = round(len(listeners) * scenario.misbehaving_share)
    for number, listener in enumerate(listeners[:count]):
        kind, behaviour = MISBEHAVIOURS[number % len(MISBEHAVIOURS)]
        listener.misbehaves, listener.returns = True, kind != "mute"
        listener.has_address = number % len(MISBEHAVIOURS) == len(MISBEHAVIOURS) - 1
        yield listener, behaviour


def _write_contacts(cluster: Cluster, listeners: Sequence[Listener]) -> None:
    with closing(cluster.ledger()) as ledger:
        for one in listeners:
            if one.has_address:
                ledger.contacts.put(Contact(one.user_id, email=f"{one.user_id}@example.org"))
