"""The one history of the schema, on both databases that it serves."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from delivery.bootstrap.ledger import require_current
from delivery.domain.audit import AuditKeys
from delivery.domain.users.contact import Contact
from delivery.errors import ConfigError, LedgerUnavailable
from delivery.ledger import migrate
from delivery.ledger.sql.columns import metadata
from delivery.ledger.sql.database import Database
from delivery.ledger.stores.audit.audit import AuditSql
from delivery.ledger.stores.users.contacts import ContactSql


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    return str(request.getfixturevalue("postgres_url"))


def tables(url: str) -> set[str]:
    database = Database(url)
    names = set(sa.inspect(database.engine).get_table_names())
    database.close()
    return names - {"alembic_version"}


def indexes(url: str) -> dict[str, Any]:
    """What the server says of every index, its condition included."""
    database = Database(url)
    inspector = sa.inspect(database.engine)
    found = {
        index["name"]: (table, index["column_names"], _condition(index))
        for table in sorted(set(metadata.tables) & set(inspector.get_table_names()))
        for index in inspector.get_indexes(table)
    }
    database.close()
    return found


def _condition(index: Any) -> str | None:
    options = index.get("dialect_options", {})
    where = options.get("postgresql_where", options.get("sqlite_where"))
    return None if where is None else str(where)


def test_a_new_database_reaches_the_head(url: str) -> None:
    assert migrate.current(url) is None
    assert not migrate.is_current(url)
    migrate.upgrade(url)
    assert migrate.current(url) == migrate.head()
    assert migrate.is_current(url)
    assert tables(url) == set(metadata.tables)


def test_migrating_again_changes_nothing(url: str) -> None:
    migrate.upgrade(url)
    migrate.upgrade(url)
    assert migrate.is_current(url)


def test_down_to_base_leaves_nothing_and_up_again_works(url: str) -> None:
    migrate.upgrade(url)
    migrate.downgrade(url, "base")
    assert tables(url) == set()
    assert migrate.current(url) is None
    migrate.upgrade(url)
    assert tables(url) == set(metadata.tables)


def test_the_models_equal_the_head(url: str) -> None:
    migrate.upgrade(url)
    database = Database(url)
    with database.read() as connection:
        difference = compare_metadata(
            MigrationContext.configure(connection, opts={"compare_type": True}), metadata
        )
    database.close()
    if database.is_sqlite:
        # Alembic does not know indexes of one dialect.
        difference = [one for one in difference if not _is_of_postgresql(one)]
    assert difference == []


def _is_of_postgresql(difference: Any) -> bool:
    return bool(difference[0] == "add_index" and difference[1].name == "ix_confirmations_at")


def test_the_indexes_have_the_conditions_that_the_models_give_them(url: str) -> None:
    migrate.upgrade(url)
    migrated = indexes(url)
    migrate.downgrade(url, "base")
    database = Database(url)
    with database.write() as connection:
        metadata.create_all(connection)
    database.close()
    created = indexes(url)
    assert {name: _normal(value) for name, value in migrated.items()} == {
        name: _normal(value) for name, value in created.items()
    }
    assert sum(condition is not None for _, _, condition in created.values()) == 10


def _normal(index: tuple[str, list[str], str | None]) -> tuple[str, list[str], str]:
    """SQLite keeps a condition as it was written: the table's name and brackets say nothing."""
    table, columns, condition = index
    text = (condition or "").replace(f"{table}.", "").lower()
    return table, columns, text.translate(str.maketrans("", "", " ()"))


def test_two_upgrades_at_once_both_pass(url: str) -> None:
    start = threading.Barrier(4)
    failures: list[BaseException] = []

    def upgrade() -> None:
        start.wait(10)
        try:
            migrate.upgrade(url)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=upgrade) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []
    assert migrate.is_current(url)


def test_a_failed_migration_leaves_nothing_behind(url: str) -> None:
    database = Database(url)
    with database.write() as connection:  # in the way of the migration
        connection.execute(sa.text("create table nodes (node integer)"))
    with pytest.raises((sa.exc.DBAPIError, LedgerUnavailable)):
        migrate.upgrade(url)
    database.close()
    assert tables(url) == {"nodes"}
    assert migrate.current(url) is None


def test_positions_are_given_by_the_server_on_postgresql(postgres_url: str) -> None:
    migrate.upgrade(postgres_url)
    database = Database(postgres_url)
    [position] = [
        column
        for column in sa.inspect(database.engine).get_columns("events")
        if column["name"] == "position"
    ]
    database.close()
    assert "events_position_seq" in str(position["default"])


@pytest.mark.parametrize(
    "mark",
    [
        "update schema_compatibility set oldest = '9998'",
        "delete from schema_compatibility",
        "drop table schema_compatibility",
    ],
)
def test_a_database_of_a_newer_package_that_does_not_serve_this_one_is_refused_in_words(
    url: str, mark: str
) -> None:
    migrate.upgrade(url)
    newer(url, mark)
    with pytest.raises(ConfigError, match="9999"):
        migrate.upgrade(url)
    assert not migrate.look(url).fits
    with pytest.raises(ConfigError, match=r"9999.*newer version"):
        require_current(url)


