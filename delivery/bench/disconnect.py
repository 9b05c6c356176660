"""A mass disconnect: how soon the chain has the events of many users who are cut off at once, and
how long the other users' acknowledgements take meanwhile.

Owns: the order of the run, the cut, and the audit. One gateway, on a core of its own, serves all
users; the sweep that beat orders runs in a process of its own, as a worker's does. There are no
workers behind the queues: their share is measured by ``fallback``. There is no floor: a bare server
drops these events.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from subprocess import Popen
from typing import Any

from delivery.bench.faults.servers import ServerMissing, any_redis, redis_server
from delivery.bench.load import percentiles
from delivery.bench.processes import (
    ANSWER_TIMEOUT,
    BenchFailed,
    answer,
    child,
    client_tokens,
    environment_of,
    new_folder,
    tell,
)
from delivery.gateway.disconnects import GRACE

POLL = 0.25
WARM_UP = 1.0
"""First seconds of the calm, not counted: a process's first acknowledgements take longer."""
MAX_SECONDS = 5.0
MAX_RATIO = 2.0
"""The aims: seconds to the hand-over, and how much longer the others may wait at p99."""

Process = Popen[str]


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Sizes of a run.

    Attributes:
        users: number of users who are cut off, with ``open_events`` each, received and not
            acknowledged.
        others: number of users who stay, and get ``rate`` events per second in all.
        calm: seconds before the cut, with all users connected, to compare with.
        payload: bytes of text in each event.
    """

    users: int
    open_events: int = 10
    others: int = 100
    rate: float = 500.0
    calm: float = 5.0
    payload: int = 100


@dataclass(frozen=True, slots=True)
class Seen:
    """Reports of the processes: instants, publications, the waits of the other users."""

    cut: float
    paced_from: float
    filled: Mapping[str, Any]
    gateway: Mapping[str, Any]
    sweeper: Mapping[str, Any]


def run_disconnect(plan: Disconnect, database_url: str | None) -> dict[str, Any]:
    """One run.

    Raises:
        BenchFailed: an event was lost, or the chain did not get all of them in time.
    """
    with (
        _broker() as (kind, url),
        new_folder() as folder,
    ):
        environment = environment_of(folder, 1_000, database_url, {"BROKER_URL": url})
        seen = _play(plan, environment)
    return {
        "mode": "disconnect",
        "plan": asdict(plan),
        "database": "SQLite" if database_url is None else "PostgreSQL",
        "broker": kind,
        **judge(seen),
    }


@contextmanager
def _broker() -> Iterator[tuple[str, str]]:
    """A Redis of the run's own; without one, tasks stay in the memory of their publisher."""
    try:
        kind = any_redis()
    except ServerMissing:
        yield "memory", "memory://"
        return
    with redis_server(kind) as server:
        yield kind, server.url


def _play(plan: Disconnect, environment: dict[str, str]) -> Seen:
    order = {
        "role": "crowded",
        "others": plan.others,
        "rate": plan.rate,
        "crowd": plan.users,
        "open_events": plan.open_events,
        "payload": plan.payload,
    }
    with ExitStack() as stack:
        gateway = stack.enter_context(child(order, 0, environment))
        url = answer(gateway)["url"]
        sweeper = stack.enter_context(child({"role": "sweeper"}, 1, environment))
        answer(sweeper)
        crowd, others = _connect(stack, plan, url, environment)
        paced_from = _ask(gateway, "pace")["pacing"]
        time.sleep(plan.calm)
        filled = _ask(gateway, "crowd")
        _wait_for(crowd, "received", filled["events"])
        cut = time.monotonic()
        crowd.kill()
        _wait_for(sweeper, "published", filled["events"])
        swept = _ask(sweeper, "done")
        served = _ask(gateway, "done")
        _audit(served, _ask(others, "done"))
    return Seen(cut, paced_from, filled, served, swept)


