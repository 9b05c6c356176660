"""What workers and beat show on a port of their own: the counts of all children of a worker."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import sqlalchemy as sa

import delivery
from delivery.ledger import migrate
from tests import servers
from tests.adapters.support import gateway
from tests.metrics import samples
from tests.processes import SECRET, running
from tests.server_process import wait_until

pytestmark = pytest.mark.timeout(240)
START_TIMEOUT = 90.0


def sample(port: int, name: str, **labels: str) -> float:
    try:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            found = samples(answer.read().decode())
    except URLError:
        return 0.0
    return found.get((name, frozenset(labels.items())), 0.0)


def test_workers_and_beat_show_what_they_did(
    redis_url: str, postgres_url: str, tmp_path: Path
) -> None:
    migrate.upgrade(postgres_url)
    engine = sa.create_engine(postgres_url)
    with engine.begin() as connection:
        delivery.outbox.create(connection)
        delivery.outbox.add(connection, "note", user_id="ada", run_id="run-1")
    engine.dispose()
    settings = {
        "DATABASE_URL": postgres_url,
        "BROKER_URL": redis_url,
        "JWT_SECRET": SECRET,
        "DATA_DIR": str(tmp_path / "data"),
    }
    of_worker, of_beat = servers.free_port(), servers.free_port()
    prefork = ("worker", "--pool", "prefork", "--concurrency", "2")
    with (
        gateway() as server,
        running(
            *prefork,
            "--outbox",
            "--metrics-port",
            str(of_worker),
            cwd=tmp_path,
            settings=settings
            | {"OUTBOX_SOURCE": postgres_url, "URL": server.url, "TOKEN": "of a service"},
        ) as worker,
        running("beat", "--metrics-port", str(of_beat), cwd=tmp_path, settings=settings) as beat,
    ):
        wait_until(
            lambda: sample(of_worker, "delivery_sweep_seconds_count") >= 2,
            f"sweeps of the worker's children are shown; {worker.log}",
            START_TIMEOUT,
        )
        wait_until(
            lambda: len(server.accepted) == 1,
            f"the worker carries the outbox; {worker.log}",
            START_TIMEOUT,
        )
        with urlopen(f"http://127.0.0.1:{of_worker}/metrics", timeout=10) as answer:
            assert "delivery_outbox_lag_seconds{" in answer.read().decode()
        done = sample(of_worker, "delivery_task_seconds_count", task="delivery.sweep")
        assert done >= 1
        assert sample(of_worker, "delivery_events_ended_total", state="dead") == 0.0
        wait_until(
            lambda: sample(of_beat, "delivery_beat_published_total", task="delivery.sweep") >= 2,
            f"beat shows what it published; {beat.log}",
            START_TIMEOUT,
        )
        with running(
            *prefork, "--metrics-port", str(of_worker), cwd=tmp_path, settings=settings
        ) as other:
            assert other.process.wait(START_TIMEOUT) == 2
            assert f"cannot listen on 127.0.0.1:{of_worker}" in other.tail()
            assert "DELIVERY_METRICS_PORT" in other.tail()
