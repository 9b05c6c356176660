"""Erasure of a user: all that the ledger holds about one, and their name in the compliance log.

Owns: which tables hold something of a user. What stays: the log's rows under a pseudonym,
revocations of the user's tokens until those expire, suppressed addresses that others have too, and
for a day hashes that limit messages to unverified addresses.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.domain.audit import canonical, split
from delivery.domain.channels import Channel
from delivery.domain.records import Erased
from delivery.ledger.sql import bulk
from delivery.ledger.sql.audit_tables import audit_log
from delivery.ledger.sql.database import Database
from delivery.ledger.sql.dialect import any_of
from delivery.ledger.sql.tables import (
    attempts,
    cloud_events,
    confirmations,
    contacts,
    digests,
    events,
    inbox_marks,
    queue_copies,
    receipts,
    runs,
    sent_messages,
    verifications,
)
from delivery.ledger.stores.audit import audit
from delivery.ledger.stores.audit import rows as audit_rows
from delivery.ledger.stores.users.suppressions import forget_addresses
from delivery.ledger.stores.webhooks import outcomes

logger = logging.getLogger(__name__)


class ErasureSql:
    """``ErasureStore`` over SQL."""

    def __init__(self, database: Database, log: audit.AuditSql) -> None:
        self._database = database
        self._log = log

    def erase_events(self, user_id: str, limit: int = bulk.PAGE) -> int:
        """See the port."""
        query = sa.select(events.c.id).where(events.c.user_id == user_id)
        with self._database.write() as connection:
            _zero_what_is_deleted(connection)
            page = query.order_by(events.c.id).limit(limit).with_for_update()
            ids = [str(row.id) for row in connection.execute(page)]
            for table in (attempts, confirmations, inbox_marks, queue_copies, cloud_events):
                connection.execute(sa.delete(table).where(any_of(table.c.event_id, ids)))
            outcomes.forget_events(connection, ids)
            connection.execute(sa.delete(events).where(any_of(events.c.id, ids)))
        return len(ids)

    def erase_rest(self, user_id: str, *, events: int, actor: str = "") -> Erased:
        """See the port."""
        self._log.seal(1)  # the switch row, which vouches for unkeyed rows, is there after it
        with self._database.write() as connection:
            _zero_what_is_deleted(connection)
            found = _delete(connection, user_id)
            changed, left, statement = self._unkeyed(connection, user_id)
            facts = {
                "subjects": list(self._log.keys.pseudonyms(user_id)),
                "events": events,
                "digests": found["digests"],
                "contact": bool(found["contacts"]),
                "actor": actor,
            }
            if changed:
                facts["unkeyed"] = statement
            now = self._database.now(connection)
            row = audit.AuditRow(audit_rows.ERASED, None, user_id, facts, now, forgets=True)
            audit.append(connection, [row])
        self._database.truncate_log()
        return Erased(events, found["digests"], bool(found["contacts"]), left)

    def _unkeyed(self, connection: Connection, user_id: str) -> tuple[int, int, object]:
        """Give rows of the first release the pseudonym, and state them anew.

        Returns:
            Rows that were changed, rows that could not be, the new statement.
        """
        ours = sa.and_(audit_log.c.number.is_(None), audit_log.c.user_id == user_id)
        rows = connection.execute(sa.select(audit_log.c.id, audit_log.c.facts).where(ours)).all()
        if not rows:
            return 0, 0, None
        stated = audit_rows.stated(connection)
        if not _may_update(connection):
            logger.warning("%d unkeyed audit rows of a user wait for the owner's role", len(rows))
            return 0, len(rows), None
        if stated is None or audit_rows.unkeyed(connection, stated["last"]) != stated:
            # A new statement would hide the forgery that the old one shows.
            logger.error("unkeyed audit rows are not as stated: run `delivery audit verify`")
            return 0, len(rows), None
        subject = self._log.keys.current.pseudonym(user_id)
        for row in rows:
            kept = {"user_id": subject, "facts": _impersonal(row.facts)}
            connection.execute(sa.update(audit_log).where(audit_log.c.id == row.id).values(kept))
        return len(rows), 0, audit_rows.unkeyed(connection, stated["last"])


def _impersonal(facts: str) -> str:
    found = json.loads(facts)
    return split(found)[0] if isinstance(found, dict) else canonical({})


def _delete(connection: Connection, user_id: str) -> dict[str, int]:
    """Delete the user's rows of all tables but events; returns their numbers."""
    own = sa.and_(digests.c.user_id == user_id, digests.c.channel != Channel.ALERT)
    ids = sa.select(digests.c.id).where(own)
    connection.execute(sa.delete(receipts).where(receipts.c.digest_id.in_(ids)))
    forget_addresses(connection, user_id)
    outcomes.forget_user(connection, user_id)
    return {
        name: connection.execute(sa.delete(table).where(where)).rowcount
        for name, table, where in _conditions(user_id, own)
    }


def _conditions(
    user_id: str, own_digests: sa.ColumnElement[bool]
) -> Iterable[tuple[str, sa.Table, sa.ColumnElement[bool]]]:
    yield "digests", digests, own_digests
    for table in (contacts, runs, queue_copies, verifications, sent_messages):
        yield table.name, table, table.c.user_id == user_id


def _may_update(connection: Connection) -> bool:
    """Whether this role may change rows of the log: on PostgreSQL its owner's alone may."""
    if not bulk.is_postgresql(connection):
        return True
    asked = sa.text("select has_table_privilege(current_user, 'audit_log', 'UPDATE')")
    return bool(connection.execute(asked).scalar_one())


def _zero_what_is_deleted(connection: Connection) -> None:
    """SQLite leaves deleted content in its file until the page is used again."""
    if not bulk.is_postgresql(connection):
        connection.exec_driver_sql("PRAGMA secure_delete=ON")
