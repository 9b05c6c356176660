"""``events`` becomes partitioned beside the processes that use it, and keeps what is in it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa

from delivery.domain.lifecycle import Confirmation, State
from delivery.errors import ConfigError
from delivery.ledger import SqlLedger, index_builds, migrate
from delivery.ledger.partitions import converting, layout
from delivery.ledger.partitions.layout import Period
from delivery.ledger.partitions.making import AHEAD
from delivery.ledger.sql.database import Database
from delivery.ledger.sql.tables import index_builds as builds
from delivery.testing import make_entry, make_event
from tests import databases

NOW = datetime.now(UTC)
_number = itertools.count(1)


def dated(instant: datetime) -> str:
    """A caller's id of that instant."""
    least = UUID(layout.first_id(instant)).int
    return str(UUID(int=least | 7 << 76 | 2 << 62 | next(_number)))


def record(ledger: SqlLedger, *ids: str) -> None:
    ledger.recording.commit([make_entry(make_event(id=one), ttl=1e8) for one in ids])


def confirm(ledger: SqlLedger, *ids: str) -> None:
    ledger.confirmations.confirm([Confirmation(one, "u1", "websocket", "u1", "c") for one in ids])


def table_of(ledger: SqlLedger, event_id: str) -> str:
    asked = sa.text("select tableoid::regclass::text from events where id = :id")
    with ledger.database.read() as connection:
        return str(connection.execute(asked, {"id": event_id}).scalar_one())


@pytest.fixture(scope="module")
def template(postgres_admin: str) -> Iterator[str]:
    with databases.created(postgres_admin) as url:
        migrate.upgrade(databases.text(url))
        yield str(url.database)


@pytest.fixture
def url(postgres_admin: str, template: str) -> Iterator[str]:
    with databases.created(postgres_admin, template) as made:
        yield databases.text(made)


@pytest.fixture
def ledger(url: str) -> Iterator[SqlLedger]:
    found = SqlLedger.on(Database(url, pool_size=3, answer_timeout=None))
    yield found
    found.close()


def test_rows_stay_and_new_ones_go_where_their_ids_belong(ledger: SqlLedger) -> None:
    now, past, future = (
        dated(NOW),
        dated(NOW - timedelta(days=3000)),
        dated(datetime(2300, 1, 1, tzinfo=UTC)),
    )
    record(ledger, now, past, future)
    made = ledger.partitions.convert(Period.MONTH)
    assert len(made) >= AHEAD - 1
    assert ledger.partitions.convert(Period.MONTH) == [], "again: nothing is left to do"
    assert [table_of(ledger, one) for one in (now, past, future)] == [
        layout.FIRST,
        layout.DEFAULT,
        layout.DEFAULT,
    ]
    found = ledger.partitions.layout()
    assert found is not None
    assert not found.is_due(NOW)
    ahead = found.partitions[1]
    assert ahead.start is not None
    later = dated(ahead.start + timedelta(days=2))
    record(ledger, later, dated(datetime(1980, 1, 1, tzinfo=UTC)))
    assert table_of(ledger, later) == ahead.name == layout.name_of(ahead.start)
    confirm(ledger, now, past, future, later)
    for one in (now, past, future, later):
        timeline = ledger.events.get(one)
        assert timeline is not None
        assert timeline.stored.state is State.CONFIRMED


