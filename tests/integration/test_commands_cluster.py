"""A cluster of commands: gateways that know of each other, a worker, beat."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import jwt
import psutil
import pytest

from tests.processes import SECRET, Process, run_command, running
from tests.servers import wait_until
from tests.wire import eventually, listening

SHORT = """
[class.critical]
ack_timeout = 0.5
retries = 1
ttl = 600
[[class.critical.chain]]
channel = "database"
[[class.critical.chain]]
channel = "queue"
[[class.critical.chain]]
channel = "direct"
attempts = 2
"""
TWO = ("gateway", "--json", "--port", "0", "--workers", "2")


@pytest.fixture
def settings(postgres_url: str, redis_url: str, tmp_path: Path) -> dict[str, str]:
    """A cluster's settings, its tables made."""
    (tmp_path / "policies.toml").write_text(SHORT)
    settings = {
        "DATABASE_URL": postgres_url,
        "REDIS_URL": redis_url,
        "JWT_SECRET": SECRET,
        "POLICIES": str(tmp_path / "policies.toml"),
        "DATA_DIR": str(tmp_path / "data"),
    }
    done = run_command("migrate", cwd=tmp_path, settings=settings)
    assert done.returncode == 0, done.stderr
    return settings


class Cluster:
    """Two gateways, a worker and beat."""

    def __init__(self, urls: list[str]) -> None:
        self.urls = urls

    def token(self, user_id: str, **claims: Any) -> str:
        return jwt.encode(
            {"sub": user_id, "exp": 4_000_000_000} | claims, SECRET, algorithm="HS256"
        )

    def http(self, gateway: int) -> httpx.Client:
        token = self.token("service", scope="emit read operate")
        return httpx.Client(
            base_url=self.urls[gateway], headers={"Authorization": f"Bearer {token}"}
        )

    def emit(self, gateway: int, user_id: str) -> str:
        body = {"type": "agent_started", "user_id": user_id, "run_id": "r", "data": {}}
        with self.http(gateway) as http:
            answer = http.post("/v1/events", json=body)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["accepted"][0]["id"])

    def event(self, event_id: str) -> dict[str, Any]:
        with self.http(0) as http:
            found: dict[str, Any] = http.get(f"/v1/events/{event_id}").json()
        return found


@pytest.fixture
def cluster(settings: dict[str, str], tmp_path: Path) -> Iterator[Cluster]:
    """A running cluster."""
    with ExitStack() as stack:

        def start(*args: str, name: str) -> Process:
            return stack.enter_context(running(*args, cwd=tmp_path, settings=settings, name=name))

        gateways = [
            start("gateway", "--json", "--port", "0", name=f"gateway-{number}")
            for number in range(2)
        ]
        start("worker", name="worker")
        start("beat", name="beat")
        yield Cluster([gateway.json_line()["url"] for gateway in gateways])


async def test_an_event_posted_at_one_gateway_reaches_its_user_at_the_other(
    cluster: Cluster,
) -> None:
    async with listening(cluster.urls[1], cluster.token("ada")) as listener:
        event_id = await asyncio.to_thread(cluster.emit, 0, "ada")
        await listener.receive(1)
        assert listener.ids[0] == event_id
        await eventually(
            lambda: cluster.event(event_id), lambda event: event["state"] == "confirmed"
        )


async def test_the_direct_step_reaches_sockets_of_other_processes(cluster: Cluster) -> None:
    async with listening(cluster.urls[1], cluster.token("ada"), acks=False) as listener:
        event_id = await asyncio.to_thread(cluster.emit, 0, "ada")
        event = await eventually(
            lambda: cluster.event(event_id),
            lambda event: any(a["channel"] == "direct" for a in event["attempts"] if a["ended_at"]),
            timeout=30,
        )
        direct = [a for a in event["attempts"] if a["channel"] == "direct"]
        assert direct[0]["outcome"] == "delivered", direct
        await listener.until(lambda: listener.ids.count(event_id) >= 2)


async def test_all_nodes_count_towards_the_connections_in_the_figures(cluster: Cluster) -> None:
    def connections() -> int:
        with cluster.http(0) as http:
            return int(http.get("/v1/stats").json()["connections"])

    async with (
        listening(cluster.urls[0], cluster.token("ada")),
        listening(cluster.urls[1], cluster.token("bob")),
    ):
        assert await eventually(connections, lambda count: count == 2) == 2


def test_processes_that_share_a_port_are_restarted_and_stopped_together(
    settings: dict[str, str], tmp_path: Path
) -> None:
    with running(*TWO, cwd=tmp_path, settings=settings) as process:
        url = process.json_line()["url"]
        parent = psutil.Process(process.process.pid)
        wait_until(lambda: len(parent.children()) == 2, "both run")
        victim = parent.children()[0].pid
        os.kill(victim, signal.SIGKILL)
        wait_until(
            lambda: (
                len(parent.children()) == 2 and victim not in {c.pid for c in parent.children()}
            ),
            "another one runs in its place",
        )
        wait_until(lambda: httpx.get(f"{url}/readyz").status_code == 200, "it serves")
        assert process.stop() == 0
        assert not psutil.pid_exists(process.process.pid)


@pytest.mark.parametrize("kind", ["worker", "beat"])
def test_a_process_of_the_chain_says_that_it_is_up(
    settings: dict[str, str], tmp_path: Path, kind: str
) -> None:
    settings["NODE"] = "one"
    with running(kind, "--json", cwd=tmp_path, settings=settings) as process:
        said = process.json_line()
        assert said["kind"] == kind
        assert said["node"].startswith("one")
        assert process.stop() == 0


def test_several_processes_without_redis_are_refused(
    settings: dict[str, str], tmp_path: Path
) -> None:
    settings["BROKER_URL"] = settings.pop("REDIS_URL")
    done = run_command(*TWO, cwd=tmp_path, settings=settings)
    assert done.returncode == 2
    assert "DELIVERY_REDIS_URL" in done.stderr


def test_a_gateway_refuses_a_development_secret(settings: dict[str, str], tmp_path: Path) -> None:
    settings["JWT_SECRET"] = "development-only-" + "0" * 64
    done = run_command("gateway", "--port", "0", cwd=tmp_path, settings=settings)
    assert done.returncode == 2
    assert "development secret" in done.stderr


async def test_a_gateway_starts_and_accepts_while_the_database_is_away(
    settings: dict[str, str], tmp_path: Path
) -> None:
    settings["DATABASE_URL"] = "postgresql://reader:hunter22@127.0.0.1:1/x"
    with running(
        "gateway", "--json", "--port", "0", cwd=tmp_path, settings=settings, name="gateway"
    ) as process:
        cluster = Cluster([process.json_line()["url"]])
        async with listening(cluster.urls[0], cluster.token("ada")) as listener:
            assert listener.welcome["recovered"] is False
            event_id = await asyncio.to_thread(cluster.emit, 0, "ada")
            await listener.receive(1)
            assert listener.ids == [event_id]
        assert process.stop() == 0
        assert "hunter22" not in process.log.read_text()
    assert any(path.stat().st_size for path in (tmp_path / "data" / "spool").iterdir())
