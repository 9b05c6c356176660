"""pytest-celery with processes instead of containers, bound to this project's app and tasks.

Overridden are the plugin's `celery_broker` (Redis and RabbitMQ in turn), `celery_backend` (the
ledger's PostgreSQL: there is no result backend), `celery_worker`, and the app of its setup. The
plugin's own containers are for `.ci/docker`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import uuid_utils
from celery import Celery
from pytest_celery import CeleryTestBackend, CeleryTestBroker, CeleryTestSetup, CeleryTestWorker

from delivery.domain.event import EventClass
from delivery.domain.lifecycle import State
from delivery.domain.policy import parse_policies
from delivery.ledger import SqlLedger, migrate
from delivery.tasks.broker.app import queue_name, task_name
from delivery.tasks.sweep import Sweeper
from delivery.testing import make_entry, make_event
from tests import servers
from tests.celery.local_nodes import LocalServer, LocalWorker
from tests.celery_setup import DeliverySetup
from tests.processes import SECRET
from tests.server_process import wait_until
from tests.web_server import WebServer, web_server

LONG_WAIT = 60.0

# One step with an effect that can be counted: operators are called.
POLICIES = """
[class.critical]
types = ["agent_completed"]
ack_timeout = 1.0
ttl = 600
[[class.critical.chain]]
channel = "alert"
"""


@pytest.fixture
def celery_setup_cls() -> type[CeleryTestSetup]:
    """The plugin's hook for the app."""
    return DeliverySetup


@pytest.fixture(params=["redis", "rabbitmq"])
def celery_broker(request: pytest.FixtureRequest) -> Iterator[CeleryTestBroker]:
    """One broker after the other."""
    with _broker(request) as server:
        node = CeleryTestBroker(LocalServer(server, server.url))
        yield node
        node.teardown()


@contextmanager
def _broker(request: pytest.FixtureRequest) -> Iterator[servers.Server]:
    if request.param == "rabbitmq":
        yield request.getfixturevalue("rabbitmq_server")
    else:
        with servers.redis_server() as server:
            yield server


@pytest.fixture
def celery_backend(postgres_server: servers.Server) -> CeleryTestBackend:
    """Where outcomes are kept: not with Celery."""
    return CeleryTestBackend(LocalServer(postgres_server, "disabled://"))


@pytest.fixture
def operators() -> Iterator[WebServer]:
    """Whom the chain calls."""
    with web_server() as receiver:
        yield receiver


@pytest.fixture
def limits(request: pytest.FixtureRequest) -> dict[str, str]:
    """Settings of the time limits; the defaults, unless a test parametrizes them."""
    return dict(getattr(request, "param", {}))


@pytest.fixture
def settings(
    celery_broker: CeleryTestBroker,
    celery_backend: CeleryTestBackend,
    postgres_url: str,
    operators: WebServer,
    limits: dict[str, str],
    tmp_path: Path,
) -> dict[str, str]:
    """The worker's settings, its tables made."""
    (tmp_path / "policies.toml").write_text(POLICIES)
    migrate.upgrade(postgres_url)
    return {
        "DATABASE_URL": postgres_url,
        "BROKER_URL": celery_broker.config()["url"],
        "JWT_SECRET": SECRET,
        "ALERTMANAGER_URL": operators.url,
        "POLICIES": str(tmp_path / "policies.toml"),
        "DATA_DIR": str(tmp_path / "data"),
        **limits,
    }


@pytest.fixture
def celery_worker_pool() -> str:
    """Processes, so that the time limits hold."""
    return "prefork"


@pytest.fixture
def worker_options(request: pytest.FixtureRequest) -> str:
    """Options of Celery's command that a test chooses."""
    return str(getattr(request, "param", "--concurrency 2"))


@pytest.fixture
def celery_worker(
    settings: dict[str, str],
    celery_worker_pool: str,
    worker_options: str,
    tmp_path: Path,
    celery_setup_app: Celery,
) -> Iterator[CeleryTestWorker]:
    """A worker of this project's tasks."""
    container = LocalWorker(tmp_path, settings, celery_worker_pool, worker_options)
    try:
        container.ready()
        yield CeleryTestWorker(container, celery_setup_app)
    finally:
        container.teardown()


class Chain:
    """The ledger's side: hands events over, is the beat, and reads what became of them."""

    def __init__(self, ledger: SqlLedger, app: Celery) -> None:
        self._ledger = ledger
        self._app = app
        self.copies = 1

    def publish(self, channel: str, ids: Sequence[str], priority: object = None) -> None:
        """Send a step's task, `copies` times, as one message that was delivered again and again."""
        task_id = str(uuid_utils.uuid7())
        for _ in range(self.copies):
            self._app.send_task(
                task_name(channel),
                args=(list(ids),),
                task_id=task_id,
                queue=queue_name(channel),
                retry=True,  # as beat does: its connection may be one to a broker that died
                retry_policy={"max_retries": 1},
            )

    def hand_over(self) -> str:
        """Put an event before its chain."""
        event = make_event(
            id=str(uuid_utils.uuid7()),
            type="agent_completed",
            user_id="ada",
            run_id="run-1",
            seq=None,
            at=datetime.now(UTC),
            event_class=EventClass.CRITICAL,
        )
        self._ledger.recording.commit(
            [make_entry(event, ack_timeout=5.0, ttl=600.0, hand_over=True)]
        )
        return event.id

    def sweep(self) -> None:
        """Publish what is due."""
        Sweeper(self._ledger, parse_policies(tomllib.loads(POLICIES)), self).sweep()

    def state(self, event_id: str) -> State:
        found = self._ledger.events.get(event_id)
        assert found is not None
        return found.stored.state

    def attempts(self, event_id: str) -> list[tuple[int, str]]:
        """Number and outcome of each call of the operators."""
        found = self._ledger.events.get(event_id)
        assert found is not None
        return [(a.number, a.outcome.value) for a in found.attempts if a.channel == "alert"]

    def sweep_until_dead(self, event_id: str) -> None:
        """Be the beat until the chain is over."""

        def over() -> bool:
            self.sweep()
            return self.state(event_id) is State.DEAD

        wait_until(over, "the chain is over", LONG_WAIT)


@pytest.fixture
def chain(settings: dict[str, str], celery_setup: CeleryTestSetup) -> Iterator[Chain]:
    """The ledger beside the setup's broker and worker."""
    ledger = SqlLedger(settings["DATABASE_URL"])
    yield Chain(ledger, celery_setup.app)
    celery_setup.app.close()
    ledger.close()