def test_an_interrupted_conversion_refuses_and_hides_nothing(
    ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(*_: object) -> None:
        raise InterruptedError

    before, late = dated(datetime(2300, 1, 1, tzinfo=UTC)), dated(datetime(2301, 1, 1, tzinfo=UTC))
    record(ledger, before)
    with monkeypatch.context() as patched:
        patched.setattr(converting, "_validate", break_off)
        with pytest.raises(InterruptedError):
            ledger.partitions.convert(Period.DAY)
    record(ledger, late)
    confirm(ledger, before, late)
    record(ledger, late)  # a duplicate
    ledger.partitions.convert(Period.DAY)
    for one in (before, late):
        timeline = ledger.events.get(one)
        assert timeline is not None
        assert timeline.stored.state is State.CONFIRMED
        assert table_of(ledger, one) == layout.DEFAULT


def test_events_of_a_missing_partition_move_into_it_when_it_is_made(ledger: SqlLedger) -> None:
    ledger.partitions.convert(Period.WEEK)
    found = ledger.partitions.layout()
    assert found is not None
    late = dated(found.end + timedelta(days=1))
    record(ledger, late)
    assert table_of(ledger, late) == layout.DEFAULT
    with ledger.database.write() as connection:
        connection.exec_driver_sql(f"DROP TABLE {found.partitions[-2].name}")
    start = found.partitions[-2].start
    assert start is not None
    gone = dated(start + timedelta(days=1))
    record(ledger, gone)
    assert table_of(ledger, gone) == layout.DEFAULT, "no error without a partition"
    assert ledger.partitions.make_ahead() == [layout.name_of(start)]
    assert table_of(ledger, gone) == layout.name_of(start)


def test_a_partition_with_an_open_event_stays_and_an_old_one_goes_whole(
    ledger: SqlLedger,
) -> None:
    ledger.partitions.convert(Period.DAY)
    old, waiting, foreign = dated(NOW), dated(NOW), dated(datetime(1990, 1, 1, tzinfo=UTC))
    record(ledger, old, waiting, foreign)
    confirm(ledger, old)
    cut = dict.fromkeys((State.CONFIRMED, State.EXPIRED), NOW + timedelta(days=9))
    assert ledger.partitions.drop_old(cut) == {}
    confirm(ledger, waiting)
    young = dict.fromkeys(cut, NOW - timedelta(days=1))
    assert ledger.partitions.drop_old(young) == {}, "young events stay"
    assert ledger.partitions.drop_old(cut, lambda _: None) == {State.CONFIRMED: 2}
    assert [ledger.events.get(one) is None for one in (old, waiting, foreign)] == [
        True,
        True,
        False,
    ]
    with ledger.database.read() as connection:
        left = connection.exec_driver_sql("SELECT count(*) FROM confirmations").scalar_one()
        assert left == 0
        told = "SELECT count(*) FROM audit_log WHERE kind = 'purged'"
        assert connection.exec_driver_sql(told).scalar_one() == 1
        assert connection.exec_driver_sql("SELECT to_regclass('events_first')").scalar_one() is None
    record(ledger, old)
    assert table_of(ledger, old) == layout.DEFAULT, "a purged id may come again"


def test_revisions_go_down_and_up_on_partitions(ledger: SqlLedger, url: str) -> None:
    record(ledger, one := dated(NOW))
    ledger.partitions.convert(Period.MONTH)
    migrate.downgrade(url, "0006")
    migrate.upgrade(url)
    assert table_of(ledger, one) == layout.FIRST


def test_an_index_is_built_partition_by_partition(ledger: SqlLedger, url: str) -> None:
    ledger.partitions.convert(Period.MONTH)
    with ledger.database.write() as connection:
        connection.exec_driver_sql("DROP INDEX ix_events_position")
        connection.execute(sa.insert(builds).values(name="ix_events_position"))
    index_builds.build(url)
    index_builds.build(url)
    asked = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'ix_events_position'::regclass"
    with ledger.database.read() as connection:
        assert connection.exec_driver_sql(asked).scalar_one()


def test_sqlite_has_none(tmp_path_factory: pytest.TempPathFactory) -> None:
    url = f"sqlite:///{tmp_path_factory.mktemp('none') / 'ledger.db'}"
    migrate.upgrade(url)
    found = SqlLedger(url)
    assert found.partitions.make_ahead() == []
    assert found.partitions.drop_old({State.CONFIRMED: NOW}) == {}
    with pytest.raises(ConfigError, match="SQLite"):
        found.partitions.convert(Period.MONTH)
    found.close()


def test_commits_and_confirmations_go_on_during_the_conversion(ledger: SqlLedger) -> None:
    done = threading.Event()
    future = datetime(2300, 1, 1, tzinfo=UTC)

    def produce() -> list[str]:
        made: list[str] = []
        while not done.is_set():
            ids = [dated(NOW), dated(future)]
            record(ledger, *ids)
            confirm(ledger, *ids)
            made += ids
        return made

    with ThreadPoolExecutor() as pool:
        producers = [pool.submit(produce) for _ in range(2)]
        try:
            ledger.partitions.convert(Period.DAY)
        finally:
            done.set()
        made = [one for producer in producers for one in producer.result(60)]
    assert made
    counted = sa.text("select count(*) from events where state = 'confirmed'")
    with ledger.database.read() as connection:
        assert connection.execute(counted).scalar_one() == len(made)
