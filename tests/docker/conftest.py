"""pytest-celery as it comes: broker, ledger and worker in containers, the worker in our image.

Needs a container engine and the images, which `.ci/docker` provides. Nothing here is collected by
default: it names `stack.py` and `suite.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pytest_celery import CeleryTestSetup, CeleryWorkerContainer
from pytest_docker_tools import container, fxtr, image
from pytest_docker_tools.wrappers import Container
from sqlalchemy.exc import OperationalError

from delivery.errors import LedgerError
from delivery.ledger import SqlLedger, migrate
from delivery.tasks.broker.app import MAINTENANCE_QUEUE
from tests.celery_setup import DeliverySetup
from tests.deployment.compose import services
from tests.processes import SECRET
from tests.server_process import wait_until

RABBITMQ_IMAGE = "rabbitmq:4.2"
PASSWORD = "only-for-tests"
START_TIMEOUT = 120.0


class DeliveryWorkerContainer(CeleryWorkerContainer):
    """`celery -A delivery.worker worker` in the image that is deployed."""

    @property
    def client(self) -> DeliveryWorkerContainer:
        return self

    @classmethod
    def version(cls) -> str:
        return "delivery"

    @classmethod
    def worker_name(cls) -> str:
        return "delivery"

    @classmethod
    def worker_queue(cls) -> str:
        return MAINTENANCE_QUEUE

    @classmethod
    def command(cls, *args: str, **kwargs: Any) -> list[str]:
        return ["-A", "delivery.worker", "worker", "-E", "-n", f"{cls.worker_name()}@%h", *args]


delivery_image = image(name="delivery:local")
postgres_image = image(name=services()["postgres"]["image"])
ledger_container = container(
    image="{postgres_image.id}",
    environment={"POSTGRES_PASSWORD": PASSWORD},
    ports={"5432/tcp": None},
    network="{default_pytest_celery_network.name}",
    timeout=int(START_TIMEOUT),
)
default_worker_container = container(
    image="{delivery_image.id}",
    entrypoint=["celery"],
    command=fxtr("default_worker_command"),
    environment=fxtr("default_worker_env"),
    network="{default_pytest_celery_network.name}",
    wrapper_class=DeliveryWorkerContainer,
    timeout=int(START_TIMEOUT),
)


@pytest.fixture
def default_redis_broker_image() -> str:
    """The plugin's hook for the image: the one that is deployed."""
    return str(services()["redis-broker"]["image"])


@pytest.fixture
def default_rabbitmq_broker_image() -> str:
    """The plugin's hook for the image."""
    return RABBITMQ_IMAGE


@pytest.fixture
def celery_setup_cls() -> type[CeleryTestSetup]:
    """The plugin's hook for the app."""
    return DeliverySetup


@pytest.fixture
def celery_backend_cluster() -> None:
    """There is no result backend: the ledger knows."""


@pytest.fixture
def default_worker_container_cls() -> type[CeleryWorkerContainer]:
    """The plugin's hook for the command."""
    return DeliveryWorkerContainer


@pytest.fixture
def ledger_url(ledger_container: Container) -> str:
    """The containers' PostgreSQL as seen from here, its tables made."""
    (port,) = ledger_container.ports["5432/tcp"][:1]
    url = f"postgresql+psycopg://postgres:{PASSWORD}@127.0.0.1:{port}/postgres"

    def has_tables() -> bool:
        try:
            migrate.upgrade(url)
        except (OperationalError, LedgerError):  # it listens before it has made its database
            return False
        return True

    wait_until(has_tables, "the database takes its tables", START_TIMEOUT)
    return url


@pytest.fixture
def default_worker_env(
    celery_worker_cluster_config: dict[str, Any], ledger_container: Container, ledger_url: str
) -> dict[str, str]:
    """The worker's settings: the other containers as their network calls them."""
    hostname = ledger_container.attrs["Config"]["Hostname"]
    (broker_url,) = celery_worker_cluster_config["celery_broker_cluster_config"]["urls"]
    return {
        "DELIVERY_DATABASE_URL": f"postgresql://postgres:{PASSWORD}@{hostname}:5432/postgres",
        "DELIVERY_BROKER_URL": broker_url,
        "DELIVERY_JWT_SECRET": SECRET,
        "DELIVERY_AUDIT_SECRET": "audit " + SECRET,
        "DELIVERY_LOG_FORMAT": "text",
    }


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[SqlLedger]:
    """The ledger of the containers' worker."""
    ledger = SqlLedger(ledger_url)
    yield ledger
    ledger.close()
