"""One producer floods a gateway over HTTP: what another producer's posts wait meanwhile.

Owns: the two producers, each in a process of its own, and the comparison. The flood posts from
several connections with one service token and does not pause, also when it is refused.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from delivery.bench.load import percentiles
from delivery.bench.processes import BenchFailed, embedded_service
from delivery.tokens import make_token

START_TIMEOUT = 60.0
SECRET = "a secret of the benchmark, 32 bytes or more"  # noqa: S105 - of a server that ends with it
USERS = 4
"""Of each producer; all of them are connected and acknowledge, so that the chain has no part."""
AIM = 1.5
"""Most times as long that the steady producer's p99 may be during the flood."""


def run_flood(
    *, seconds: float, rate: float, connections: int, batch: int, rounds: int
) -> dict[str, Any]:
    """Measure the steady producer alone and beside the flood, in turn, ``rounds`` times each.

    Args:
        rate: single events per second of the steady producer.
        connections: of the flood, each with one request of ``batch`` events under way.

    Returns:
        Of the steady producer, ``alone`` and ``beside``: waits in milliseconds, and processor time
        of the gateway from post to answer, which a busy machine changes less. The ratios of their
        p99, and the flood's events per second and statuses.
    """
    samples: dict[str, dict[str, list[float]]] = {
        when: {"waits_s": [], "work_s": []} for when in ("alone", "beside")
    }
    statuses: Counter[str] = Counter()
    accepted = 0
    with embedded_service({"JWT_SECRET": SECRET}) as (url, pid):

        def steady(when: str, seconds: float) -> None:
            found = _produce("steady", url, seconds=seconds, rate=rate, gateway=pid)
            for name, values in samples[when].items():
                values += found[name]

        steady("alone", 2.0)
        samples["alone"] = {name: [] for name in samples["alone"]}  # that was the warm-up
        for _ in range(rounds):
            steady("alone", seconds)
            order = {"seconds": seconds + 1.5, "connections": connections, "batch": batch}
            with _producer("flood", url, **order) as flood:
                time.sleep(1.0)
                steady("beside", seconds)
                found = _result(flood)
            statuses.update(found["statuses"])
            accepted += found["accepted"]
            time.sleep(1.0)
    report: dict[str, Any] = {
        when: {"wait_ms": percentiles(one["waits_s"]), "gateway_cpu_ms": percentiles(one["work_s"])}
        for when, one in samples.items()
    }
    report["p99_ratio"] = {
        name: report["beside"][name]["p99"] / max(1e-9, report["alone"][name]["p99"])
        for name in ("wait_ms", "gateway_cpu_ms")
    }
    report["flood"] = {
        "events_per_s": accepted / (rounds * (seconds + 1.5)),
        "statuses": dict(statuses),
    }
    return report


@contextmanager
def _producer(role: str, url: str, **order: float) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.flood_roles"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).resolve().parents[1],
        text=True,
    )
    tokens = {
        "token": make_token(SECRET, role, "emit", ttl=3_600.0),
        "listeners": [make_token(SECRET, f"{role}-{n}", ttl=3_600.0) for n in range(USERS)],
    }
    try:
        if process.stdin is not None:
            process.stdin.write(json.dumps({"role": role, "url": url, **tokens, **order}))
            process.stdin.close()
        yield process
    finally:
        process.kill()
        process.wait()


def _result(process: subprocess.Popen[str]) -> dict[str, Any]:
    line = process.stdout.readline() if process.stdout is not None else ""
    if not line:
        raise BenchFailed("a producer ended without a result; its errors stand above")
    found: dict[str, Any] = json.loads(line)
    return found


def _produce(role: str, url: str, **order: float) -> dict[str, Any]:
    with _producer(role, url, **order) as process:
        return _result(process)


@click.command()
@click.option("--seconds", default=10.0, show_default=True, help="Of each measurement.")
@click.option("--rate", default=50.0, show_default=True, help="Events/s of the steady producer.")
@click.option("--connections", default=16, show_default=True, help="Of the flood.")
@click.option("--batch", default=100, show_default=True, help="Events in each post of the flood.")
@click.option("--rounds", default=2, show_default=True)
def main(seconds: float, rate: float, connections: int, batch: int, rounds: int) -> None:
    """Flood a gateway and show what another producer waits."""
    report = run_flood(
        seconds=seconds, rate=rate, connections=connections, batch=batch, rounds=rounds
    )
    click.echo(json.dumps(report | {"aim": AIM}, indent=2))


if __name__ == "__main__":
    main()
