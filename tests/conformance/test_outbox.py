"""The outbox on every database that an application may have: SQLite, PostgreSQL, MariaDB.

The gateway of these tests keeps what it takes in a list, by the service's rules for an id; the
whole way into a ledger, with relays that are killed, is in ``tests/faults/test_outbox.py``.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

import delivery
from delivery.errors import ConfigError, InvalidContext, Overloaded, PayloadTooLarge, Unreachable
from delivery.outbox.posting import Answer, Verdict
from delivery.outbox.relay import Relay
from delivery.outbox.source import Source
from delivery.testing import make_id
from tests import mariadb, pgbouncer
from tests.waiting import until_blocking

KINDS = ("sqlite", "postgresql", "mariadb")


@pytest.fixture(scope="module")
def mariadb_server() -> Iterator[str]:
    with mariadb.mariadb() as server:
        yield server.url


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of an application."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'application.db'}"
    elif request.param == "postgresql":
        yield request.getfixturevalue("postgres_url")
    else:
        with mariadb.created(request.getfixturevalue("mariadb_server")) as made:
            yield made


@pytest.fixture
def source(url: str) -> Iterator[Source]:
    """The database with an outbox."""
    made = Source(url)
    made.create()
    made.create()  # a second time changes nothing
    yield made
    made.close()


@pytest.fixture
def engine(url: str, source: Source) -> Iterator[sa.Engine]:
    """What the application has: its own engine, and a table of its own."""
    made = sa.create_engine(url)
    with made.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE orders (number INTEGER NOT NULL)")
    yield made
    made.dispose()


class Gateway:
    """Takes an id once. ``answers`` are used up first: functions of a request's events."""

    def __init__(self) -> None:
        self.taken: dict[str, dict[str, Any]] = {}
        self.requests: list[int] = []
        self.refuses: set[str] = set()
        self.failures: list[Exception] = []

    def send(self, events: Sequence[bytes]) -> list[Answer]:
        if self.failures:
            raise self.failures.pop(0)
        self.requests.append(len(events))
        answers = []
        for event in map(json.loads, events):
            if event["type"] in self.refuses:
                answers.append(Answer(Verdict.REFUSED, "422: not this one"))
                continue
            self.taken.setdefault(event["id"], event)
            answers.append(Answer(Verdict.ACCEPTED))
        return answers

    @property
    def numbers(self) -> list[Any]:
        return [event["data"].get("n") for event in self.taken.values()]


@contextmanager
def relaying(source: Source, gateway: Any, **options: Any) -> Iterator[Relay]:
    stop = threading.Event()
    relay = Relay(source, gateway, stop=stop, interval=0.05, **options)
    thread = threading.Thread(target=relay.run)
    thread.start()
    try:
        yield relay
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive()


def add(session: Any, n: int, **fields: Any) -> str:
    given: dict[str, Any] = {"user_id": "u1", "run_id": "r1", "type": "note", "data": {"n": n}}
    return delivery.outbox.add(session, **(given | fields))


def is_empty(source: Source) -> bool:
    return source.figures().waiting == 0


def test_what_is_committed_leaves_in_order_and_what_is_not_never_does(source, engine):
    gateway = Gateway()
    with relaying(source, gateway):
        for n in range(0, 6, 2):
            with Session(engine) as session:
                session.execute(sa.text("INSERT INTO orders VALUES (1)"))
                add(session, n)
                add(session, n + 1, thread_id="t1", meta={"m": "ä"})
                session.commit()
            with Session(engine) as session:
                add(session, 100 + n)
                session.rollback()
        with engine.begin() as connection:
            assert add(connection, 6, id=(given := make_id(1))) == given
        until_blocking(lambda: gateway.numbers == list(range(7)) and is_empty(source))
    last = list(gateway.taken.values())[5]
    assert {**last, "id": ""} == {
        "id": "",
        "type": "note",
        "user_id": "u1",
        "run_id": "r1",
        "thread_id": "t1",
        "data": {"n": 5},
        "meta": {"m": "ä"},
    }
    assert given in gateway.taken


def test_nothing_is_seen_of_a_transaction_that_is_still_open(source, engine):
    gateway = Gateway()
    with Session(engine) as open_, relaying(source, gateway):
        if engine.dialect.name == "sqlite":
            open_.execute(sa.text("SELECT 1"))
            add(open_, 1)
        else:
            add(open_, 1)
            open_.flush()
            with engine.begin() as other:
                add(other, 2)  # a later position, committed before
            until_blocking(lambda: gateway.numbers == [2])
        open_.commit()
        until_blocking(lambda: 1 in gateway.numbers)


