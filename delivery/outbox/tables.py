"""The outbox's tables for SQLAlchemy: rows that sessions and connections write.

Owns: the mapping. Never does: make the tables (``schema`` does).
"""

from __future__ import annotations

import functools
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import registry

from delivery.errors import ConfigError
from delivery.outbox.row import Added, NewRow

metadata = sa.MetaData()
_Big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_Instant = sa.DateTime(timezone=True)


def _event_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("version", sa.SmallInteger, nullable=False),
        sa.Column("id", sa.String(36)),
        sa.Column("user_id", sa.String(128), nullable=False),
        sa.Column("run_id", sa.String(128), nullable=False),
        sa.Column("thread_id", sa.String(128)),
        sa.Column("type", sa.String(128), nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        sa.Column("meta", sa.Text),
        sa.Column("options", sa.Text),
        sa.Column("created_at", _Instant, nullable=False, server_default=sa.FetchedValue()),
    ]


outbox = sa.Table(
    "delivery_outbox",
    metadata,
    sa.Column("position", _Big, primary_key=True, autoincrement=True),
    *_event_columns(),
    sa.Column("sent_at", _Instant),
)
dead = sa.Table(
    "delivery_outbox_dead",
    metadata,
    sa.Column("position", _Big, primary_key=True, autoincrement=False),
    *_event_columns(),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("dead_at", _Instant, nullable=False, server_default=sa.FetchedValue()),
)
versions = sa.Table(
    "delivery_outbox_version", metadata, sa.Column("version", sa.Integer, primary_key=True)
)


class OutboxEvent:
    """A row that a session writes with its next flush."""

    def __init__(self, **values: Any) -> None:
        for name, value in values.items():
            setattr(self, name, value)


registry(metadata=metadata).map_imperatively(
    OutboxEvent,
    outbox,
    # What the database filled in is of no interest: no second query asks for it.
    eager_defaults=False,
)


def write(session: Any, row: NewRow) -> str:
    """Write a row with a session or connection; returns its id, to be awaited where the connection
    is asynchronous.

    Raises:
        ConfigError: it is neither.
    """
    values = asdict(row)
    connections, sessions = _asynchronous()
    if isinstance(session, connections):
        return Added(row.id, session.execute(sa.insert(outbox), values))
    if isinstance(session, sa.Connection):
        session.execute(sa.insert(outbox), values)
        return row.id
    if not (hasattr(session, "add") and hasattr(session, "flush")):
        kind = type(session)
        raise ConfigError(
            f"outbox.add cannot write with a {kind.__module__}.{kind.__qualname__}: give a session "
            "or a connection, which has a transaction"
        )
    session.add(OutboxEvent(**values))
    return Added(row.id) if isinstance(session, sessions) else row.id


@functools.cache
def _asynchronous() -> tuple[tuple[type[Any], ...], tuple[type[Any], ...]]:
    """SQLAlchemy's asynchronous connections and sessions; none without greenlet, which an
    application that has them has."""
    try:
        from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
    except ImportError:
        return (), ()
    return (AsyncConnection,), (AsyncSession, async_scoped_session)
