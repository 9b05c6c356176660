"""Rows to domain values and back, in one place for all queries.

Owns: the encoding of JSON, instants and enumerations in columns. Never does: use a connection.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa

from delivery.domain.event import Event, EventClass
from delivery.domain.inputs.foreign_text import without_surrogates
from delivery.domain.lifecycle import Attempt, Outcome, State
from delivery.domain.operators.figures import NodeInfo
from delivery.domain.options import NOTHING, Options
from delivery.domain.records import ConfirmationRow, Digest, Stored
from delivery.domain.users.contact import Contact
from delivery.domain.users.receipts import ReceiptRow, Suppress, Suppression
from delivery.domain.users.web_push import WebPush, of_row
from delivery.ledger.sql.tables import attempts, digests, events

EVENT_COLUMNS = tuple(events.c)
ATTEMPT_COLUMNS = tuple(attempts.c)
DIGEST_COLUMNS = tuple(digests.c)

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
AnyRow = sa.Row[*tuple[Any, ...]]


def dump(value: Any) -> str:
    """A value as the text of a JSON column, with U+FFFD for what has no UTF-8 form."""
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        return msgspec.json.encode(without_surrogates(msgspec.to_builtins(value))).decode()


def load(text: str) -> Any:
    """The value of a JSON column."""
    return msgspec.json.decode(text)


def is_id(text: str) -> bool:
    """Whether the text is a UUID; PostgreSQL refuses any other text for an id column."""
    return _ID.fullmatch(text) is not None


def event(row: AnyRow) -> Event:
    """The event of a row that holds ``EVENT_COLUMNS``."""
    columns = row._mapping
    return Event(
        id=columns["id"],
        type=columns["type"],
        user_id=columns["user_id"],
        run_id=columns["run_id"],
        seq=columns["seq"],
        at=columns["at"],
        event_class=class_of(columns["class"]),
        raw_data=msgspec.Raw(columns["data"].encode()),
        thread_id=columns["thread_id"],
        meta=None if columns["meta"] is None else _meta(columns["meta"]),
    )


def class_of(name: str) -> EventClass:
    """The class of a column; ``standard`` for a name that this release does not know."""
    try:
        return EventClass(name)
    except ValueError:
        return EventClass.STANDARD


def _meta(text: str) -> dict[str, Any]:
    try:
        found = load(text)
    except msgspec.DecodeError:
        found = None
    return found if type(found) is dict else {"flags": ["unreadable:meta"]}


def stored(row: AnyRow) -> Stored:
    """The event, its state and its due time, of a row that holds ``EVENT_COLUMNS``."""
    columns = row._mapping
    return Stored(
        event=event(row),
        position=columns["position"],
        state=State(columns["state"]),
        step=columns["step"],
        due_at=columns["due_at"],
        expires_at=columns["expires_at"],
        generation=columns["generation"],
        recorded_at=columns["recorded_at"],
        handed_over_at=columns["handed_over_at"],
        digest_id=columns["digest_id"],
        options=options_of(row),
    )


def options_of(row: AnyRow) -> Options | None:
    """What the caller of a row's event chose; ``None`` for nothing."""
    columns = row._mapping
    ttl = columns["ttl_ms"]
    found = Options(
        event_class=columns["class"] if columns["class_chosen"] else None,
        ttl=None if ttl is None else ttl / 1000,
        group=columns["group_key"],
        not_before=columns["not_before"],
        traceparent=columns["traceparent"],
    )
    return None if found == NOTHING else found


def option_values(
    chosen: Options | None, stamp: Callable[[datetime], str]
) -> tuple[bool | int | str | None, ...]:
    """The values of ``bulk.EVENT_OPTIONS``, in their order.

    Args:
        stamp: an instant as the driver's text.
    """
    if chosen is None:
        chosen = NOTHING
    is_chosen = True if chosen.event_class is not None else None
    not_before = None if chosen.not_before is None else stamp(chosen.not_before)
    return (is_chosen, milliseconds(chosen.ttl), chosen.group, not_before, chosen.traceparent)


def attempt(row: AnyRow) -> Attempt:
    """The attempt of a row that holds ``ATTEMPT_COLUMNS``."""
    columns = row._mapping
    pause = columns["retry_after_ms"]
    return Attempt(
        event_id=columns["event_id"],
        generation=columns["generation"],
        channel=columns["channel"],
        number=columns["number"],
        outcome=Outcome(columns["outcome"]),
        started_at=columns["started_at"],
        ended_at=columns["ended_at"],
        retryable=columns["retryable"],
        error=columns["error"],
        provider_id=columns["provider_id"],
        digest_id=columns["digest_id"],
        retry_after=None if pause is None else pause / 1000.0,
        receipt=columns["receipt"],
        step=columns["step"],
        provider=columns["provider"],
    )


