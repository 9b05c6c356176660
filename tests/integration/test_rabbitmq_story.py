"""A cluster of commands with RabbitMQ as broker: gateway, worker and beat, PostgreSQL and Redis.

Its user is never online, so that every event goes all the way through the broker.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
import redis

from delivery.tasks.broker.app import ALL_QUEUES
from tests import rabbitmq
from tests.processes import SECRET, Process, run_command, running
from tests.server_process import Server, wait_until
from tests.smtp_servers import Behaviour, smtp_server
from tests.web_server import WebServer, web_server

pytestmark = pytest.mark.timeout(480)

EMAIL = "ada@example.org"
LONG_WAIT = 150.0  # a mail that a killed worker had under way is leased for 90 s

# Each step once, in fractions of a second.
POLICIES = """
[class.critical]
types = ["agent_completed"]
ack_timeout = 0.3
retries = 0
backoff = { base = 0.05, max = 0.1, jitter = 0.1 }
ttl = 600
[[class.critical.chain]]
channel = "database"
[[class.critical.chain]]
channel = "queue"
[[class.critical.chain]]
channel = "direct"
attempts = 1
[[class.critical.chain]]
channel = "email"
attempts = 3
on_unknown = "retry"
confirms = "link"
digest = { by = ["user_id", "run_id"], window = 0.1, min_interval = 0.1 }
[[class.critical.chain]]
channel = "alert"
after = 0.2
"""
# In order, and short: a dead worker's claim is over after the lease.
LIMITS = {
    "TASK_SOFT_LIMIT": "3",
    "TASK_HARD_LIMIT": "4",
    "BROKER_VISIBILITY_TIMEOUT": "5",
    "CLAIM_LEASE": "6",
}


class Cluster:
    """The commands, and what they talk to."""

    def __init__(self, folder: Path, settings: dict[str, str], stack: ExitStack) -> None:
        self.folder = folder
        self.settings = settings
        self._stack = stack
        self.processes: list[Process] = []
        self.gateway = self.start("gateway", "--json", "--port", "0", name="gateway")
        self.worker = self.start("worker", name="worker-1")
        self.beat = self.start("beat", name="beat")
        claims = {"sub": "service", "scope": "emit read operate", "exp": 4_000_000_000}
        token = jwt.encode(claims, SECRET, algorithm="HS256")
        self.http = httpx.Client(
            base_url=self.gateway.json_line()["url"],
            headers={"Authorization": f"Bearer {token}"},
            timeout=10.0,
        )
        stack.callback(self.http.close)

    def start(self, *args: str, name: str) -> Process:
        process = self._stack.enter_context(
            running(*args, cwd=self.folder, settings=self.settings, name=name)
        )
        self.processes.append(process)
        return process

    def emit(self, run_id: str) -> str:
        body = {"type": "agent_completed", "user_id": "ada", "run_id": run_id, "data": {}}
        answer = self.http.post("/v1/events", json=body)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["accepted"][0]["id"])

    def event(self, event_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get(f"/v1/events/{event_id}").json()
        return found

    def outcomes(self, event_id: str) -> list[tuple[str, str]]:
        return [(a["channel"], a["outcome"]) for a in self.event(event_id)["attempts"]]

    def wait_until_dead(self, *ids: str) -> None:
        def over() -> bool:
            return all(self.event(event_id)["state"] == "dead" for event_id in ids)

        try:
            wait_until(over, "the events are dead", LONG_WAIT)
        except TimeoutError as late:
            logs = "\n".join(p.tail(2_000) for p in (self.worker, self.beat, self.gateway))
            states = [self.event(event_id) for event_id in ids]
            raise AssertionError(f"{late}: {states}\n{logs}") from late


@pytest.fixture
def mail() -> Iterator[Behaviour]:
    """How the mail server behaves, and what it took."""
    behaviour = Behaviour()
    with smtp_server(behaviour) as server:
        behaviour.port = server.port  # type: ignore[attr-defined]
        yield behaviour
        if behaviour.stalled is not None:
            server.loop.call_soon_threadsafe(behaviour.stalled.set)


@pytest.fixture
def operators() -> Iterator[WebServer]:
    """Who is called when nothing helped."""
    with web_server() as receiver:
        yield receiver


@pytest.fixture
def cluster(
    postgres_url: str,
    redis_url: str,
    rabbitmq_server: Server,
    mail: Behaviour,
    operators: WebServer,
    tmp_path: Path,
) -> Iterator[Cluster]:
    """A running cluster whose user has an address and is away."""
    (tmp_path / "policies.toml").write_text(POLICIES)
    settings = {
        "DATABASE_URL": postgres_url,
        "REDIS_URL": redis_url,
        "BROKER_URL": rabbitmq_server.url,
        "JWT_SECRET": SECRET,
        "SMTP_URL": f"smtp://127.0.0.1:{mail.port}?tls=none",  # type: ignore[attr-defined]
        "ALERTMANAGER_URL": operators.url,
        "POLICIES": str(tmp_path / "policies.toml"),
        "DATA_DIR": str(tmp_path / "data"),
        **LIMITS,
    }
    done = run_command("migrate", cwd=tmp_path, settings=settings)
    assert done.returncode == 0, done.stderr
    with ExitStack() as stack:
        cluster = Cluster(tmp_path, settings, stack)
        answer = cluster.http.put("/v1/users/ada/contacts", json={"email": EMAIL})
        assert answer.status_code == 200, answer.text
        yield cluster


def test_the_chain_runs_to_its_end_through_rabbitmq_and_outlives_worker_and_broker(
    cluster: Cluster,
    mail: Behaviour,
    operators: WebServer,
    redis_url: str,
    rabbitmq_server: Server,
) -> None:
    all_goes_well(cluster, mail, operators)
    with redis.Redis.from_url(redis_url) as client:
        keys = {key.decode() for key in client.scan_iter()}
    assert not [key for key in keys if "kombu" in key or key in ALL_QUEUES], "Redis is the bus only"
    assert rabbitmq.queue_kinds(rabbitmq_server.url, ALL_QUEUES) == {"quorum"}

    the_worker_dies_in_the_middle(cluster, mail)
    the_broker_dies(cluster, rabbitmq_server)
    said = cluster.beat.log.read_text()
    assert "the next one makes up for it" in said
    assert "Traceback" not in said, "an outage is no reason to fill the log"
    for process in cluster.processes:
        assert "guest:guest" not in process.log.read_text(), "the broker's password"


def all_goes_well(cluster: Cluster, mail: Behaviour, operators: WebServer) -> None:
    event_id = cluster.emit("run-1")
    cluster.wait_until_dead(event_id)
    assert cluster.outcomes(event_id)[-5:] == [
        ("database", "delivered"),
        ("queue", "delivered"),
        ("direct", "failed"),
        ("email", "delivered"),
        ("alert", "delivered"),
    ]
    assert len(mail.messages) == 1
    assert any(request.path.endswith("/api/v2/alerts") for request in operators.requests)


def the_worker_dies_in_the_middle(cluster: Cluster, mail: Behaviour) -> None:
    mail.data = None  # it takes the mail and never answers
    event_id = cluster.emit("run-2")
    wait_until(lambda: len(mail.messages) == 2, "the worker is in the middle of it", LONG_WAIT)
    cluster.worker.kill()
    mail.data = "250 OK"
    cluster.worker = cluster.start("worker", name="worker-2")
    cluster.wait_until_dead(event_id)
    emails = [outcome for channel, outcome in cluster.outcomes(event_id) if channel == "email"]
    assert emails == ["unknown", "delivered"], "another worker finished it, on the record"
    assert len(mail.messages) == 3
    first_try, second_try = (message.content for message in mail.messages[1:])
    assert message_id(first_try) == message_id(second_try), "providers can tell that it is one mail"


def the_broker_dies(cluster: Cluster, broker: Server) -> None:
    before = cluster.emit("run-3")
    wait_until(lambda: cluster.outcomes(before), "its chain has begun", LONG_WAIT)
    rabbitmq.wait_until_stored(broker, ALL_QUEUES)
    broker.kill()
    during = cluster.emit("run-4")
    assert cluster.event(during)["state"] in {"accepted", "sent", "falling_back"}
    broker.start()
    after = cluster.emit("run-5")
    cluster.wait_until_dead(before, during, after)
    for process in (cluster.gateway, cluster.worker, cluster.beat):
        assert process.process.poll() is None, "no process had to be started again"


def message_id(content: Any) -> str:
    """The mail's own id."""
    text = content.decode() if isinstance(content, bytes) else str(content)
    (line,) = (line for line in text.splitlines() if line.lower().startswith("message-id:"))
    return line
