"""Heartbeats of processes, for display: no decision of the product reads them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from delivery.domain.operators.figures import NodeInfo
from delivery.ledger.sql import rows
from delivery.ledger.sql.columns import UtcDateTime
from delivery.ledger.sql.database import Database
from delivery.ledger.sql.dialect import insert
from delivery.ledger.sql.tables import nodes

SILENCE = timedelta(seconds=60)
"""A heartbeat after a longer pause counts as a new start."""
FORGET = timedelta(days=1)
"""Age at which a node's row is deleted: nodes with generated names never come back."""


class NodeSql:
    """``NodeStore`` over SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def beat(self, node: str, kind: str, connections: int, info: Mapping[str, Any]) -> None:
        """Record this process's heartbeat, connections and figures."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            values = {
                "kind": kind,
                "seen_at": now,
                "connections": connections,
                "info": rows.dump(dict(info)),
            }
            started = sa.case(
                (nodes.c.seen_at < now - SILENCE, sa.literal(now, UtcDateTime())),
                else_=nodes.c.started_at,
            )
            connection.execute(
                insert(connection, nodes)
                .values(node=node, started_at=now, **values)
                .on_conflict_do_update(
                    index_elements=["node"], set_={**values, "started_at": started}
                )
            )
            connection.execute(sa.delete(nodes).where(nodes.c.seen_at < now - FORGET))

    def all(self, max_age: float = 60.0) -> list[NodeInfo]:
        """Processes with a heartbeat in the last ``max_age`` seconds, by name."""
        with self._database.read() as connection:
            horizon = self._database.now(connection) - timedelta(seconds=max_age)
            found = connection.execute(
                sa.select(nodes).where(nodes.c.seen_at >= horizon).order_by(nodes.c.node)
            ).all()
        return [rows.node(row) for row in found]

    def leave(self, node: str) -> None:
        """Delete the row of a process that stops."""
        with self._database.write() as connection:
            connection.execute(sa.delete(nodes).where(nodes.c.node == node))
