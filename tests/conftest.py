"""Fixtures for all tests: real servers, started once per run and empty for each test.

`DELIVERY_TEST_DATABASE_URL` (a role that may create databases) and `DELIVERY_TEST_REDIS_URL` (its
database is flushed) name other servers, as does `DELIVERY_TEST_RABBITMQ_URL` (our queues in it are
deleted). Tests that freeze or kill a server start their own with `tests.servers`, so that they
disturb no other test; RabbitMQ, which takes long to start, they share and start again.
"""

import os
from collections.abc import Callable, Iterator

import pytest
import redis

from delivery.tasks.broker.app import ALL_QUEUES
from tests import databases, rabbitmq, servers

DATABASE_URL = "DELIVERY_TEST_DATABASE_URL"
REDIS_URL = "DELIVERY_TEST_REDIS_URL"


def pytest_report_header() -> str:
    """Says which servers the tests use."""
    database = _described(DATABASE_URL, servers.postgres_version)
    cache = _described(REDIS_URL, servers.redis_version)
    return f"servers: {database}, {cache}, {_described(rabbitmq.RABBITMQ_URL, _rabbitmq_version)}"


def _rabbitmq_version() -> str:
    binary = rabbitmq.rabbitmq_binary()
    if binary is None:
        raise RuntimeError(f"no RabbitMQ: {rabbitmq.INSTALL}")
    return rabbitmq.rabbitmq_version(binary)


def _described(setting: str, own: Callable[[], str]) -> str:
    if setting in os.environ:
        return f"that of {setting}"
    try:
        return own()
    except RuntimeError as missing:  # fails the tests that need it, not the others
        return f"none ({missing})"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[servers.Server]:
    """This run's own PostgreSQL."""
    with servers.postgres() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server_proc() -> Iterator[servers.Server]:
    """This run's own Redis-compatible server."""
    with servers.redis_server() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_admin(request: pytest.FixtureRequest) -> str:
    """The URL of the server on which tests make their databases."""
    return os.environ.get(DATABASE_URL) or str(request.getfixturevalue("postgres_server").url)


@pytest.fixture
def postgres_url(postgres_admin: str) -> Iterator[str]:
    """The SQLAlchemy URL of a new, empty database, dropped afterwards, open connections or not."""
    with databases.created(postgres_admin) as url:
        yield databases.text(url)


@pytest.fixture
def redis_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty Redis database."""
    foreign = os.environ.get(REDIS_URL)
    url = foreign or request.getfixturevalue("redis_server_proc").url
    with redis.Redis.from_url(url) as client:
        if foreign:
            client.flushdb()
        else:
            client.flushall()
    return url


@pytest.fixture(scope="session")
def rabbitmq_server_proc() -> Iterator[servers.Server]:
    """This run's own RabbitMQ; a test that stops it starts it again."""
    with rabbitmq.rabbitmq_server() as server:
        yield server


@pytest.fixture
def rabbitmq_server(rabbitmq_server_proc: servers.Server) -> servers.Server:
    """This run's own RabbitMQ, running and without our queues: to stop, kill and freeze."""
    if not rabbitmq_server_proc.is_running:
        rabbitmq_server_proc.start()
    rabbitmq.delete_queues(rabbitmq_server_proc.url, ALL_QUEUES)
    return rabbitmq_server_proc


@pytest.fixture
def rabbitmq_url(request: pytest.FixtureRequest) -> str:
    """The URL of a RabbitMQ without our queues."""
    foreign = os.environ.get(rabbitmq.RABBITMQ_URL)
    if not foreign:
        return str(request.getfixturevalue("rabbitmq_server").url)
    rabbitmq.delete_queues(foreign, ALL_QUEUES)
    return foreign
