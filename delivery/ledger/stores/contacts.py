"""Contacts by user. Never does: log an address or a push URL."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.domain.contact import Contact
from delivery.ledger.sql import rows
from delivery.ledger.sql.database import Database
from delivery.ledger.sql.dialect import insert
from delivery.ledger.sql.tables import contacts
from delivery.ledger.stores.audit import audit


class ContactSql:
    """``ContactStore`` over SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, user_id: str) -> Contact | None:
        """The user's contact, ``None`` if none is stored."""
        with self._database.read() as connection:
            row = connection.execute(
                sa.select(contacts).where(contacts.c.user_id == user_id)
            ).one_or_none()
        return None if row is None else rows.contact(row)

    def put(self, contact: Contact, *, actor: str = "") -> None:
        """Insert the contact, or replace the user's present one."""
        values = rows.contact_values(contact)
        with self._database.write() as connection:
            now = values["updated_at"] = self._database.now(connection)
            before = _present(connection, contact.user_id)
            statement = insert(connection, contacts).values(values)
            connection.execute(
                statement.on_conflict_do_update(index_elements=["user_id"], set_=values)
            )
            _record_changes(connection, before, contact, actor, now)

    def delete(self, user_id: str, *, actor: str = "") -> bool:
        """Delete the contact; ``False`` if there was none."""
        with self._database.write() as connection:
            before = _present(connection, user_id)
            gone = connection.execute(sa.delete(contacts).where(contacts.c.user_id == user_id))
            if before is not None:
                now = self._database.now(connection)
                _record_changes(connection, before, Contact(user_id), actor, now)
            return gone.rowcount > 0

    def opt_out(self, user_id: str, channel: str) -> None:
        """Add ``channel`` to the channels that the user refuses; safe to repeat."""
        fresh = rows.contact_values(Contact(user_id))
        with self._database.write() as connection:
            now = self._database.now(connection)
            connection.execute(
                insert(connection, contacts)
                .values(**fresh, updated_at=now)
                .on_conflict_do_nothing(index_elements=["user_id"])
            )
            mine = contacts.c.user_id == user_id
            refused = rows.load(
                connection.execute(
                    sa.select(contacts.c.opt_out).where(mine).with_for_update()
                ).scalar_one()
            )
            if channel not in refused:
                values = {"opt_out": rows.dump([*refused, channel]), "updated_at": now}
                connection.execute(sa.update(contacts).where(mine).values(values))
                facts = {"channels": [channel], "actor": "link"}
                audit.append(connection, [audit.AuditRow("opted_out", None, user_id, facts, now)])


def _present(connection: Connection, user_id: str) -> Contact | None:
    """The stored contact, locked: two changes at once are recorded one after the other."""
    query = sa.select(contacts).where(contacts.c.user_id == user_id).with_for_update()
    row = connection.execute(query).one_or_none()
    return None if row is None else rows.contact(row)


def _record_changes(
    connection: Connection, before: Contact | None, after: Contact, actor: str, now: datetime
) -> None:
    """Record which fields changed (never a value), and each channel refused or allowed again."""
    user_id = after.user_id
    old, new = (before or Contact(user_id)).as_wire(), after.as_wire()
    changed = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    was, refused = set((before or Contact(user_id)).opt_out), set(after.opt_out)
    found = [
        ("contact_changed", {"fields": changed}),
        ("opted_out", {"channels": sorted(refused - was)}),
        ("consented", {"channels": sorted(was - refused)}),
    ]
    audit.append(
        connection,
        [
            audit.AuditRow(kind, None, user_id, facts | {"actor": actor}, now)
            for kind, facts in found
            if any(facts.values())
        ],
    )
