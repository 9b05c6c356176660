"""``column IN (many values)`` as one statement with one parameter, however many values there are.

SQLAlchemy's own ``in_`` writes one parameter per value: the text differs from call to call, so that
neither it nor the server keeps the statement prepared.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement
from sqlalchemy.types import TypeEngine


class _Many(sa.types.TypeDecorator[list[Any]]):
    """The values: an array on PostgreSQL, a JSON array on SQLite."""

    impl = sa.Text
    cache_ok = True

    def __init__(self, item: TypeEngine[Any]) -> None:
        super().__init__()
        self.item = item

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """See SQLAlchemy."""
        is_postgresql = dialect.name == "postgresql"
        return dialect.type_descriptor(ARRAY(self.item) if is_postgresql else sa.Text())

    def process_bind_param(self, value: list[Any] | None, dialect: Dialect) -> Any:
        """See SQLAlchemy."""
        return value if dialect.name == "postgresql" else json.dumps(value)


class _Among(FunctionElement[bool]):
    type = sa.Boolean()
    inherit_cache = True

    def self_group(self, against: Any = None) -> Any:
        """A condition by itself: SQLAlchemy would compare any other function with 1."""
        return self


def among(column: sa.ColumnElement[Any], values: Iterable[Any]) -> sa.ColumnElement[bool]:
    """Whether the column's value is one of these, which must be text or whole numbers."""
    return _Among(column, sa.bindparam(None, list(values), type_=_Many(column.type)))


@compiles(_Among)
def _in_json(element: _Among, compiler: Any, **options: Any) -> str:
    column, values = (compiler.process(part, **options) for part in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({values}))"  # noqa: S608 - compiled parts


@compiles(_Among, "postgresql")
def _any_of_array(element: _Among, compiler: Any, **options: Any) -> str:
    column, values = (compiler.process(part, **options) for part in element.clauses)
    return f"{column} = ANY ({values})"
