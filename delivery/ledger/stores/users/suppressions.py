"""Suppressed addresses: those that get no message, by channel.

Owns: how one bounce adds to another: a permanent reason stays, soft ones last longer each time.
Never does: log an address.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.domain.channels import DIGESTED, Channel
from delivery.domain.inputs.address import channels_of, comparable
from delivery.domain.users.contact import Contact
from delivery.domain.users.receipts import MAX_CODE, Suppress, Suppression, soft_until
from delivery.domain.webhooks.endpoints import WebhookKind
from delivery.errors import LedgerUnavailable
from delivery.ledger.sql import rows
from delivery.ledger.sql.database import Database
from delivery.ledger.sql.dialect import any_of, insert
from delivery.ledger.sql.tables import contacts as contact_rows
from delivery.ledger.sql.tables import suppressions
from delivery.ledger.stores.audit import audit
from delivery.ledger.stores.webhooks import outcomes
from delivery.telemetry import metrics

FORGOTTEN = timedelta(days=60)
"""A soft suppression that ended this long ago no longer makes the next one longer."""

logger = logging.getLogger(__name__)

GONE_AFTER = timedelta(days=7)
"""For how long a push target must answer that it is gone, and nothing else, until it is forgotten:
a deployment or a mistake of its service may last for days."""
_PUSH = Channel.EMERGENCY.value

_ID = re.compile("[0-9]{1,18}")  # what fits into a BIGINT


class SuppressionSql:
    """``SuppressionStore`` over SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(
        self, *, after: str | None = None, limit: int = 50
    ) -> tuple[list[Suppression], str | None]:
        """See the port."""
        if after is not None and _ID.fullmatch(after) is None:
            raise ValueError(f"{after[:64]!r} is not the next of a page before")
        query = sa.select(suppressions).order_by(suppressions.c.id.desc()).limit(limit + 1)
        if after is not None:
            query = query.where(suppressions.c.id < int(after))
        with self._database.read() as connection:
            found = connection.execute(query.where(_in_force(self._database.now(connection)))).all()
        more = str(found[limit - 1].id) if len(found) > limit else None
        return [rows.suppression(row) for row in found[:limit]], more

    def of(self, contact: Contact) -> dict[str, Suppression]:
        """See the port."""
        with self._database.read() as connection:
            found = of_contacts(connection, self._database.now(connection), [contact])
        return found.get(contact.user_id, {})

    def add(
        self,
        channel: str,
        address: str,
        reason: Suppress,
        *,
        provider: str,
        code: str | None,
        user_id: str = "",
    ) -> None:
        """See the port."""
        form = comparable(channel, address)
        if form is None:
            return
        with self._database.write() as connection:
            now = self._database.now(connection)
            suppress(connection, now, channel, form, reason, provider, code, user_id)

    def remove(self, address: str, *, actor: str = "") -> bool:
        """See the port."""
        forms = channels_of(address)
        if not forms:
            return False
        ours = sa.or_(
            *(
                sa.and_(suppressions.c.address == form, suppressions.c.channel == channel)
                for channel, form in forms
            )
        )
        with self._database.write() as connection:
            now = self._database.now(connection)
            standing = connection.execute(
                sa.select(suppressions.c.id, suppressions.c.channel).where(ours, _in_force(now))
            ).all()
            connection.execute(sa.delete(suppressions).where(ours))
            if standing:
                facts = {"channels": sorted({row.channel for row in standing}), "actor": actor}
                audit.append(connection, [audit.AuditRow("unsuppressed", None, "", facts, now)])
        return bool(standing)


class PushTargetSql:
    """``PushTargets`` over SQL. A target that is gone has a row, which ends at once, so that it is
    on the list only after ``GONE_AFTER``. While the ledger is away nothing is known or noted.

    Args:
        forget: a browser's subscription; see ``ContactStore.forget_web_push``.
    """

    def __init__(self, database: Database, forget: Callable[..., bool]) -> None:
        self._database = database
        self._forget = forget

    def gone(self, urls: Sequence[str]) -> frozenset[str]:
        """See the port."""
        try:
            with self._database.read() as connection:
                now = self._database.now(connection)
                return frozenset(_gone_targets(connection, now, urls))
        except LedgerUnavailable as error:
            logger.warning("push targets are called unchecked: %s", error)
            return frozenset()

    def report(self, gone: Mapping[str, str], alive: Sequence[str]) -> None:
        """See the port."""
        try:
            self._report(gone, {form for url in alive if (form := comparable(_PUSH, url))})
        except LedgerUnavailable as error:
            logger.warning("answers of push targets are not noted: %s", error)

    def forget_web_push(self, user_id: str, endpoint: str) -> None:
        """See the port."""
        try:
            self._forget(user_id, endpoint, actor="push service")
        except LedgerUnavailable as error:
            logger.warning("a subscription that ended is not forgotten yet: %s", error)

    def _report(self, gone: Mapping[str, str], alive: set[str]) -> None:
        ours = sa.and_(
            suppressions.c.channel == _PUSH, any_of(suppressions.c.address, sorted(alive))
        )
        with self._database.read() as connection:
            noted = connection.execute(sa.select(suppressions.c.id).where(ours).limit(1)).first()
        if not gone and noted is None:
            return  # the most frequent case writes nothing
        with self._database.write() as connection:
            connection.execute(sa.delete(suppressions).where(ours))
            now = self._database.now(connection)
            for url, code in gone.items():
                if form := comparable(_PUSH, url):
                    _note_gone(connection, now, form, code)