def _connect(
    stack: ExitStack, plan: Disconnect, url: str, environment: dict[str, str]
) -> tuple[Process, Process]:
    secret = environment["DELIVERY_JWT_SECRET"]
    found = []
    for role, name, users in (("crowd", "crowd", plan.users), ("client", "user", plan.others)):
        tokens = client_tokens(secret, users, name)
        order = {
            "role": role,
            "url": url,
            "users": users,
            "tokens": tokens,
            "timeout": ANSWER_TIMEOUT,
        }
        process = stack.enter_context(child(order, 1, environment))
        answer(process)
        found.append(process)
    return found[0], found[1]


def _ask(process: Process, line: str) -> dict[str, Any]:
    tell(process, line)
    return answer(process)


def _wait_for(process: Process, what: str, count: int) -> None:
    """Ask a process until its count of ``what`` has come to ``count``.

    Raises:
        BenchFailed: it had not in time.
    """
    deadline = time.monotonic() + ANSWER_TIMEOUT
    while (found := _ask(process, "count")[what]) < count:
        if time.monotonic() > deadline:
            raise BenchFailed(f"{count - found} of {count} events were not {what}: no figures")
        time.sleep(POLL)


def _audit(served: Mapping[str, Any], counted: Mapping[str, Any]) -> None:
    """Refuse a run that lost an event: it has no figures."""
    crowd, others = served["crowd"], served["others"]
    lost = sum(one["emitted"] - one["found"] for one in (crowd, others))
    if lost:
        raise BenchFailed(f"{lost} events are not in the ledger: no figures")
    if crowd["in_state"] < crowd["emitted"]:
        raise BenchFailed(
            f"{crowd['emitted'] - crowd['in_state']} events of the crowd are not with the chain: "
            "no figures"
        )
    if others["in_state"] < others["emitted"] or counted["repeated"]:
        raise BenchFailed(
            f"{others['emitted'] - others['in_state']} events of the others are not confirmed and "
            f"{counted['repeated']} came twice: no figures"
        )


def judge(seen: Seen) -> dict[str, Any]:
    """The figures of a run.

    Raises:
        BenchFailed: an event's task was never published.
    """
    published = _first(seen.gateway["published"], seen.sweeper["published"])
    missing = [one for one in seen.gateway["ids"] if one not in published]
    if missing:
        raise BenchFailed(f"{len(missing)} events were never published: no figures")
    instants = [published[one] for one in seen.gateway["ids"]]
    done, cut = max(instants), seen.cut
    # An event is due when its user has not come back within the grace, or when its time to
    # acknowledge is over, which counts from the commit.
    last_due = min(cut + GRACE, seen.filled["emitted"] + seen.filled["ack_timeout"])
    waits = {
        "before": _between(
            seen.gateway["samples"], seen.paced_from + WARM_UP, seen.filled["started"]
        ),
        "meanwhile": _between(seen.gateway["samples"], cut, max(done, cut)),
    }
    ack_ms = {name: percentiles(wait) for name, wait in waits.items()}
    busy = [end - start for start, end, due in seen.sweeper["sweeps"] if due]
    return {
        "events": len(instants),
        "emission_s": seen.filled["emitted"] - seen.filled["started"],
        "before_cut": sum(at < cut for at in instants),
        "handed_over_s": done - cut,
        "last_due_s": last_due - cut,
        "late_s": done - last_due,
        "sweeping_s": sum(busy),
        "ack_ms": ack_ms,
        "p99_ratio": _ratio(ack_ms),
        "aims": {"handed_over_s": MAX_SECONDS, "p99_ratio": MAX_RATIO},
    }


def _first(*tables: Mapping[str, float]) -> dict[str, float]:
    found: dict[str, float] = {}
    for table in tables:
        for event_id, at in table.items():
            found[event_id] = min(at, found.get(event_id, at))
    return found


def _between(samples: Sequence[Sequence[float]], begin: float, end: float) -> list[float]:
    return [took for at, took in samples if begin <= at < end]


def _ratio(ack_ms: Mapping[str, Mapping[str, float]]) -> float | None:
    """``None`` when nothing of the crowd was left to hand over after the cut."""
    before, meanwhile = (ack_ms[name].get("p99") for name in ("before", "meanwhile"))
    return meanwhile / before if before and meanwhile else None
