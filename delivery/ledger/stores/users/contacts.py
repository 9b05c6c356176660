"""Contacts by user. Never does: log an address or a push URL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.domain.event import format_instant
from delivery.domain.users.contact import Contact, fingerprint
from delivery.domain.users.web_push import WebPush, with_device
from delivery.domain.webhooks.endpoints import WebhookKind
from delivery.ledger.sql import rows
from delivery.ledger.sql.database import Database
from delivery.ledger.sql.dialect import insert
from delivery.ledger.sql.tables import contacts
from delivery.ledger.stores.audit import audit
from delivery.ledger.stores.users import verifications
from delivery.ledger.stores.webhooks import outcomes


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

    def put(self, contact: Contact, *, actor: str = "", keeps_verified: bool = False) -> Contact:
        """See the port."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            _make_row(connection, contact.user_id, now)
            before = _present(connection, contact.user_id)
            if keeps_verified and before is not None:
                contact = _with_verified_of(before, contact)
            if before is not None:
                contact = replace(contact, web_push=before.web_push)
            values = rows.contact_values(contact) | {"updated_at": now}
            mine = contacts.c.user_id == contact.user_id
            connection.execute(sa.update(contacts).where(mine).values(values))
            _record_changes(connection, before, contact, actor, now)
            verifications.ask(connection, contact, now)
        return contact

    def verify(self, user_id: str, channel: str, name: str) -> Contact | None:
        """See the port."""
        with self._database.write() as connection:
            contact = _present(connection, user_id)
            if contact is None:
                return None
            open_ones = {fingerprint(*one): one[1] for one in contact.unverified()}
            if name not in open_ones:
                known = {fingerprint(*one) for one in contact.addresses()}
                return contact if name in known else None
            verified = (*(contact.verified or ()), open_ones[name])
            contact = replace(contact, verified=verified)
            now = self._database.now(connection)
            values = {"verified": rows.dump(list(verified)), "updated_at": now}
            mine = contacts.c.user_id == user_id
            connection.execute(sa.update(contacts).where(mine).values(values))
            facts = {"channels": [channel], "actor": "link"}
            audit.append(connection, [audit.AuditRow("verified", None, user_id, facts, now)])
        return contact

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
        with self._database.write() as connection:
            before = self._locked(connection, user_id)
            if channel not in before.opt_out:
                self._set_opt_out(connection, before, (*before.opt_out, channel))

    def choose(self, user_id: str, channel: str, refused: Sequence[str]) -> tuple[str, ...]:
        """See the port."""
        with self._database.write() as connection:
            before = self._locked(connection, user_id)
            own = tuple(one for one in before.opt_out if one.partition(":")[0] == channel)
            others = tuple(one for one in before.opt_out if one not in own)
            if set(own) != set(refused):
                self._set_opt_out(connection, before, (*others, *refused))
        return own

    def add_web_push(self, user_id: str, new: WebPush, *, actor: str = "") -> Contact:
        """See the port."""
        with self._database.write() as connection:
            before = self._locked(connection, user_id)
            at = format_instant(self._database.now(connection))
            kept = with_device(before.web_push, replace(new, added_at=at))
            return self._set_web_push(connection, before, kept, actor)

    def forget_web_push(self, user_id: str, endpoint: str, *, actor: str = "") -> bool:
        """See the port."""
        with self._database.write() as connection:
            before = _present(connection, user_id)
            if before is None:
                return False
            kept = tuple(one for one in before.web_push if one.endpoint != endpoint)
            if len(kept) == len(before.web_push):
                return False
            self._set_web_push(connection, before, kept, actor)
        return True

    def _set_web_push(
        self, connection: Connection, before: Contact, kept: tuple[WebPush, ...], actor: str
    ) -> Contact:
        after = replace(before, web_push=kept)
        now = self._database.now(connection)
        values = {"web_push": rows.contact_values(after)["web_push"], "updated_at": now}
        mine = contacts.c.user_id == before.user_id
        connection.execute(sa.update(contacts).where(mine).values(values))
        _record_changes(connection, before, after, actor, now)
        return after

    def _locked(self, connection: Connection, user_id: str) -> Contact:
        _make_row(connection, user_id, self._database.now(connection))
        return _present(connection, user_id) or Contact(user_id)

    def _set_opt_out(
        self, connection: Connection, before: Contact, opt_out: tuple[str, ...]
    ) -> None:
        """Record what the user refuses from now on, chosen by a link of a message."""
        now = self._database.now(connection)
        values = {"opt_out": rows.dump(list(opt_out)), "updated_at": now}
        mine = contacts.c.user_id == before.user_id
        connection.execute(sa.update(contacts).where(mine).values(values))
        _record_choices(connection, before, replace(before, opt_out=opt_out), "link", now)


def _make_row(connection: Connection, user_id: str, now: datetime) -> None:
    """Make an empty row, unless the user has one: only a row that is there can be locked."""
    fresh = rows.contact_values(Contact(user_id))
    connection.execute(
        insert(connection, contacts)
        .values(**fresh, updated_at=now)
        .on_conflict_do_nothing(index_elements=["user_id"])
    )


def _with_verified_of(before: Contact, contact: Contact) -> Contact:
    """The contact with those of its addresses verified that were so before."""
    kept = [address for _, address in before.only_verified().addresses()]
    present = {address for _, address in contact.addresses()}
    verified = [*(contact.verified or ()), *(address for address in kept if address in present)]
    return replace(contact, verified=tuple(dict.fromkeys(verified)))


def _present(connection: Connection, user_id: str) -> Contact | None:
    """The stored contact, locked: two changes at once are recorded one after the other."""
    query = sa.select(contacts).where(contacts.c.user_id == user_id).with_for_update()
    row = connection.execute(query).one_or_none()
    return None if row is None else rows.contact(row)


def _record_changes(
    connection: Connection, before: Contact | None, after: Contact, actor: str, now: datetime
) -> None:
    """Record which fields changed (never a value), and each channel refused or allowed again."""
    before = before or Contact(after.user_id)
    changed = _changed(before, after)
    if changed:
        facts = {"fields": changed, "actor": actor}
        row = audit.AuditRow("contact_changed", None, after.user_id, facts, now)
        audit.append(connection, [row])
    _record_choices(connection, before, after, actor, now)


def _changed(before: Contact, after: Contact) -> list[str]:
    """The fields with another value; ``verified`` where an address that stays is so no longer, or
    is so now."""
    old, new = before.as_wire(), after.as_wire()
    changed = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
    changed.discard("verified")
    if {one.endpoint for one in before.web_push} != {one.endpoint for one in after.web_push}:
        changed.add("web_push")
    stays = set(before.addresses()) & set(after.addresses())
    if stays & set(before.unverified()) != stays & set(after.unverified()):
        changed.add("verified")
    return sorted(changed)


def _record_choices(
    connection: Connection, before: Contact, after: Contact, actor: str, now: datetime
) -> None:
    """Record each channel, or class on a channel, that is refused or allowed again."""
    was, refused = set(before.opt_out), set(after.opt_out)
    found = [("opted_out", sorted(refused - was)), ("consented", sorted(was - refused))]
    if newly := sorted(refused - was):
        told = {"channels": newly, "reason": "opt_out", "by": actor}
        outcomes.record_contact(connection, WebhookKind.UNSUBSCRIBED, after.user_id, told, now)
    audit.append(
        connection,
        [
            audit.AuditRow(kind, None, after.user_id, {"channels": names, "actor": actor}, now)
            for kind, names in found
            if names
        ],
    )
