"""Receipts of providers: recorded once per status, and failures made failed attempts.

Owns: which message a receipt is about, and what a failure changes: the outcome of every attempt in
that message, the due time of its events, the list of suppressed addresses. One transaction each, so
a repeat finds it done. Never does: confirm (a policy decides that).

The digest's row is locked first, as by the worker that ends it, then the events, in order of ids.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.domain.channels import Channel
from delivery.domain.inputs.address import comparable
from delivery.domain.lifecycle import Outcome, State
from delivery.domain.records import RecordedReceipt
from delivery.domain.users.receipts import MAX_CODE, ProviderReceipt, ReceiptStatus
from delivery.ledger.sql import rows, transitions
from delivery.ledger.sql.columns import UtcDateTime
from delivery.ledger.sql.database import Database
from delivery.ledger.sql.dialect import any_of, insert
from delivery.ledger.sql.tables import (
    attempts,
    callback_tokens,
    contacts,
    digests,
    events,
    receipts,
)
from delivery.ledger.stores.audit import audit
from delivery.ledger.stores.fallback.digests import MAY_BE_OUT, listed
from delivery.ledger.stores.users import suppressions
from delivery.telemetry import metrics

TOKENS_KEPT = timedelta(days=2)
MAX_REFERENCE = 255
_DROPPED = 500
_MESSAGE_ID = re.compile(r"<?([0-9A-Fa-f-]{36})(?:@[^<>@\s]{1,253})?>?")


class ReceiptSql:
    """``ReceiptStore`` over SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, found: Sequence[ProviderReceipt]) -> list[RecordedReceipt | None]:
        """See the port."""
        answers = [self._record(receipt) for receipt in found]
        for receipt, answer in zip(found, answers, strict=True):
            status = "unknown_message" if answer is None else receipt.status.value
            metrics.receipts.inc(1.0, str(receipt.channel), status)
        return answers

    def use_token(self, token: str, body: str) -> bool:
        """See the port."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            connection.execute(
                insert(connection, callback_tokens)
                .values(token=token, body=body, at=now)
                .on_conflict_do_nothing(index_elements=["token"])
            )
            first = connection.execute(
                sa.select(callback_tokens.c.body).where(callback_tokens.c.token == token)
            ).scalar_one()
            old = (
                sa.select(callback_tokens.c.token)
                .where(callback_tokens.c.at < now - TOKENS_KEPT)
                .order_by(callback_tokens.c.at)
                .limit(_DROPPED)
            )
            connection.execute(sa.delete(callback_tokens).where(callback_tokens.c.token.in_(old)))
        return bool(first == body)

    def _record(self, receipt: ProviderReceipt) -> RecordedReceipt | None:
        with self._database.read() as connection:
            digest_id = _digest_id(connection, receipt)
        if digest_id is None:
            return None
        with self._database.write() as connection:
            row = connection.execute(
                sa.select(digests, self._database.clock().label("now"))
                .where(digests.c.id == digest_id)
                .with_for_update()
            ).one_or_none()
            if row is None:  # its user was erased meanwhile
                return None
            now: datetime = row.now
            known = set(
                connection.execute(
                    sa.select(receipts.c.status).where(receipts.c.digest_id == digest_id)
                ).scalars()
            )
            failed: tuple[str, ...] = ()
            if receipt.status.value not in known:
                _insert(connection, row, receipt, now)
                if receipt.status.is_failure and not _is_overruled(receipt, known):
                    failed = _fail(connection, row, receipt, now)
                elif _is_delivery(receipt, known):
                    _settle(connection, row, now)
            return RecordedReceipt(
                rows.digest(row),
                listed(connection, digest_id),
                failed,
                is_delivery=_is_delivery(receipt, known),
            )


def _digest_id(connection: Connection, receipt: ProviderReceipt) -> str | None:
    """The digest that the receipt's first known reference names."""
    for reference in receipt.references:
        if not 0 < len(reference) <= MAX_REFERENCE or not reference.isprintable():
            continue
        named: list[sa.ColumnElement[bool]] = [
            digests.c.provider_id.in_(_spellings(receipt.channel, reference))
        ]
        if (ours := _MESSAGE_ID.fullmatch(reference)) and rows.is_id(own := ours[1].lower()):
            named.append(digests.c.id == own)
        for condition in reversed(named):
            found = connection.execute(
                sa.select(digests.c.id)
                .where(digests.c.channel == receipt.channel, condition)
                .order_by(digests.c.created_at.desc())
                .limit(1)
            ).scalar_one_or_none()
            if found is not None:
                return str(found)
    return None


