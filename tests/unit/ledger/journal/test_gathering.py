"""The journal's next transaction: ripe prefixes, and confirmations and hand-overs before the
commit."""

from __future__ import annotations

from unittest.mock import ANY

from delivery.domain.lifecycle import Confirmation, Outcome
from delivery.domain.records import Entry
from delivery.ledger.journal.gathering import Batch, Gathering
from delivery.testing import make_entry, make_event, make_id

NEVER = -1.0
LIMIT = 100


def gathering(*entries: Entry, at: float = 0.0) -> Gathering:
    made = Gathering()
    for entry in entries:
        made.add(entry, lambda entry, answer: None)
    made.mark(at)
    return made


def sent(number: int) -> Entry:
    return make_entry(make_event(id=make_id(number)), sent=True, awaited=True)


def confirmation(entry: Entry, user_id: str = "u1") -> Confirmation:
    return Confirmation(entry.event.id, user_id, "websocket", "ada", "c-1")


def cut(here: Gathering, ripe_since: float, limit: int = LIMIT) -> Batch | None:
    return here.cut(ripe_since, limit, confirmations_since=ripe_since)


def entries_of(batch: Batch | None) -> list[Entry]:
    assert batch is not None
    return [entry for entry, _ in batch.entries]


def test_an_entry_that_was_not_sent_is_ripe_at_once() -> None:
    one = make_entry()
    assert entries_of(cut(gathering(one), NEVER)) == [one]


def test_an_entry_sent_on_a_socket_of_this_node_waits_for_its_confirmation() -> None:
    one = sent(1)
    here = gathering(one)
    assert cut(here, NEVER) is None
    here.confirm([confirmation(one)])
    assert entries_of(cut(here, NEVER)) == [one]
    assert one.confirmations == [confirmation(one)]
    assert not here


def test_an_entry_sent_by_another_node_does_not_wait_for_its_confirmation() -> None:
    one = make_entry(sent=True)
    assert entries_of(cut(gathering(one), NEVER)) == [one]


def test_a_confirmation_of_another_user_is_not_the_entrys() -> None:
    one = sent(1)
    here = gathering(one)
    here.confirm([confirmation(one, "u2")])
    here.mark(0.0)
    assert cut(here, NEVER) is None
    batch = cut(here, 0.0)
    assert batch is not None
    assert batch.confirmations == [confirmation(one, "u2")]
    assert not one.confirmations


def test_an_entry_that_waited_for_long_enough_leaves_with_the_ripe_entries_behind_it() -> None:
    first, second, third, last = (sent(number) for number in range(1, 5))
    here = gathering(first, second)
    for entry in (third, last):
        here.add(entry, lambda entry, answer: None)
    here.mark(1.0)
    here.confirm([confirmation(third)])
    assert here.oldest == 0.0
    assert entries_of(cut(here, 0.0)) == [first, second, third]
    assert here.oldest == 1.0
    assert cut(here, 0.5) is None
    assert entries_of(cut(here, 1.0)) == [last]
    assert here.oldest is None


def test_nothing_overtakes_an_entry_that_waits() -> None:
    waiting, ready = sent(1), make_entry(make_event(id=make_id(2)))
    here = gathering(waiting, ready)
    assert cut(here, NEVER) is None
    here.confirm([confirmation(waiting)])
    assert entries_of(cut(here, NEVER)) == [waiting, ready]


def test_a_batch_has_a_limit_and_the_rest_keeps_its_order() -> None:
    entries = [make_entry(make_event(id=make_id(number))) for number in range(5)]
    here = gathering(*entries)
    assert entries_of(cut(here, NEVER, 2)) == entries[:2]
    assert entries_of(cut(here, NEVER, 2)) == entries[2:4]
    assert entries_of(cut(here, NEVER, 2)) == entries[4:]


def test_a_late_hand_over_goes_into_the_insert_and_makes_it_ripe() -> None:
    one = sent(1)
    here = gathering(one)
    here.hand_over(one.event.id, "the client left")
    assert entries_of(cut(here, NEVER)) == [one]
    assert one.hand_over
    assert one.pushes == [(Outcome.FAILED, "the client left")]


def test_a_hand_over_of_a_committed_event_leaves_at_once() -> None:
    gone = sent(1)
    here = gathering(gone)
    cut(here, 0.0)
    here.hand_over(gone.event.id, "no room")
    assert cut(here, NEVER) == Batch([], [], {"no room": [gone.event.id]})
    assert not Batch()


def test_confirmations_of_committed_events_gather_for_their_own_time() -> None:
    gone, late = sent(1), make_entry(make_event(id=make_id(2)))
    here = gathering(gone)
    cut(here, 0.0)
    here.confirm([confirmation(gone)])
    here.mark(1.0)
    here.confirm([confirmation(gone, "u2")])
    here.add(late, lambda entry, answer: None)
    here.mark(2.0)
    assert here.oldest_confirmation == 1.0
    assert here.cut(NEVER, LIMIT, confirmations_since=0.9) == Batch([(late, ANY)])
    assert here.cut(2.0, LIMIT, confirmations_since=0.9) is None
    assert here.cut(NEVER, LIMIT, confirmations_since=1.0) == Batch(
        [], [confirmation(gone), confirmation(gone, "u2")]
    )
    assert here.oldest_confirmation is None