def newer(url: str, *statements: str) -> None:
    """Let the database have a revision that this package does not know."""
    database = Database(url)
    with database.write() as connection:
        for statement in ("update alembic_version set version_num = '9999'", *statements):
            connection.execute(sa.text(statement))
    database.close()


def test_a_database_of_a_newer_package_that_serves_this_one_is_used_as_it_is(url: str) -> None:
    migrate.upgrade(url)
    newer(url)
    require_current(url)
    migrate.upgrade(url)
    assert migrate.current(url) == "9999"


def test_a_database_of_an_older_package_serves_this_one_only_after_its_migration(url: str) -> None:
    migrate.upgrade(url, "0001")
    with pytest.raises(ConfigError, match="delivery migrate"):
        require_current(url)
    migrate.upgrade(url)
    migrate.downgrade(url, "0014")
    migrate.upgrade(url)
    require_current(url)


def test_looking_at_a_database_that_is_not_there_creates_no_file(tmp_path: Path) -> None:
    path = tmp_path / "none.db"
    assert migrate.current(f"sqlite:///{path}") is None
    assert not path.exists()


def test_an_alert_of_the_release_before_outlives_the_way_up_and_down(url: str) -> None:
    migrate.upgrade(url, "0001")
    database = Database(url)
    with database.write() as connection:
        connection.execute(
            sa.text(
                "insert into digests (id, user_id, channel, class, state, message_id, error,"
                " created_at) values ('0192f000-0000-7000-8000-000000000001', '*', 'alert',"
                " 'thresholds', 'firing', 'm', '[]', '2026-01-01 00:00:00.000000')"
            )
        )
    before = indexes(url)
    moves = (
        lambda at: migrate.upgrade(at, "0002"),
        lambda at: migrate.downgrade(at, "0001"),
        lambda at: migrate.upgrade(at, "0002"),
    )
    for move in moves:
        move(url)
        with database.read() as connection:
            found = connection.execute(sa.text("select class, error from digests")).one()
        assert tuple(found) == ("thresholds", "[]")
        assert indexes(url) == before
    database.close()


OLD_ROW = sa.text(
    "INSERT INTO audit_log (at, kind, event_id, user_id, facts) VALUES "
    "(:at, 'state', '01900000-0000-7000-8000-000000000001', 'ada', '{}')"
)


def test_the_log_of_the_release_before_is_taken_over_and_both_may_write_meanwhile(
    url: str,
) -> None:
    migrate.upgrade(url, "0004")
    database = Database(url)
    at = {"at": database.now().replace(tzinfo=None) if database.is_sqlite else database.now()}
    with database.write() as connection:
        connection.execute(OLD_ROW, at)
    migrate.upgrade(url)
    log = AuditSql(database, AuditKeys("a" * 32))
    with database.write() as connection:
        connection.execute(OLD_ROW, at)
    assert log.verify().findings != (), "no switch was recorded yet"
    log.append("state", None, "ada", {})
    log.seal()
    with database.write() as connection:
        connection.execute(OLD_ROW, at)
    log.seal()
    assert log.verify().findings == ()
    with database.write() as connection:
        connection.execute(sa.text("UPDATE audit_log SET user_id = 'eve' WHERE id = 1"))
    assert log.verify().findings != ()
    database.close()
    migrate.downgrade(url, "0004")


def test_a_new_log_waits_for_no_row_of_the_release_before(url: str) -> None:
    migrate.upgrade(url)
    database = Database(url)
    log = AuditSql(database, AuditKeys("a" * 32))
    log.seal()
    at = {"at": database.now().replace(tzinfo=None) if database.is_sqlite else database.now()}
    with database.write() as connection:
        connection.execute(OLD_ROW, at)
    log.seal()
    assert log.verify().findings != ()
    database.close()


def test_a_contact_of_the_release_before_is_verified_and_one_that_it_adds_meanwhile(
    url: str,
) -> None:
    columns = "user_id, email, push, opt_out, updated_at"
    at = "'2026-11-01 12:00:00'" if url.startswith("sqlite") else "now()"
    add = f"INSERT INTO contacts ({columns}) VALUES ('%s', '%s@x.org', '[]', '[]', {at})"
    migrate.upgrade(url, "0008")
    database = Database(url)
    with database.write() as connection:
        connection.exec_driver_sql(add % ("ada", "ada"))
    migrate.upgrade(url)
    with database.write() as connection:
        connection.exec_driver_sql(add % ("bob", "bob"))
    contacts = ContactSql(database)
    for user in ("ada", "bob"):
        found = contacts.get(user)
        assert found is not None
        assert (found.email, found.unverified()) == (f"{user}@x.org", [])
    changed = contacts.put(Contact("ada", email="eve@x.org", verified=()), keeps_verified=True)
    assert changed.unverified() == [("email", "eve@x.org")]
    database.close()
