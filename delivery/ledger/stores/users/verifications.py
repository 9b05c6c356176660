"""Messages to unverified addresses: which may be sent, which wait, and what their owners answered.

Owns: the limits, in the transaction that sets the contact. Never does: log an address or send.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from uuid_utils import uuid7

from delivery.domain.users.contact import Contact
from delivery.domain.users.verification import (
    LIMIT_PERIOD,
    Verification,
    address_key,
    contact_of,
    user_keys,
)
from delivery.ledger.sql import rows
from delivery.ledger.sql.database import Database
from delivery.ledger.sql.dialect import any_of, insert
from delivery.ledger.sql.tables import contacts, verification_limits, verifications
from delivery.ledger.stores.audit import audit
from delivery.ledger.stores.users import suppressions

WAITING, STARTED = "waiting", "started"
REPUBLISH = timedelta(seconds=10)
"""Time until a message that no worker took is announced again."""

MAX_FORGOTTEN = 100
"""Old rows that one transaction deletes."""


class VerificationSql:
    """``VerificationStore`` over SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def due(self) -> tuple[str, ...]:
        """See the port."""
        with self._database.read() as connection:
            now = self._database.now(connection)
            due = sa.select(verifications.c.id).where(_is_due(now))
            old = sa.select(verification_limits.c.key).where(_is_over(now))
            if not any(connection.execute(query.limit(1)).first() for query in (due, old)):
                return ()  # the most frequent case writes nothing
        with self._database.write() as connection:
            now = self._database.now(connection)
            _forget(connection, now)
            page = due.order_by(verifications.c.id).limit(1_000).with_for_update(skip_locked=True)
            ids = [str(row.id) for row in connection.execute(page)]
            found = connection.execute(
                sa.update(verifications)
                .where(any_of(verifications.c.id, ids))
                .values(due_at=now + REPUBLISH)
                .returning(verifications.c.channel)
            ).scalars()
            return tuple(sorted(set(found)))

    def claim(self, channel: str) -> Verification | None:
        """See the port."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            waiting = (
                sa.select(verifications)
                .where(
                    verifications.c.channel == channel,
                    verifications.c.state == WAITING,
                    verifications.c.due_at <= now + REPUBLISH,
                )
                .order_by(verifications.c.due_at)
                .limit(1)
                .with_for_update(skip_locked=True)
            )
            while (row := connection.execute(waiting).one_or_none()) is not None:
                mine = verifications.c.id == row.id
                contact = _still_asked(connection, row)
                if contact is None:
                    connection.execute(sa.delete(verifications).where(mine))
                    continue
                values = {"state": STARTED, "attempts": row.attempts + 1}
                connection.execute(sa.update(verifications).where(mine).values(values))
                return Verification(
                    row.id, row.user_id, channel, row.address, contact, row.attempts + 1
                )
        return None

    def end(self, verification: Verification, *, is_sent: bool, retry_in: float | None) -> None:
        """See the port."""
        mine = verifications.c.id == verification.id
        with self._database.write() as connection:
            now = self._database.now(connection)
            if retry_in is not None:
                again = {"state": WAITING, "due_at": now + timedelta(seconds=retry_in)}
                connection.execute(sa.update(verifications).where(mine).values(again))
                return
            connection.execute(sa.delete(verifications).where(mine))
            if is_sent:
                facts = {"channels": [verification.channel]}
                row = audit.AuditRow("verification_sent", None, verification.user_id, facts, now)
                audit.append(connection, [row])


def ask(connection: Connection, contact: Contact, now: datetime) -> None:
    """Let a message be sent to each unverified address that may get one. The caller holds the
    contact's row locked, so that two changes of one contact share the user's limit."""
    wanted = contact.unverified()
    if not wanted:
        return
    keys = user_keys(contact.user_id)
    used = set(
        connection.execute(
            sa.select(verification_limits.c.key).where(
                any_of(verification_limits.c.key, keys),
                verification_limits.c.at > now - LIMIT_PERIOD,
            )
        ).scalars()
    )
    free = [key for key in keys if key not in used]
    barred = suppressions.barred_addresses(connection, now, wanted)
    # In one order everywhere: two transactions must not wait for each other.
    by_key = {
        address_key(channel, suppressions.form_of(channel, address)): (channel, address)
        for channel, address in wanted
        if (channel, address) not in barred
    }
    for key in sorted(by_key):
        if not free:
            return
        if not _take(connection, key, now):
            continue
        _take(connection, free.pop(), now)
        channel, address = by_key[key]
        connection.execute(
            sa.insert(verifications).values(
                id=str(uuid7()),
                user_id=contact.user_id,
                channel=channel.value,
                address=address,
                state=WAITING,
                attempts=0,
                asked_at=now,
                due_at=now,
            )
        )


def _take(connection: Connection, key: str, now: datetime) -> bool:
    """Use a limit; ``False`` if it was used within the period."""
    fresh = insert(connection, verification_limits).values(key=key, at=now)
    taken = fresh.on_conflict_do_update(
        index_elements=["key"],
        set_={"at": now},
        where=verification_limits.c.at <= now - LIMIT_PERIOD,
    ).returning(verification_limits.c.key)
    return connection.execute(taken).first() is not None


def _still_asked(connection: Connection, row: rows.AnyRow) -> Contact | None:
    """The contact that a message is for, unless the address is not the user's any more, is verified
    by now, or is suppressed."""
    query = sa.select(contacts).where(contacts.c.user_id == row.user_id)
    found = connection.execute(query).one_or_none()
    if found is None:
        return None
    contact = rows.contact(found)
    if row.address not in {address for _, address in contact.unverified()}:
        return None
    return contact_of(contact, row.channel, row.address)


def _is_due(now: datetime) -> sa.ColumnElement[bool]:
    return sa.and_(verifications.c.state == WAITING, verifications.c.due_at <= now)


def _is_over(now: datetime) -> sa.ColumnElement[bool]:
    return verification_limits.c.at <= now - LIMIT_PERIOD


def _forget(connection: Connection, now: datetime) -> None:
    """Delete limits that are over, and messages that no worker sent in their time."""
    for table, condition in (
        (verification_limits, _is_over(now)),
        (verifications, verifications.c.asked_at <= now - LIMIT_PERIOD),
    ):
        (key,) = table.primary_key.columns
        page = sa.select(key).where(condition).order_by(key).limit(MAX_FORGOTTEN)
        old = connection.execute(page.with_for_update(skip_locked=True)).scalars()
        connection.execute(sa.delete(table).where(any_of(key, [str(one) for one in old])))
