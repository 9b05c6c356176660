"""What a driver's error says about its connection, by real errors where one can be had."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from delivery.errors import LedgerReadOnly, LedgerUnavailable
from delivery.ledger.sql.failures import Verdict, judge, unavailable


def of_state(state: str) -> psycopg.Error:
    return psycopg.errors.lookup(state)("as the server said")


@pytest.mark.parametrize("state", ["57P01", "57P02", "57P03", "57P05", "25P03", "25P04", "25000"])
def test_a_session_that_the_server_ended_is_gone(state: str) -> None:
    assert judge(of_state(state)) is Verdict.GONE
    assert type(unavailable(of_state(state))) is LedgerUnavailable


@pytest.mark.parametrize("state", ["08000", "08003", "08006", "08P01"])
def test_a_connection_that_broke_is_gone(state: str) -> None:
    assert judge(of_state(state)) is Verdict.GONE


def test_a_write_that_is_refused_means_another_server() -> None:
    assert judge(of_state("25006")) is Verdict.READ_ONLY
    assert isinstance(unavailable(of_state("25006")), LedgerReadOnly)


@pytest.mark.parametrize("state", ["57014", "55P03", "40P01", "40001", "53100", "53300"])
def test_what_may_work_at_the_next_try_costs_no_connection(state: str) -> None:
    assert judge(of_state(state)) is Verdict.KEEP
    assert type(unavailable(of_state(state))) is LedgerUnavailable


@pytest.mark.parametrize("state", ["23505", "22001", "42601"])
def test_a_wrong_statement_is_no_outage(state: str) -> None:
    assert judge(of_state(state)) is Verdict.KEEP
    assert unavailable(of_state(state)) is None


@pytest.mark.parametrize("state", ["42501", "42P01", "42703", "3F000", "3D000"])
def test_what_every_event_needs_and_is_not_there_is_an_outage(state: str) -> None:
    found = unavailable(of_state(state))
    assert type(found) is LedgerUnavailable
    assert found.cause


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ('FATAL:  password authentication failed for user "delivery"', "the password"),
        ("FATAL:  sorry, too many clients already", "no more connections"),
        ("FATAL:  no more connections allowed (max_client_conn)", "no more connections"),
        ("transaction blocks not allowed in statement pooling mode", "statement mode"),
        ('FATAL:  database "delivery" does not exist', "the database is not there"),
        ('could not translate host name "db" to address', "name is not found"),
        ('connection to server at "10.0.0.5", port 5432 failed: Connection refused', "listens"),
    ],
)
def test_a_connection_that_was_not_made_has_a_cause_that_names_no_host(
    text: str, cause: str
) -> None:
    found = unavailable(psycopg.OperationalError(text))
    assert found is not None
    assert found.cause is not None
    assert cause in found.cause
    assert "10.0" not in found.cause


@pytest.mark.parametrize("hosts", ["host=127.0.0.1 port=1", "host=127.0.0.1,127.0.0.1 port=1,1"])
def test_a_connection_that_was_not_made_condemns_no_other(hosts: str) -> None:
    with pytest.raises(psycopg.OperationalError) as caught:
        psycopg.connect(f"{hosts} connect_timeout=2")
    assert judge(caught.value) is Verdict.NOT_MADE
    assert type(unavailable(caught.value)) is LedgerUnavailable


def test_a_sqlite_file_that_cannot_be_written_is_read_only(tmp_path: Path) -> None:
    file = tmp_path / "ledger.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("create table t (id int)")
    engine = sa.create_engine(f"sqlite:///file:{file}?mode=ro&uri=true")
    with engine.connect() as connection, pytest.raises(sa.exc.OperationalError) as caught:
        connection.execute(sa.text("insert into t values (1)"))
    engine.dispose()
    assert isinstance(unavailable(caught.value), LedgerReadOnly)
