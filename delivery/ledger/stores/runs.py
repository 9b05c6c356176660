"""Runs: their rows, and what their events report about tokens and cost.

Owns: the columns of ``runs`` but for ``last_seq``. Never does: number events (``recording`` does).
"""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.domain.event import Event
from delivery.domain.run_tokens import TYPE, RunRow, RunTokens, reported
from delivery.ledger.sql.database import Database
from delivery.ledger.sql.tables import runs


class RunSql:
    """``RunStore`` over SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, user_id: str, run_id: str) -> RunRow | None:
        """See the port."""
        with self._database.read() as connection:
            row = connection.execute(
                sa.select(runs).where(runs.c.user_id == user_id, runs.c.run_id == run_id)
            ).one_or_none()
        if row is None:
            return None
        tokens = None
        if row.input_tokens is not None:
            tokens = RunTokens(row.input_tokens, row.output_tokens, row.cost_micros)
        return RunRow(row.user_id, row.run_id, row.last_seq, row.started_at, row.updated_at, tokens)


_FIGURES = tuple(RunTokens._fields)
_ADD = (
    sa.update(runs)
    .where(runs.c.user_id == sa.bindparam("user"), runs.c.run_id == sa.bindparam("run"))
    .values(
        {
            name: sa.func.coalesce(runs.c[name], 0)
            + sa.bindparam(f"more_{name}", type_=sa.BigInteger())
            for name in _FIGURES
        }
    )
)


def add_tokens(connection: Connection, recorded: Iterable[Event]) -> None:
    """Add to their runs what new events report.

    Args:
        recorded: events that this transaction inserts, whose runs it has locked already.
    """
    sums: dict[tuple[str, str], RunTokens] = {}
    for event in recorded:
        if event.type != TYPE:
            continue
        more = reported(event.raw_data)
        if more is not None:
            key = (event.user_id, event.run_id)
            before = sums.get(key, RunTokens(0, 0, 0))
            sums[key] = RunTokens(*(a + b for a, b in zip(before, more, strict=True)))
    if sums:
        connection.execute(
            _ADD,
            [
                {"user": user, "run": run}
                | {f"more_{name}": getattr(found, name) for name in _FIGURES}
                for (user, run), found in sorted(sums.items())
            ],
        )
