"""``column IN (many values)``: the SQL and the parameter for each database."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.postgresql import psycopg

from delivery.ledger.sql.dialect import any_of
from delivery.ledger.sql.tables import events

CONDITION = sa.select(events.c.id).where(any_of(events.c.id, ["one", "two"]))


def test_postgresql_takes_the_parameter_for_an_array_and_not_for_text() -> None:
    text = str(CONDITION.compile(dialect=psycopg.dialect()))
    assert "CAST(%(param_1)s AS UUID[])" in text, "a text would be parsed for every row of a scan"


def test_the_values_are_one_parameter() -> None:
    compiled = CONDITION.compile(dialect=psycopg.dialect())
    bind = compiled._bind_processors["param_1"]
    assert bind(["one", "two"]) == '{"one","two"}'


def test_sqlite_reads_them_from_a_json_array() -> None:
    assert "json_each(?)" in str(CONDITION.compile(dialect=sqlite.dialect()))
