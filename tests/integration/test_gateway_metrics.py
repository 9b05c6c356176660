"""What gateways that share a port show: whichever of them is asked, the counts of all."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from delivery import issue_token
from delivery.ledger import migrate
from tests import servers
from tests.metrics import Key, samples
from tests.processes import SECRET, running
from tests.server_process import wait_until

pytestmark = pytest.mark.timeout(180)
EVENTS = 24


def scraped(url: str) -> dict[Key, float]:
    return samples(httpx.get(f"{url}/metrics", timeout=20.0).text)


def test_each_of_two_processes_shows_the_events_of_both(
    redis_url: str, postgres_url: str, tmp_path: Path
) -> None:
    migrate.upgrade(postgres_url)
    port = servers.free_port()
    settings = {
        "DATABASE_URL": postgres_url,
        "REDIS_URL": redis_url,
        "BROKER_URL": redis_url,
        "JWT_SECRET": SECRET,
        "DATA_DIR": str(tmp_path / "data"),
        "PORT": str(port),
        "NODE": "g",
    }
    token = issue_token("shop", SECRET, scope="emit")
    event = {"type": "agent_completed", "user_id": "u-1", "run_id": "r-1", "data": {}}
    url = f"http://127.0.0.1:{port}"
    nodes: set[str] = set()
    with running("gateway", "--workers", "2", cwd=tmp_path, settings=settings) as gateway:

        def both_answer() -> bool:
            try:
                nodes.add(httpx.get(f"{url}/healthz", timeout=10.0).json()["node"])
            except httpx.TransportError:
                assert gateway.process.poll() is None, gateway.tail()
            return len(nodes) == 2

        wait_until(both_answer, "both processes answer", 90.0)
        for _ in range(EVENTS):  # each on a connection of its own
            answer = httpx.post(
                f"{url}/v1/events",
                json=event,
                headers={"Authorization": f"Bearer {token}"},
                timeout=20.0,
            )
            assert answer.status_code == 202, answer.text
        name = "delivery_events_accepted_total", frozenset({("class", "critical")})
        # An event is counted after its caller has the answer.
        wait_until(lambda: scraped(url)[name] == EVENTS, "all are counted", 60.0)
        for _ in range(12):
            found = scraped(url)
            assert found[name] == EVENTS
        shown = {dict(labels)["node"] for n, labels in found if n == "delivery_connections"}
        assert shown == nodes