def _note_gone(connection: Connection, now: datetime, form: str, code: str) -> None:
    fresh = {
        "channel": _PUSH,
        "address": form,
        "reason": Suppress.HARD_BOUNCE.value,
        "provider": "push",
        "code": code,
        "times": 0,
        "since": now,
        "expires_at": now,
    }
    connection.execute(
        insert(connection, suppressions)
        .values(fresh)
        .on_conflict_do_nothing(index_elements=["address", "channel"])
    )
    ours = sa.and_(suppressions.c.address == form, suppressions.c.channel == _PUSH)
    row = connection.execute(sa.select(suppressions).where(ours).with_for_update()).one()
    if row.expires_at is None:
        return
    # Seen long ago and not since: the week begins anew.
    since = row.since if row.expires_at > now - GONE_AFTER else now
    is_over = since <= now - GONE_AFTER
    connection.execute(
        sa.update(suppressions)
        .where(suppressions.c.id == row.id)
        .values(code=code, since=since, expires_at=None if is_over else now)
    )
    if is_over:
        logger.warning("push target %s answers %s since a week: forgotten", form, code)


def _gone_targets(connection: Connection, now: datetime, urls: Sequence[str]) -> list[str]:
    forms = {url: form for url in urls if (form := comparable(_PUSH, url))}
    if not forms:
        return []
    found = connection.execute(
        sa.select(suppressions.c.address).where(
            suppressions.c.channel == _PUSH,
            any_of(suppressions.c.address, sorted(set(forms.values()))),
            _in_force(now),
        )
    )
    standing = set(found.scalars())
    return [url for url, form in forms.items() if form in standing]


def addresses_of(contact: Contact) -> dict[str, str]:
    """Channel -> the contact's address there, in its comparable form."""
    found: dict[str, str] = {}
    for channel in DIGESTED:
        address = contact.address_on(channel)
        form = comparable(channel, address) if address else None
        if form is not None:
            found[channel.value] = form
    return found


def form_of(channel: str, address: str) -> str:
    """An address as it is compared, or as it is where it has no such form."""
    return comparable(channel, address) or address


def barred_addresses(
    connection: Connection, now: datetime, addresses: Iterable[tuple[Channel, str]]
) -> set[tuple[Channel, str]]:
    """Those of some addresses, each with its channel, that are suppressed now."""
    forms = {(channel, address): form_of(channel, address) for channel, address in addresses}
    found = connection.execute(
        sa.select(suppressions.c.channel, suppressions.c.address).where(
            any_of(suppressions.c.address, sorted(set(forms.values()))), _in_force(now)
        )
    )
    standing = {(row.channel, row.address) for row in found}
    return {one for one, form in forms.items() if (one[0].value, form) in standing}


def forget_addresses(connection: Connection, user_id: str) -> None:
    """Delete suppressions of a user's addresses, unless another user has the address too."""
    ours = connection.execute(sa.select(contact_rows).where(contact_rows.c.user_id == user_id))
    for channel, form in (
        found for row in ours for found in addresses_of(rows.contact(row)).items()
    ):
        column = contact_rows.c.phone if channel == Channel.SMS else contact_rows.c.email
        shared = sa.select(contact_rows.c.user_id).where(
            sa.func.lower(column) == form.lower(), contact_rows.c.user_id != user_id
        )
        if connection.execute(shared.limit(1)).first() is None:
            here = sa.and_(suppressions.c.channel == channel, suppressions.c.address == form)
            connection.execute(sa.delete(suppressions).where(here))


def _targets_of(contact: Contact) -> list[str]:
    return [form for url in contact.push if (form := comparable(_PUSH, url))]


