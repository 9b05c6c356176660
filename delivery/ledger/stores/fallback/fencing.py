"""The fence: only the holder of an event's last claim may change the event.

Owns: the one comparison of token and generation, for steps, digests and alerts. A claim raises the
token, a replay raises both, so a worker that lost its claim has an older one.
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
    """The events whose last claim is one of those given.

    Attributes:
        now: the ledger's clock; the earliest instant if there are no events.
    """

    ids: frozenset[str]
    now: datetime


def held(
    connection: Connection,
    clock: sa.ColumnElement[datetime],
    claims: Sequence[Claim],
    *conditions: sa.ColumnElement[bool],
) -> Held:
    """Lock and find the events whose last claim is the one given. The rows stay locked until the
    transaction ends; locked in order of ids, as by every writer of many events.

    Args:
        clock: the ledger's clock, read in the same round trip.
        conditions: further conditions on the events.
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
