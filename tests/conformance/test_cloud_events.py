"""Ids of CloudEvents, on every database."""

from __future__ import annotations

from datetime import timedelta

from delivery.domain.lifecycle import Confirmation, State
from delivery.ledger import SqlLedger
from delivery.testing import make_entry, make_event


def test_one_source_and_id_have_one_id(ledger: SqlLedger) -> None:
    first = ledger.cloud_events.ids([("/a", "1"), ("/a", "2"), ("/b", "1"), ("/a", "1")])
    assert first[0] == first[3]
    assert len(set(first)) == 3
    many = [(f"/{n % 7}", str(n)) for n in range(1_000)]
    ids = ledger.cloud_events.ids(many)
    assert len(set(ids)) == 1_000
    assert ledger.cloud_events.ids([*reversed(many), ("/b", "1")]) == [*reversed(ids), first[2]]


def test_an_id_goes_with_its_event(ledger: SqlLedger) -> None:
    purged, erased, kept = ledger.cloud_events.ids([("/a", "1"), ("/a", "2"), ("/a", "3")])
    for event_id, user_id in ((purged, "u1"), (erased, "u2"), (kept, "u3")):
        ledger.recording.commit([make_entry(make_event(id=event_id, user_id=user_id, seq=None))])
    ledger.erasure.erase_events("u2", 10)
    assert ledger.cloud_events.trim() == 0  # the rest is in use, or young
    again = ledger.cloud_events.ids([("/a", "1"), ("/a", "2"), ("/a", "3")])
    assert (again[0], again[2]) == (purged, kept)
    assert again[1] != erased
    ledger.confirmations.confirm([Confirmation(purged, "u1", "websocket", "x", "connection")])
    ledger.retention.purge({State.CONFIRMED: ledger.now() + timedelta(days=1)})
    assert ledger.cloud_events.ids([("/a", "1")]) != [purged]
