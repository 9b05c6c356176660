"""Column types of the ledger's tables, and the metadata that all tables belong to.

Owns: names of constraints, and how instants and foreign text are stored on both databases.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect

from delivery.domain.inputs.foreign_text import storable

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "pk": "pk_%(table_name)s",
}

metadata = sa.MetaData(naming_convention=NAMING)


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """Aware UTC instants on both databases; SQLite keeps fixed-width text that sorts as time."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        utc = value.astimezone(UTC)
        return utc if dialect.name == "postgresql" else utc.replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


class ForeignText(sa.types.TypeDecorator[str]):
    """Text of providers and clients: what no database takes becomes U+FFFD. An outcome is recorded
    whatever text comes with it, on both databases alike."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else storable(value)


MAX_FOREIGN_NAME = 255


class ForeignName(sa.types.TypeDecorator[str]):
    """The same of limited length; what is longer is cut."""

    impl = sa.String
    cache_ok = True

    def __init__(self, length: int = MAX_FOREIGN_NAME) -> None:
        super().__init__(length)
        self.length = length

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else storable(value, self.length)


Id = sa.Uuid(as_uuid=False).with_variant(sa.String(36), "sqlite")
Name = sa.String(128)
Big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def created(name: str, **options: Any) -> sa.Column[datetime]:
    return sa.Column(name, UtcDateTime(), nullable=False, **options)