def test_plain_sql_needs_no_library(source, engine):
    statement = (
        "INSERT INTO delivery_outbox (user_id, run_id, type, data) "
        "VALUES ('u1', 'r1', 'note', '{\"n\": 1}')"
    )
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)
    gateway = Gateway()
    gateway.failures = [Unreachable("killed after it was read")]
    with pytest.raises(Unreachable):
        Relay(source, gateway, stop=threading.Event()).carry(source.waiting(10))
    (row,) = source.waiting(10)  # its id was made once, before it was sent
    with relaying(source, gateway):
        until_blocking(lambda: is_empty(source))
    assert list(gateway.taken) == [row["id"]]


def test_a_driver_and_a_cursor_can_be_given(source, url):
    kind = sa.make_url(url)
    if kind.get_backend_name() == "sqlite":
        connection: Any = sqlite3.connect(str(kind.database))
    elif kind.get_backend_name() == "postgresql":
        connection = psycopg.connect(kind.set(drivername="postgresql").render_as_string(False))
    else:
        connection = pymysql.connect(
            host=str(kind.host), port=kind.port or 0, user="root", database=kind.database
        )
    add(connection, 1)
    add(connection.cursor(), 2)
    assert source.waiting(10) == []
    connection.commit()
    connection.close()
    assert [json.loads(row["data"]) for row in source.waiting(10)] == [{"n": 1}, {"n": 2}]


def test_a_row_that_no_schema_fits_is_set_aside_with_its_reason(source, engine):
    bad = [
        "INSERT INTO delivery_outbox (user_id, run_id, type, data) VALUES ('u', 'r', 'note', '{')",
        "INSERT INTO delivery_outbox (version, user_id, run_id, type, data) "
        "VALUES (9, 'u', 'r', 'note', '{}')",
        "INSERT INTO delivery_outbox (user_id, run_id, type, data, options) "
        "VALUES ('u', 'r', 'note', '{}', '{\"user_id\": \"v\"}')",
    ]
    with engine.begin() as connection:
        for n, statement in enumerate(bad):
            connection.exec_driver_sql(statement)
            add(connection, n)
        add(connection, 3, type="refused")
        add(connection, 4)
    gateway = Gateway()
    gateway.refuses = {"refused"}
    with relaying(source, gateway) as relay:
        until_blocking(lambda: is_empty(source))
    assert gateway.numbers == [0, 1, 2, 4]
    reasons = [row["reason"] for row in reversed(source.dead())]
    assert [reason.split()[0] for reason in reasons] == ["data:", "the", "options", "422:"]
    assert (relay.counts.sent, relay.counts.refused) == (4, 4)
    gateway.refuses = set()
    assert source.requeue([source.dead()[0]["position"]]) == 1
    with relaying(source, gateway):
        until_blocking(lambda: is_empty(source))
    assert gateway.numbers == [0, 1, 2, 4, 3]
    assert source.figures().dead == 3


def test_a_row_that_python_cannot_read_holds_no_other_up(source, engine):
    insert = "INSERT INTO delivery_outbox (id, user_id, run_id, type, created_at) VALUES "
    rows = {
        "sqlite": [
            "('x', 'u', 'r', 'refused', 'soon')",
            "('x', 'u', 'r', 'refused', 17)",
            "('x', CAST(x'ff' AS TEXT), 'r', 'note', '2026-01-01')",
            "('x', x'ff', 'r', 'note', '2026-01-01')",
        ],
        "postgresql": [
            "('x', 'u', 'r', 'refused', 'infinity')",
            "('x', 'u', 'r', 'refused', '4000-01-01 BC')",
        ],
        "mysql": ["('x', 'u', 'r', 'refused', '1970-01-01 01:00:01')"],
    }[source.kind]
    with engine.begin() as connection:
        for values in rows:
            connection.exec_driver_sql(insert + values)
        add(connection, 1)
    gateway = Gateway()
    gateway.refuses = {"refused"}
    with relaying(source, gateway, on_figures=lambda _: None):
        until_blocking(lambda: is_empty(source))
    assert gateway.numbers == [1]
    json.dumps(source.dead(), default=str).encode()
    assert source.requeue() == source.figures().waiting == len(rows)


