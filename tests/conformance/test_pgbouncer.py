"""The ledger through a PgBouncer in transaction mode, with fewer sessions than connections.

Every transaction may get another session: nothing may be left in one, and nothing expected of one.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
import uuid_utils
from sqlalchemy import make_url

from delivery.domain.event import EventClass
from delivery.domain.lifecycle import Confirmation, State
from delivery.domain.records import EventFilter
from delivery.errors import ConfigError, LedgerUnavailable
from delivery.ledger import SqlLedger, migrate
from delivery.ledger.journal.journal import JournalThread
from delivery.ledger.sql.database import Database
from delivery.testing import make_entry, make_event, make_policies
from tests.pgbouncer import pgbouncer, through
from tests.servers import Server

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def bouncer(postgres_admin: str) -> Iterator[Server]:
    with pgbouncer(postgres_admin, pool_size=2) as running:
        yield running


@pytest.fixture
def url(bouncer: Server, postgres_url: str) -> str:
    return through(bouncer, postgres_url)


@pytest.fixture
def ledger(url: str) -> Iterator[SqlLedger]:
    migrate.upgrade(url)
    with closing(SqlLedger(url)) as opened:
        yield opened


def entry(run: str = "r", user: str = "ada") -> Any:
    event = make_event(
        id=str(uuid_utils.uuid7()), user_id=user, run_id=run, seq=None, event_class=EventClass.AUTH
    )
    return make_entry(event, ack_timeout=5.0, ttl=600.0)


def test_migrations_run_through_it_up_and_down(url: str) -> None:
    migrate.upgrade(url)
    assert migrate.is_current(url)
    migrate.downgrade(url, "base")
    assert migrate.current(url) is None


def story(ledger: SqlLedger, worker: int) -> int:
    """Record, read, confirm, hand over, claim, move, replay and figures, again and again."""
    done = 0
    for number in range(5):
        entries = [entry(f"run-{number % 3}", f"user-{worker}") for _ in range(4)]
        ids = [one.event.id for one in ledger_ids(ledger, entries)]
        ledger.confirmations.confirm(
            [Confirmation(ids[0], f"user-{worker}", "websocket", "device", "c1")]
        )
        ledger.operations.hand_over(ids[1:3], "gone")
        claims = ledger.chain.claim(ids[1:3], 60.0)
        assert len(claims) == 2
        ledger.chain.begin_all([(claim, 1) for claim in claims], "direct")
        found, _ = ledger.feed.page(f"user-{worker}", ids[0], by="device", limit=100)
        assert found
        listed, _ = ledger.events.find(EventFilter(user_id=f"user-{worker}"), limit=10)
        assert listed
        ledger.operations.replay([ids[3]], policies=make_policies())
        ledger.audit.seal()
        ledger.statistics.stats()
        ledger.nodes.beat(f"n{worker}", "gateway", 1, {})
        states = {one.event.id: one.state for one in ledger.events.read(ids)}
        assert states[ids[0]] is State.CONFIRMED
        assert states[ids[1]] is State.FALLING_BACK
        done += 1
    return done


def ledger_ids(ledger: SqlLedger, entries: list[Any]) -> list[Any]:
    receipts = ledger.recording.commit(entries)
    assert [one.id for one in receipts] == [one.event.id for one in entries]
    return entries


def test_many_threads_share_two_sessions_without_an_error(ledger: SqlLedger) -> None:
    with ThreadPoolExecutor(6) as pool:
        rounds = list(pool.map(lambda worker: story(ledger, worker), range(6)))
    assert rounds == [5] * 6


async def test_the_journal_commits_through_it(ledger: SqlLedger) -> None:
    journal = JournalThread(ledger)
    journal.start(asyncio.get_running_loop())
    answers: list[object] = []
    for number in range(200):
        journal.submit(entry(f"r{number % 7}"), lambda _, answer: answers.append(answer))
        if number % 20 == 0:
            await journal.flush()
    await journal.flush()
    await journal.stop()
    assert not [one for one in answers if isinstance(one, Exception)]
    assert len(answers) == 200


def test_limits_hold_in_each_transaction_and_none_is_left_behind(
    ledger: SqlLedger, postgres_url: str
) -> None:
    names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
    for opened in (ledger.database.read, ledger.database.write):
        with opened() as connection:
            found = [connection.execute(sa.text(f"show {name}")).scalar_one() for name in names]
        assert found == ["10s", "5s", "15s"]
    # The pooler's sessions are back to the server's own settings.
    conninfo = make_url(postgres_url).set(drivername="postgresql")
    entrance = make_url(str(ledger.database.url.render_as_string(hide_password=False)))
    bare = entrance.set(drivername="postgresql").render_as_string(hide_password=False)
    assert conninfo.database == entrance.database
    with psycopg.connect(bare, prepare_threshold=None, autocommit=True) as connection:
        assert [connection.execute(f"show {name}").fetchone() for name in names] == [("0",)] * 3


def test_a_lock_that_is_held_ends_in_time(ledger: SqlLedger) -> None:
    one = entry()
    ledger.recording.commit([one])
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with ledger.database.write() as connection:
            connection.execute(
                sa.text("select 1 from events where id = :id for update"), {"id": one.event.id}
            )
            held.set()
            assert over.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert held.wait(10)
        with pytest.raises(LedgerUnavailable):
            ledger.operations.hand_over([one.event.id], "gone")
    finally:
        over.set()
        holder.join()


def prepared(database: Database, times: int = 12) -> int:
    """Statements that a connection has prepared on its server after some repetitions."""
    with database.read() as connection:
        for _ in range(times):
            connection.execute(sa.text("select :x + 1"), {"x": 1})
        return int(
            connection.execute(sa.text("select count(*) from pg_prepared_statements")).scalar_one()
        )


def test_statements_are_prepared_where_nothing_stands_between(url: str, postgres_url: str) -> None:
    for given, expected in (
        (url, False),
        (postgres_url, True),
        (f"{postgres_url}?prepare_threshold=none", False),
        (f"{postgres_url}?prepare_threshold=1", True),
    ):
        with closing(Database(given)) as database:
            assert bool(prepared(database)) is expected, given


def test_a_pooler_that_is_not_noticed_costs_one_error(url: str) -> None:
    """Prepared statements are asked for against better knowledge, as a pooler that hides itself
    would have it: the first clash ends them for good."""
    errors = 0
    with closing(Database(f"{url}?prepare_threshold=1", pool_size=4)) as database:
        with ThreadPoolExecutor(4) as pool:
            for _ in range(12):
                for future in [pool.submit(prepared, database, 4) for _ in range(4)]:
                    try:
                        future.result()
                    except LedgerUnavailable:
                        errors += 1
        assert prepared(database) is not None
    assert errors <= 8


@pytest.mark.parametrize("query", ["prepare_threshold=x", "prepare_threshold=-1", "timeouts=no"])
def test_a_wrong_option_is_named(postgres_url: str, query: str) -> None:
    with pytest.raises(ConfigError, match=query.split("=")[0]):
        Database(f"{postgres_url}?{query}")


def test_the_roles_own_limits_can_be_left_in_force(postgres_url: str) -> None:
    with (
        closing(Database(f"{postgres_url}?timeouts=role")) as database,
        database.write() as connection,
    ):
        assert connection.execute(sa.text("show statement_timeout")).scalar_one() == "0"


def test_a_pooler_without_a_free_session_is_named_and_its_restart_costs_one_error(
    postgres_server: Server,
) -> None:
    settings = "query_wait_timeout = 1\nserver_lifetime = 1\n"
    with pgbouncer(postgres_server.url, pool_size=1, more=settings) as bouncer:
        url = through(bouncer, postgres_server.url)
        with closing(Database(url)) as one, closing(Database(url)) as two:
            with one.write() as connection:
                connection.execute(sa.text("select 1"))
                with pytest.raises(LedgerUnavailable) as caught:
                    two.ping()
            assert caught.value.cause == "a pooler has no connection to it"
            two.ping()
            bouncer.kill()
            with pytest.raises(LedgerUnavailable) as caught:
                one.ping()
            assert caught.value.cause == "it closed the connection"
            bouncer.start()
            one.ping()
            with pytest.raises(LedgerUnavailable):
                two.ping()  # its connection was used a moment ago, and not looked at before
            two.ping()
