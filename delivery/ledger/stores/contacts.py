"""Contacts by user. Never does: log an address or a push URL."""

from __future__ import annotations

import sqlalchemy as sa

from delivery.domain.contact import Contact
from delivery.ledger.sql import rows
from delivery.ledger.sql.database import Database
from delivery.ledger.sql.dialect import insert
from delivery.ledger.sql.tables import contacts


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

    def put(self, contact: Contact) -> None:
        """Insert the contact, or replace the user's present one."""
        values = rows.contact_values(contact)
        with self._database.write() as connection:
            values["updated_at"] = self._database.now(connection)
            statement = insert(connection, contacts).values(values)
            connection.execute(
                statement.on_conflict_do_update(index_elements=["user_id"], set_=values)
            )

    def delete(self, user_id: str) -> bool:
        """Delete the contact; ``False`` if there was none."""
        with self._database.write() as connection:
            gone = connection.execute(sa.delete(contacts).where(contacts.c.user_id == user_id))
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
