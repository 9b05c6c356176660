"""The servers of `tests/servers.py` are real, empty for each test, and can be made to fail."""

import threading
from collections.abc import Iterator

import psycopg
import pytest
import redis
from sqlalchemy import create_engine, make_url, text

from tests.servers import REDIS_KINDS, Server, postgres, redis_server, wait_until

FAST = 1.0


def _conninfo(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def _client(server: Server) -> redis.Redis:
    """A client that gives up rather than waits or tries again."""
    return redis.Redis.from_url(server.url, socket_timeout=FAST, retry=None)


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[Server]:
    with postgres() as server:
        yield server


@pytest.fixture(params=REDIS_KINDS)
def own_redis(request: pytest.FixtureRequest) -> Iterator[Server]:
    with redis_server(request.param) as server:
        yield server


@pytest.mark.parametrize("round_", [1, 2])
def test_each_test_gets_an_empty_database(postgres_url: str, round_: int) -> None:
    engine = create_engine(postgres_url)
    with engine.begin() as connection:
        assert (
            connection.scalar(text("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"))
            == 0
        )
        connection.execute(text("CREATE TABLE event (id int PRIMARY KEY)"))
        connection.execute(text("INSERT INTO event VALUES (7)"))
        assert connection.scalar(text("SELECT id FROM event")) == 7
    engine.dispose()


@pytest.mark.parametrize("round_", [1, 2])
def test_each_test_gets_an_empty_redis(redis_url: str, round_: int) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("event", round_)
        assert client.get("event") == str(round_).encode()


def test_a_database_left_with_an_open_connection_does_not_hinder_the_next_test(
    postgres_url: str,
) -> None:
    connection = psycopg.connect(_conninfo(postgres_url))
    assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_frozen_postgres_answers_only_after_it_is_thawed(own_postgres: Server) -> None:
    with psycopg.connect(_conninfo(own_postgres.url), autocommit=True) as connection:
        answered = threading.Event()

        def ask() -> None:
            connection.execute("SELECT 1")
            answered.set()

        own_postgres.stop()
        asker = threading.Thread(target=ask)
        asker.start()
        assert not answered.wait(0.3)
        own_postgres.cont()
        assert answered.wait(FAST * 10)
        asker.join()


def test_a_killed_postgres_keeps_what_was_committed(own_postgres: Server) -> None:
    conninfo = _conninfo(own_postgres.url)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS id")
        own_postgres.kill()
        assert not own_postgres.is_running
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(conninfo)
    own_postgres.restart()
    with psycopg.connect(conninfo) as connection:
        assert connection.execute("SELECT id FROM kept").fetchone() == (7,)


def test_a_running_postgres_restarts_in_good_order(own_postgres: Server) -> None:
    own_postgres.restart()
    with psycopg.connect(_conninfo(own_postgres.url)) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_frozen_redis_answers_only_after_it_is_thawed(own_redis: Server) -> None:
    with _client(own_redis) as client:
        client.set("event", 7)
        own_redis.stop()
        with pytest.raises(redis.TimeoutError):
            client.get("event")
        own_redis.cont()
        wait_until(lambda: client.get("event") == b"7", "the thawed server answers")


def test_a_killed_redis_comes_back_empty(own_redis: Server) -> None:
    with _client(own_redis) as client:
        client.set("event", 7)
        own_redis.kill()
        with pytest.raises(redis.ConnectionError):
            client.ping()
        own_redis.restart()
        assert client.get("event") is None


def test_a_persistent_redis_keeps_its_data_over_a_kill() -> None:
    with redis_server(persistent=True) as server, _client(server) as client:
        client.set("event", 7)
        server.kill()
        server.restart()
        assert client.get("event") == b"7"


def test_a_signal_to_a_dead_server_says_so() -> None:
    with redis_server() as server:
        server.kill()
        with pytest.raises(RuntimeError, match="does not run"):
            server.stop()
