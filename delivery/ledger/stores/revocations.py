"""Revocations of tokens, kept until the tokens have expired."""

from __future__ import annotations

from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.domain.event import format_instant
from delivery.domain.users.revocation import MAX_REVOCATIONS, Revocation, RevocationKind
from delivery.errors import Overloaded
from delivery.ledger.sql.database import Database
from delivery.ledger.sql.dialect import insert
from delivery.ledger.sql.rows import AnyRow
from delivery.ledger.sql.tables import revocations
from delivery.ledger.stores.audit import audit

_KEY = (revocations.c.kind, revocations.c.subject)


class RevocationSql:
    """``RevocationStore`` over SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        kind: RevocationKind,
        subject: str,
        *,
        before: datetime | None = None,
        lifetime: timedelta,
        actor: str = "",
    ) -> Revocation:
        """See the port."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            if kind is RevocationKind.USER:
                before = before or now
            given = insert(connection, revocations).values(
                kind=kind.value,
                subject=subject,
                before=before,
                expires_at=(before or now) + lifetime,
                recorded_at=now,
            )
            later = {
                name: sa.case(
                    (revocations.c[name] > given.excluded[name], revocations.c[name]),
                    else_=given.excluded[name],
                )
                for name in ("before", "expires_at")
            }
            connection.execute(
                given.on_conflict_do_update(
                    index_elements=["kind", "subject"], set_={**later, "recorded_at": now}
                )
            )
            _check_count(connection, now)
            row = connection.execute(
                sa.select(revocations).where(
                    revocations.c.kind == kind.value, revocations.c.subject == subject
                )
            ).one()
            audit.append(connection, [_recorded(kind, subject, before, actor, now)])
        return _revocation(row)

    def page(
        self, since: datetime | None, after: Revocation | None = None, limit: int = 1_000
    ) -> list[Revocation]:
        """See the port."""
        query = (
            sa.select(revocations)
            .where(revocations.c.expires_at > self._database.clock())
            .order_by(*_KEY)
            .limit(limit)
        )
        if since is not None:
            query = query.where(revocations.c.recorded_at >= since)
        if after is not None:
            end = sa.tuple_(sa.literal(after.kind.value), sa.literal(after.subject))
            query = query.where(sa.tuple_(*_KEY) > end)
        with self._database.read() as connection:
            return [_revocation(row) for row in connection.execute(query)]

    def purge(self) -> int:
        """See the port."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            gone = sa.delete(revocations).where(revocations.c.expires_at <= now)
            return connection.execute(gone).rowcount


def _recorded(
    kind: RevocationKind, subject: str, before: datetime | None, actor: str, now: datetime
) -> audit.AuditRow:
    if kind is RevocationKind.USER:
        facts = {"before": None if before is None else format_instant(before), "actor": actor}
        return audit.AuditRow("tokens_revoked", None, subject, facts, now)
    return audit.AuditRow("tokens_revoked", None, "", {"jti": subject, "actor": actor}, now)


def _check_count(connection: Connection, now: datetime) -> None:
    counting = sa.select(sa.func.count()).where(revocations.c.expires_at > now)
    if connection.execute(counting).scalar_one() > MAX_REVOCATIONS:
        # Raised inside the transaction, which does not happen then.
        raise Overloaded(
            f"{MAX_REVOCATIONS} revocations count already: change the signing secret instead",
            retry_after=3_600.0,
        )


def _revocation(row: AnyRow) -> Revocation:
    return Revocation(RevocationKind(row.kind), row.subject, row.before, row.expires_at)
