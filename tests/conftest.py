"""Fixtures for all tests: real servers, started once per run and empty for each test.

`DELIVERY_TEST_DATABASE_URL` (a role that may create databases) and `DELIVERY_TEST_REDIS_URL` (its
database is flushed) name other servers. Tests that freeze or kill a server start their own with
`tests.servers`, so that they disturb no other test.
"""

import os
import uuid
from collections.abc import Callable, Iterator

import psycopg
import pytest
import redis
from sqlalchemy import URL, make_url

from tests import servers

DATABASE_URL = "DELIVERY_TEST_DATABASE_URL"
REDIS_URL = "DELIVERY_TEST_REDIS_URL"


def pytest_report_header() -> str:
    """Says which servers the tests use."""
    database = _described(DATABASE_URL, servers.postgres_version)
    cache = _described(REDIS_URL, servers.redis_version)
    return f"servers: {database}, {cache}"


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


@pytest.fixture
def postgres_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The SQLAlchemy URL of a new, empty database, dropped afterwards whoever is connected."""
    server = os.environ.get(DATABASE_URL) or request.getfixturevalue("postgres_server").url
    admin = make_url(server)
    name = f"test_{uuid.uuid4().hex}"
    _administer(admin, f"CREATE DATABASE {name} TEMPLATE template0")
    yield admin.set(drivername="postgresql+psycopg", database=name).render_as_string(
        hide_password=False
    )
    _administer(admin, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


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


def _administer(admin: URL, statement: str) -> None:
    conninfo = admin.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(statement)