def _spellings(channel: str, reference: str) -> tuple[str, ...]:
    # Some providers report a Message-ID without its angle brackets, some with them.
    if channel != Channel.EMAIL:
        return (reference,)
    bare = reference.strip("<>")
    return tuple(dict.fromkeys((reference, bare, f"<{bare}>")))


def _is_overruled(receipt: ProviderReceipt, known: set[str]) -> bool:
    """Whether an earlier receipt makes a failure void. A text ends in one of the two statuses, and
    they may come out of order; a mail that one server took may bounce at the next."""
    return receipt.channel == Channel.SMS and ReceiptStatus.DELIVERED.value in known


def _is_delivery(receipt: ProviderReceipt, known: set[str]) -> bool:
    """Whether the message was delivered by all that is known: a bounce of a mail overrules."""
    if receipt.status is not ReceiptStatus.DELIVERED:
        return False
    bounced = {ReceiptStatus.BOUNCED.value, ReceiptStatus.FAILED.value}
    return receipt.channel == Channel.SMS or not known & bounced


def _insert(
    connection: Connection, digest: rows.AnyRow, receipt: ProviderReceipt, now: datetime
) -> None:
    connection.execute(
        insert(connection, receipts)
        .values(
            digest_id=digest.id,
            status=receipt.status.value,
            channel=digest.channel,
            provider=receipt.provider,
            code=receipt.code[:MAX_CODE] if receipt.code else None,
            at=min(receipt.at or now, now),
            recorded_at=now,
        )
        .on_conflict_do_nothing()
    )


def _fail(
    connection: Connection, digest: rows.AnyRow, receipt: ProviderReceipt, now: datetime
) -> tuple[str, ...]:
    """Make the message's attempts failed ones, and the next step of its events due."""
    of_message = sa.select(attempts.c.event_id).where(attempts.c.digest_id == digest.id)
    members = {
        row.id: row
        for row in connection.execute(
            sa.select(
                events.c.id,
                events.c.user_id,
                events.c["class"],
                events.c.state,
                events.c.generation,
                events.c.claimed_until,
            )
            .where(events.c.id.in_(of_message))
            .order_by(events.c.id)
            .with_for_update()
        )
    }
    _suppress(connection, digest, receipt, now)
    ended = [row for row in _tried(connection, digest) if row.event_id in members]
    if not ended:
        return ()
    connection.execute(
        sa.update(attempts)
        .where(any_of(attempts.c.id, [row.id for row in ended]))
        .values(
            outcome=Outcome.FAILED.value,
            error=receipt.error,
            retryable=False,
            retry_after_ms=None,
            receipt=receipt.status.value,
            ended_at=sa.func.coalesce(attempts.c.ended_at, sa.literal(now, UtcDateTime())),
        )
    )
    _audit(connection, digest, receipt, [members[row.event_id] for row in ended], now)
    _close(connection, digest, receipt, now)
    on_chain = [
        members[row.event_id]
        for row in ended
        if members[row.event_id].state == State.FALLING_BACK.value
        and members[row.event_id].generation == row.generation
    ]
    _bring_forward(connection, digest, on_chain, now)
    return tuple(dict.fromkeys(row.event_id for row in ended))


def _settle(connection: Connection, digest: rows.AnyRow, now: datetime) -> None:
    """Attempts whose answer was lost have delivered, so the message is not sent again."""
    settled = connection.execute(
        sa.update(attempts)
        .where(
            attempts.c.digest_id == digest.id,
            attempts.c.channel == digest.channel,
            attempts.c.outcome == Outcome.UNKNOWN.value,
        )
        .values(outcome=Outcome.DELIVERED.value, error=None, retry_after_ms=None)
    )
    if not settled.rowcount or digest.state != "open" or _is_claimed(digest, now):
        return
    connection.execute(
        sa.update(digests)
        .where(digests.c.id == digest.id)
        .values(
            state="sent", error=None, due_at=None, claimed_until=None, sent_at=now, ended_at=now
        )
    )


def _is_claimed(digest: rows.AnyRow, now: datetime) -> bool:
    return digest.claimed_until is not None and bool(digest.claimed_until > now)


def _tried(connection: Connection, digest: rows.AnyRow) -> Sequence[rows.AnyRow]:
    """The attempts of the message that may be out."""
    return connection.execute(
        sa.select(attempts.c.id, attempts.c.event_id, attempts.c.generation, attempts.c.started_at)
        .where(
            attempts.c.digest_id == digest.id,
            attempts.c.channel == digest.channel,
            attempts.c.outcome.in_(MAY_BE_OUT),
        )
        .order_by(attempts.c.id)
    ).all()