def attempt_values(
    event_id: str,
    generation: int,
    channel: str,
    number: int,
    outcome: Outcome,
    *,
    started_at: datetime,
    ended_at: datetime | None = None,
    retryable: bool = True,
    error: str | None = None,
    provider_id: str | None = None,
    digest_id: str | None = None,
    token: int = 0,
    retry_after: float | None = None,
    step: str | None = None,
) -> dict[str, Any]:
    """All columns of an ``attempts`` row, as rows of one bulk insert must have the same."""
    return {
        "event_id": event_id,
        "generation": generation,
        "channel": channel,
        "number": number,
        "outcome": outcome.value,
        "retryable": retryable,
        "error": error,
        "provider_id": provider_id,
        "digest_id": digest_id,
        "token": token,
        "retry_after_ms": milliseconds(retry_after),
        "started_at": started_at,
        "ended_at": ended_at,
        "step": step,
    }


def milliseconds(seconds: float | None) -> int | None:
    """Seconds as the value of a ``*_ms`` column."""
    return None if seconds is None else round(seconds * 1000)


def confirmation(row: AnyRow) -> ConfirmationRow:
    """The stored confirmation of a ``confirmations`` row."""
    columns = row._mapping
    return ConfirmationRow(
        channel=columns["channel"],
        by=columns["by"],
        evidence=columns["evidence"],
        at=columns["at"],
    )


def receipt(row: AnyRow) -> ReceiptRow:
    """The stored receipt of a ``receipts`` row."""
    columns = row._mapping
    return ReceiptRow(
        channel=columns["channel"],
        provider=columns["provider"],
        status=columns["status"],
        code=columns["code"],
        at=columns["at"],
        digest_id=columns["digest_id"],
    )


def suppression(row: AnyRow) -> Suppression:
    """The suppressed address of a ``suppressions`` row."""
    columns = row._mapping
    return Suppression(
        channel=columns["channel"],
        address=columns["address"],
        reason=Suppress(columns["reason"]),
        provider=columns["provider"],
        code=columns["code"],
        since=columns["since"],
        expires_at=columns["expires_at"],
    )


def contact(row: AnyRow) -> Contact:
    """The contact of a ``contacts`` row."""
    columns = row._mapping
    begins, ends = columns["quiet_from"], columns["quiet_to"]
    return Contact(
        user_id=columns["user_id"],
        email=columns["email"],
        phone=columns["phone"],
        push=_strings(columns["push"]),
        locale=columns["locale"],
        time_zone=columns["time_zone"],
        quiet_hours=None if begins is None or ends is None else (begins, ends),
        opt_out=_strings(columns["opt_out"]),
        verified=None if columns["verified"] is None else _strings(columns["verified"]),
        web_push=_subscriptions(columns["web_push"]),
    )


def _strings(text: str) -> tuple[str, ...]:
    """A column's list of strings; empty for other contents, so that the rest of a damaged contact
    can still be used."""
    try:
        found = load(text)
    except msgspec.DecodeError:
        return ()
    return tuple(item for item in found if isinstance(item, str)) if type(found) is list else ()


def _subscriptions(text: str) -> tuple[WebPush, ...]:
    """A column's subscriptions; those that are damaged are left out, as in ``_strings``."""
    try:
        found = load(text)
    except msgspec.DecodeError:
        return ()
    kept = map(of_row, found) if type(found) is list else ()
    return tuple(one for one in kept if one is not None)


def contact_values(item: Contact) -> dict[str, Any]:
    """All columns of a ``contacts`` row but ``updated_at``."""
    begins, ends = item.quiet_hours or (None, None)
    return {
        "user_id": item.user_id,
        "email": item.email,
        "phone": item.phone,
        "push": dump(list(item.push)),
        "locale": item.locale,
        "time_zone": item.time_zone,
        "quiet_from": begins,
        "quiet_to": ends,
        "opt_out": dump(list(item.opt_out)),
        "verified": None if item.verified is None else dump(list(item.verified)),
        "web_push": dump([one.as_row() for one in item.web_push]),
    }


def digest(row: AnyRow) -> Digest:
    """The digest of a row that holds ``DIGEST_COLUMNS``."""
    columns = row._mapping
    return Digest(
        id=columns["id"],
        user_id=columns["user_id"],
        run_id=columns["run_id"],
        channel=columns["channel"],
        state=columns["state"],
        due_at=columns["due_at"],
        number=columns["number"],
        message_id=columns["message_id"],
        token=columns["token"],
        step=columns["step"],
    )


def node(row: AnyRow) -> NodeInfo:
    """The process of a ``nodes`` row."""
    columns = row._mapping
    info: Mapping[str, Any] = load(columns["info"])
    return NodeInfo(
        node=columns["node"],
        kind=columns["kind"],
        started_at=columns["started_at"],
        seen_at=columns["seen_at"],
        connections=columns["connections"],
        info=dict(info),
    )