def test_nothing_is_lost_while_the_gateway_is_away_and_the_lag_is_told(source, engine):
    gateway = Gateway()
    gateway.failures = [
        Unreachable("away"),
        Overloaded("busy", retry_after=0.01),
        Unreachable("away again"),
    ]
    with engine.begin() as connection:
        for n in range(600):
            add(connection, n)
    figures = source.figures()
    assert (figures.waiting, figures.dead) == (600, 0)
    until_blocking(lambda: source.figures().lag > 0.01)
    with relaying(source, gateway, batch=250):
        until_blocking(lambda: is_empty(source))
    assert gateway.numbers == list(range(600))
    assert source.figures().lag == 0


def test_rows_that_were_carried_over_are_trimmed(source, engine, url):
    with engine.begin() as connection:
        for n in range(3):
            add(connection, n)
    positions = [row["position"] for row in source.waiting(2)]
    source.settle(positions, [])
    assert source.trim() == 0  # kept for a day
    short = Source(url, keep=0.001)
    until_blocking(lambda: short.trim() == 0 and _count(engine) == 1)
    short.close()
    at_once = Source(url, keep=0.0)
    at_once.settle([row["position"] for row in at_once.waiting(5)], [])
    assert _count(engine) == 0
    at_once.close()


def _count(engine: sa.Engine) -> int:
    with engine.begin() as connection:
        return int(connection.scalar(sa.text("SELECT count(*) FROM delivery_outbox")) or 0)


def test_sizes_and_names_are_checked_before_a_row_is_written(source, engine):
    with Session(engine) as session:
        with pytest.raises(PayloadTooLarge):
            add(session, 1, data={"text": "x" * 65_536})
        with pytest.raises(InvalidContext, match="user_id"):
            add(session, 1, user_id="u" * 129)
        with pytest.raises(delivery.InvalidEvent, match="no_such"):
            add(session, 1, no_such=1)
        add(session, 1, data={"text": "x" * 65_500}, class_="standard", ttl=60)
        session.commit()
    (row,) = source.waiting(10)
    assert json.loads(row["options"]) == {"class": "standard", "ttl": 60}
    with pytest.raises(ConfigError, match=r"builtins\.object"):
        add(object(), 1)


def test_tables_of_a_later_release_are_refused(source, engine, url):
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE delivery_outbox_version SET version = 2")
    with pytest.raises(ConfigError, match="version 2"):
        source.check()
    with engine.begin() as connection:
        delivery.outbox.drop(connection)
    with pytest.raises(ConfigError, match="delivery outbox init"):
        source.check()


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[tuple[Source, sa.Engine]]:
    """An application's PostgreSQL with an outbox."""
    source = Source(postgres_url)
    source.create()
    engine = sa.create_engine(postgres_url)
    yield source, engine
    source.close()
    engine.dispose()


async def test_asynchronous_sessions_and_connections(postgres, postgres_url):
    source, _ = postgres
    asynchronous = create_async_engine(postgres_url)
    async with AsyncSession(asynchronous) as session, session.begin():
        first = await add(session, 0)
        second = add(session, 1)
    async with asynchronous.begin() as connection:
        third = await add(connection, 2)
    await asynchronous.dispose()
    plain = sa.make_url(postgres_url).set(drivername="postgresql").render_as_string(False)
    async with await psycopg.AsyncConnection.connect(plain) as driver:
        fourth = await add(driver, 3)
    assert [row["id"] for row in source.waiting(10)] == [first, second, third, fourth]


def test_a_commit_wakes_the_relay_and_a_lost_listener_is_replaced(postgres):
    source, engine = postgres
    gateway = Gateway()
    with relaying(source, gateway):
        until_blocking(lambda: source.is_listening)
        with engine.begin() as connection:
            add(connection, 0)
        until_blocking(lambda: gateway.numbers == [0])
        with engine.begin() as connection:
            connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'delivery-outbox' AND query LIKE 'LISTEN%%'"
            )
        with engine.begin() as connection:
            add(connection, 1)
        until_blocking(lambda: gateway.numbers == [0, 1] and source.is_listening)


def test_behind_a_pooler_the_relay_looks_for_rows(postgres, postgres_admin, postgres_url):
    _, engine = postgres
    with pgbouncer.pgbouncer(postgres_admin) as bouncer:
        source = Source(pgbouncer.through(bouncer, postgres_url))
        gateway = Gateway()
        with relaying(source, gateway):
            for n in range(3):
                with engine.begin() as connection:
                    add(connection, n)
            until_blocking(lambda: gateway.numbers == [0, 1, 2])
            assert not source.is_listening
        source.close()