def _close(
    connection: Connection, digest: rows.AnyRow, receipt: ProviderReceipt, now: datetime
) -> None:
    """The digest has failed, and starts no interval until the next message, unless it reached a
    user who complained. One that a worker is sending is ended by that worker."""
    has_arrived = receipt.status is ReceiptStatus.COMPLAINED
    if digest.state == "open" and _is_claimed(digest, now):
        return
    connection.execute(
        sa.update(digests)
        .where(digests.c.id == digest.id, digests.c.state.in_(("open", "sent")))
        .values(
            state="failed",
            error=receipt.error,
            due_at=None,
            sent_at=digests.c.sent_at if has_arrived else None,
            claimed_until=None,
            ended_at=sa.func.coalesce(digests.c.ended_at, sa.literal(now, UtcDateTime())),
        )
    )


def _bring_forward(
    connection: Connection, digest: rows.AnyRow, members: Sequence[rows.AnyRow], now: datetime
) -> None:
    """Make the next step due now.

    A worker that holds an event decides on what it read before: unless it is making an attempt on
    another channel, its claim becomes stale, and the event is decided on again.
    """
    ids = sorted({row.id for row in members})
    busy = _busy(connection, digest.id, ids)
    held = [row.id for row in members if row.claimed_until and row.claimed_until > now]
    free = [event_id for event_id in ids if event_id not in busy]
    due = transitions.not_after_expiry(sa.literal(now, UtcDateTime()))
    for raised, some in (
        (1, [event_id for event_id in free if event_id in held]),
        (0, [event_id for event_id in free if event_id not in held]),
    ):
        if some:
            connection.execute(
                sa.update(events)
                .where(any_of(events.c.id, some), transitions.on_chain())
                .values(
                    due_at=due,
                    publishes=0,
                    turn=None,
                    claimed_until=None,
                    token=events.c.token + raised,
                )
            )


def _busy(connection: Connection, digest_id: str, ids: Sequence[str]) -> set[str]:
    """Events with an attempt under way that is not of this digest."""
    found = connection.execute(
        sa.select(attempts.c.event_id).where(
            any_of(attempts.c.event_id, ids),
            attempts.c.outcome == Outcome.STARTED.value,
            sa.or_(attempts.c.digest_id.is_(None), attempts.c.digest_id != digest_id),
        )
    )
    return set(found.scalars())


def _suppress(
    connection: Connection,
    digest: rows.AnyRow,
    receipt: ProviderReceipt,
    now: datetime,
) -> None:
    """Suppress the address that the message went to.

    It is the reported one where the report is authentic, in the contact's own spelling if it is the
    contact's. Without a reported one it is the contact's, unless that was changed since.
    """
    if receipt.suppress is None:
        return
    contact = connection.execute(
        sa.select(contacts).where(contacts.c.user_id == digest.user_id)
    ).one_or_none()
    own = None
    if contact is not None:
        own = suppressions.addresses_of(rows.contact(contact)).get(digest.channel)
    address = None
    if receipt.address is None:
        first = sa.select(sa.func.min(attempts.c.started_at)).where(
            attempts.c.digest_id == digest.id
        )
        sent_at = connection.execute(first).scalar_one()
        if contact is not None and sent_at is not None and contact.updated_at <= sent_at:
            address = own
    else:
        reported = comparable(digest.channel, receipt.address)
        if reported is not None and own is not None and reported.casefold() == own.casefold():
            address = own
        elif receipt.is_authentic:
            address = reported
    if address is not None:
        suppressions.suppress(
            connection,
            now,
            digest.channel,
            address,
            receipt.suppress,
            receipt.provider,
            receipt.code,
            digest.user_id if address == own else "",
        )


def _audit(
    connection: Connection,
    digest: rows.AnyRow,
    receipt: ProviderReceipt,
    failed: Sequence[rows.AnyRow],
    now: datetime,
) -> None:
    facts = {
        "channel": digest.channel,
        "digest_id": digest.id,
        "outcome": Outcome.FAILED.value,
        "error": receipt.error,
        "receipt": receipt.status.value,
    }
    audit.record(
        connection,
        "outcome",
        now,
        [
            audit.Subject(
                row.id,
                row.user_id,
                row._mapping["class"],
                {**facts, "generation": row.generation},
            )
            for row in failed
        ],
    )
