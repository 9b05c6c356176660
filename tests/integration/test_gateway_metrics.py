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
EVENTS = 12


def scraped(client: httpx.Client) -> dict[Key, float]:
    return samples(client.get("/metrics").text)


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
    nodes: set[str] = set()
    with (
        running("gateway", "--workers", "2", cwd=tmp_path, settings=settings) as gateway,
        httpx.Client(
            base_url=f"http://127.0.0.1:{port}",
            headers={"Authorization": f"Bearer {token}"},
            limits=httpx.Limits(max_keepalive_connections=0),
            timeout=20.0,
        ) as client,
    ):

        def both_answer() -> bool:
            try:
                nodes.add(client.get("/healthz").json()["node"])
            except httpx.TransportError:
                assert gateway.process.poll() is None, gateway.tail()
            return len(nodes) == 2

        wait_until(both_answer, "both processes answer", 90.0)
        for _ in range(EVENTS):
            answer = client.post("/v1/events", json=event)
            assert answer.status_code == 202, answer.text
        name = "delivery_events_accepted_total", frozenset({("class", "critical")})
        # An event is counted after its caller has the answer.
        wait_until(lambda: scraped(client)[name] == EVENTS, "all are counted", 60.0)
        for _ in range(8):
            found = scraped(client)
            assert found[name] == EVENTS
        shown = {dict(labels)["node"] for n, labels in found if n == "delivery_connections"}
        assert shown == nodes