def of_contacts(
    connection: Connection, now: datetime, contacts: Iterable[Contact]
) -> dict[str, dict[str, Suppression]]:
    """User -> channel -> the suppression in force of the user's address there."""
    contacts = list(contacts)
    known = {contact.user_id: addresses_of(contact) for contact in contacts}
    targets = {contact.user_id: _targets_of(contact) for contact in contacts}
    subscribed = {contact.user_id for contact in contacts if contact.web_push}
    wanted = sorted(
        {form for forms in known.values() for form in forms.values()}.union(*targets.values())
    )
    if not wanted:
        return {}
    found = connection.execute(
        sa.select(suppressions).where(any_of(suppressions.c.address, wanted), _in_force(now))
    )
    standing = {(row.channel, row.address): rows.suppression(row) for row in found}
    for user_id, forms_of_push in targets.items():
        # One target that is left is enough, and so is a browser.
        if (
            forms_of_push
            and user_id not in subscribed
            and all((_PUSH, form) in standing for form in forms_of_push)
        ):
            known[user_id][_PUSH] = forms_of_push[-1]
    return {
        user_id: mine
        for user_id, forms in known.items()
        if (
            mine := {
                channel: standing[channel, form]
                for channel, form in forms.items()
                if (channel, form) in standing
            }
        )
    }


def suppress(
    connection: Connection,
    now: datetime,
    channel: str,
    address: str,
    reason: Suppress,
    provider: str,
    code: str | None,
    user_id: str = "",
) -> None:
    """Put an address in its comparable form on the list, or prolong a soft suppression.

    Args:
        user_id: whose address it is, for the compliance log and for webhooks; empty where that is
            not known.
    """
    code = code[:MAX_CODE] if code else None
    fresh = {
        "channel": channel,
        "address": address,
        "reason": reason.value,
        "provider": provider,
        "code": code,
        "times": 0,
        "since": now,
        "expires_at": now,
    }
    ours = sa.and_(suppressions.c.address == address, suppressions.c.channel == channel)
    connection.execute(
        insert(connection, suppressions)
        .values(fresh)
        .on_conflict_do_nothing(index_elements=["address", "channel"])
    )
    row = connection.execute(sa.select(suppressions).where(ours).with_for_update()).one()
    if row.expires_at is None:
        return  # for good already: the first reason stays
    metrics.suppressed.inc(1.0, channel, reason.value)
    times = 0 if row.expires_at <= now - FORGOTTEN else row.times
    changes: dict[str, object] = {
        "reason": reason.value,
        "provider": provider,
        "code": code,
        "times": times + 1 if reason.expires else times,
        "since": row.since if row.times and row.expires_at > now else now,
        "expires_at": soft_until(now, times + 1) if reason.expires else None,
    }
    connection.execute(sa.update(suppressions).where(suppressions.c.id == row.id).values(changes))
    facts = {"channel": channel, "reason": reason.value, "provider": provider}
    audit.append(connection, [audit.AuditRow("suppressed", None, user_id, facts, now)])
    if user_id:
        _tell(connection, user_id, address, reason, facts | {"code": code}, now)
    _forget(connection, now)


def _tell(
    connection: Connection,
    user_id: str,
    address: str,
    reason: Suppress,
    facts: Mapping[str, str | None],
    now: datetime,
) -> None:
    """Record a bounce for webhooks; who complains wants no more messages."""
    if reason is Suppress.COMPLAINT:
        told = {"channels": [facts["channel"]], "reason": reason.value, "by": facts["provider"]}
        outcomes.record_contact(connection, WebhookKind.UNSUBSCRIBED, user_id, told, now)
        return
    bounced = {**facts, "address": address, "permanent": not reason.expires}
    outcomes.record_contact(connection, WebhookKind.BOUNCED, user_id, bounced, now)


def _forget(connection: Connection, now: datetime) -> None:
    """Delete suppressions that ended long ago, so that the list holds no address for nothing."""
    ended: Sequence[int] = (
        connection.execute(
            sa.select(suppressions.c.id)
            .where(suppressions.c.expires_at <= now - FORGOTTEN)
            .order_by(suppressions.c.id)
            .limit(100)
            .with_for_update(skip_locked=True)
        )
        .scalars()
        .all()
    )
    if ended:
        connection.execute(sa.delete(suppressions).where(any_of(suppressions.c.id, ended)))


def _in_force(now: datetime) -> sa.ColumnElement[bool]:
    return sa.or_(suppressions.c.expires_at.is_(None), suppressions.c.expires_at > now)
