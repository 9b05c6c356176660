"""The fence: an event is changed by the holder of its last claim only.

Owns: the one comparison of token and generation for steps of the chain, digests and alerts. A claim
raises the token, a replay raises both; a worker that was thought dead has an older one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.domain.records import Claim
from delivery.ledger.sql.dialect import any_of
from delivery.ledger.sql.tables import events


@dataclass(frozen=True, slots=True)
class Held:
    """Which events are still the claims' own.

    Attributes:
        now: the ledger's clock; without any event nobody reads it.
    """

    ids: frozenset[str]
    now: datetime


def held(
    connection: Connection,
    clock: sa.ColumnElement[datetime],
    claims: Sequence[Claim],
    *conditions: sa.ColumnElement[bool],
) -> Held:
    """Events whose last claim is the one given. Their rows stay locked until the transaction ends,
    taken in order of their ids, as by every writer of many events.

    Args:
        clock: the ledger's, read in the same round trip.
        conditions: what must be true of the events besides.
    """
    fences = {one.stored.event.id: (one.token, one.stored.generation) for one in claims}
    if not fences:
        return Held(frozenset(), datetime.min.replace(tzinfo=UTC))
    found = connection.execute(
        sa.select(events.c.id, events.c.token, events.c.generation, clock.label("now"))
        .where(any_of(events.c.id, sorted(fences)), *conditions)
        .order_by(events.c.id)
        .with_for_update()
    ).all()
    ours = [row for row in found if fences[row.id] == (row.token, row.generation)]
    now = ours[-1].now if ours else datetime.min.replace(tzinfo=UTC)
    return Held(frozenset(row.id for row in ours), now)
