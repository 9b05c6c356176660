"""Inboxes: what is a message, and what was read and archived, on SQLite and on PostgreSQL."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
import uuid_utils

from delivery.domain.lifecycle import Confirmation, State
from delivery.domain.records import InboxFilter
from delivery.ledger import SqlLedger
from delivery.ledger.sql.tables import inbox_marks
from delivery.testing import make_entry, make_event

ALL = InboxFilter()


def new_id() -> str:
    return str(uuid_utils.uuid7())


def record(ledger: SqlLedger, *data: dict[str, Any], **changes: Any) -> list[str]:
    """Events with these data, in order; their ids."""
    made = [make_event(**{"id": new_id(), "data": one, "seq": None} | changes) for one in data]
    ledger.recording.commit([make_entry(event) for event in made])
    return [event.id for event in made]


def shown(ledger: SqlLedger, which: InboxFilter = ALL, user: str = "u1") -> list[str]:
    """Ids on the first page."""
    return [one.stored.event.id for one in ledger.inbox.page(user, which)[0]]


def marked(ledger: SqlLedger) -> int:
    with ledger.database.read() as connection:
        count: int = connection.execute(
            sa.select(sa.func.count(inbox_marks.c.event_id))
        ).scalar_one()
    return count


def test_a_message_is_an_event_with_a_title_of_its_own(ledger: SqlLedger) -> None:
    titled, *_ = record(
        ledger,
        {"title": "Done", "text": "\u0000"},
        {"tool": {"title": "not the event's"}},
        {"title": " "},
        {"title": 7},
        {"text": "none"},
    )
    [note] = record(ledger, {}, type="order")
    assert shown(ledger) == [titled]
    assert ledger.inbox.unread("u1") == 1
    # By type: with a title or without.
    assert shown(ledger, InboxFilter(types=("order",))) == [note]
    assert ledger.inbox.unread("u1", ["order", "other"]) == 1


def test_marks_are_set_and_taken_off_and_the_first_time_stays(ledger: SqlLedger) -> None:
    first, second = record(ledger, {"title": "a"}, {"title": "b"})
    assert ledger.inbox.mark("u1", [first, first], read=True, archived=None) == [first]
    [item] = [i for i in ledger.inbox.page("u1", ALL)[0] if i.stored.event.id == first]
    assert item.read_at is not None
    assert item.archived_at is None
    assert shown(ledger, InboxFilter(unread=True)) == [second]
    assert shown(ledger, InboxFilter(unread=False)) == [first]
    ledger.inbox.mark("u1", [first], read=True, archived=True)
    assert shown(ledger) == [second]
    [again] = ledger.inbox.page("u1", InboxFilter(archived=True))[0]
    assert again.read_at == item.read_at
    assert ledger.inbox.unread("u1") == 1
    ledger.inbox.mark("u1", [first], read=False, archived=False)
    assert shown(ledger) == [second, first]
    assert ledger.inbox.unread("u1") == 2


def test_another_users_messages_can_neither_be_seen_nor_marked(ledger: SqlLedger) -> None:
    [mine] = record(ledger, {"title": "a"})
    assert shown(ledger, user="u2") == []
    ids = [mine, new_id(), "no id"]
    assert ledger.inbox.mark("u2", ids, read=True, archived=True) == []
    assert ledger.inbox.read_up_to("u2", mine, []) == []
    assert ledger.inbox.unread("u1") == 1
    assert marked(ledger) == 0


def test_all_up_to_a_message_are_read_and_later_ones_are_not(ledger: SqlLedger) -> None:
    first, second, third = record(ledger, {"title": "a"}, {"title": "b"}, {"title": "c"})
    assert ledger.inbox.read_up_to("u1", second, []) == sorted([first, second])
    assert shown(ledger, InboxFilter(unread=True)) == [third]
    assert ledger.inbox.read_up_to("u1", None, ["other"]) == []
    assert ledger.inbox.read_up_to("u1", None, []) == [third]
    with pytest.raises(ValueError, match="not an event's id"):
        ledger.inbox.read_up_to("u1", "17", [])


def test_pages_go_on_over_windows_without_a_message(
    ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("delivery.ledger.stores.users.inbox.WINDOW", 3)
    old = record(ledger, {"title": "a"}, {"title": "b"})
    record(ledger, *[{"text": "none"}] * 5)
    new = record(ledger, {"title": "c"})
    found: list[str] = []
    after, calls = None, 0
    while calls == 0 or after is not None:
        items, after = ledger.inbox.page("u1", ALL, after=after, limit=1)
        found += [one.stored.event.id for one in items]
        calls += 1
        assert calls < 20
    assert found == [*new, *reversed(old)]


def test_marks_go_with_their_events(ledger: SqlLedger) -> None:
    purged, erased = record(ledger, {"title": "a"}, {"title": "b"})
    ledger.inbox.mark("u1", [purged, erased], read=True, archived=True)
    ledger.confirmations.confirm([Confirmation(purged, "u1", "websocket", "u1", "c")])
    later = ledger.now() + timedelta(days=1)
    assert ledger.retention.purge({State.CONFIRMED: later}).deleted == {State.CONFIRMED: 1}
    assert marked(ledger) == 1
    ledger.erasure.erase_events("u1")
    assert marked(ledger) == 0
