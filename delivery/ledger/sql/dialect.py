"""The differences of SQLite and PostgreSQL: many values in one parameter, upserts, named locks.

Owns: each of these for both databases, and the names of the locks. Never does: name a table.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement


class _Many(sa.types.TypeDecorator[list[Any]]):
    """The values as one text: an array literal on PostgreSQL, a JSON array on SQLite."""

    impl = sa.Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        """Untyped on PostgreSQL, so that the server reads the parameter as the array it is cast to.
        Typed as text it would be parsed for every row of a sequential scan, the planner's choice
        for a table without statistics."""
        plain = sa.types.NullType() if dialect.name == "postgresql" else self.impl_instance
        return dialect.type_descriptor(plain)

    def process_bind_param(self, value: list[Any] | None, dialect: Dialect) -> Any:
        """See SQLAlchemy."""
        found = value or []
        return array(found) if dialect.name == "postgresql" else json.dumps(found)


def array(values: Iterable[Any]) -> str:
    """PostgreSQL's literal of a flat array; the driver builds one value by value, at ten times the
    cost. Source: PostgreSQL manual, "Arrays", "Array Input and Output Syntax"."""
    texts = [str(value) for value in values]
    if any('"' in text or "\\" in text for text in texts):
        texts = [text.replace("\\", "\\\\").replace('"', '\\"') for text in texts]
    return '{"' + '","'.join(texts) + '"}' if texts else "{}"


class _AnyOf(FunctionElement[bool]):
    type = sa.Boolean()
    inherit_cache = True

    def self_group(self, against: Any = None) -> Any:
        """A complete condition: SQLAlchemy compares other functions with 1."""
        return self


def any_of(column: sa.ColumnElement[Any], values: Iterable[Any]) -> sa.ColumnElement[bool]:
    """Whether the column's value is one of ``values``, which must be text or integers."""
    return _AnyOf(column, sa.bindparam(None, list(values), type_=_Many()))


@compiles(_AnyOf)
def _in_json(element: _AnyOf, compiler: Any, **options: Any) -> str:
    column, values = (compiler.process(part, **options) for part in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({values}))"  # noqa: S608 - compiled parts


@compiles(_AnyOf, "postgresql")
def _any_of_array(element: _AnyOf, compiler: Any, **options: Any) -> str:
    column, values = element.clauses
    kind = compiler.dialect.type_compiler_instance.process(column.type)
    text = compiler.process(values, **options)
    return f"{compiler.process(column, **options)} = ANY (CAST({text} AS {kind}[]))"


def insert(connection: Connection, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
    """The insert of this connection's dialect, with its ``on_conflict_*`` methods."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)


SEALER = "audit sealer"
MIGRATION = "migration"


def key(*names: str) -> int:
    """A stable signed 64-bit number for a lock's name."""
    text = "\0".join(("delivery", *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], signed=True)


def lock(connection: Connection, *names: str) -> None:
    """Wait for the lock; the transaction's ``lock_timeout`` bounds the wait."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("select pg_advisory_xact_lock(:key)"), {"key": key(*names)})


def try_lock(connection: Connection, *names: str) -> bool:
    """Take the lock if it is free."""
    if connection.dialect.name != "postgresql":
        return True
    taken = sa.text("select pg_try_advisory_xact_lock(:key)")
    return bool(connection.execute(taken, {"key": key(*names)}).scalar_one())
