"""The promises of the event stores, on SQLite and on PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
import uuid_utils

from delivery.domain.event import EventClass
from delivery.domain.lifecycle import Confirmation, Outcome, State
from delivery.domain.policy import Policies, parse_policies
from delivery.domain.records import Entry, EventFilter, Purged, Recorded, SideAttempt
from delivery.domain.users.contact import Contact
from delivery.ledger import SqlLedger
from delivery.ledger.sql.tables import events
from delivery.testing import make_entry, make_event

POLICIES: Policies = parse_policies({})


def entry(user: str = "ada", run: str = "run-1", **changes: Any) -> Entry:
    """An entry that is valid unless a test changes it."""
    event = make_event(
        id=changes.pop("id", None) or str(uuid_utils.uuid7()),
        type=changes.pop("type", "agent_started"),
        user_id=user,
        run_id=run,
        seq=changes.pop("seq", None),
        at=datetime.now(UTC),
        event_class=changes.pop("event_class", EventClass.CRITICAL),
        data=changes.pop("data", {"agent": "planner"}),
        meta=changes.pop("meta", None),
        thread_id=changes.pop("thread_id", None),
    )
    values: dict[str, Any] = {"ack_timeout": 5.0, "ttl": 600.0} | changes
    return make_entry(event, **values)


def confirmation(one: Entry, **changes: str) -> Confirmation:
    values = {
        "event_id": one.event.id,
        "user_id": one.event.user_id,
        "channel": "websocket",
        "by": one.event.user_id,
        "evidence": "connection-1",
    } | changes
    return Confirmation(**values)


def last_seqs(ledger: SqlLedger, user_id: str, runs_of: int) -> dict[str, int]:
    return ledger.feed.first_page(user_id, None, by="phone", runs_of=runs_of, limit=1)[0]


def state(ledger: SqlLedger, one: Entry) -> State:
    timeline = ledger.events.get(one.event.id)
    assert timeline is not None
    return timeline.stored.state


def commit(ledger: SqlLedger, entries: Sequence[Entry], **options: Any) -> list[Recorded]:
    return [answer.outcome for answer in ledger.recording.commit(entries, **options)]


def test_a_recorded_event_reads_back_as_it_was_given(ledger: SqlLedger) -> None:
    one = entry(
        data={"text": 'quo"te\\ \t ünïcode \u2028', "n": 1.5}, meta={"a": [1]}, thread_id="t"
    )
    [answer] = ledger.recording.commit([one])
    assert (answer.outcome, answer.seq) == (Recorded.NEW, 1)
    timeline = ledger.events.get(one.event.id)
    assert timeline is not None
    back = timeline.stored.event
    assert (back.data, back.meta, back.thread_id) == (one.event.data, {"a": [1]}, "t")
    assert back.at == one.event.at
    assert timeline.stored.state is State.ACCEPTED
    assert timeline.stored.generation == 1


def test_an_accepted_event_is_due_after_its_ack_timeout(ledger: SqlLedger) -> None:
    one = entry(ack_timeout=7.0)
    ledger.recording.commit([one])
    [stored] = ledger.events.read([one.event.id])
    assert stored.due_at == stored.recorded_at + timedelta(seconds=7)


def test_sequence_numbers_count_from_one_within_a_run(ledger: SqlLedger) -> None:
    first = [entry(run="a"), entry(run="b"), entry(run="a")]
    assert [a.seq for a in ledger.recording.commit(first)] == [1, 1, 2]
    assert [a.seq for a in ledger.recording.commit([entry(run="a")])] == [3]
    assert last_seqs(ledger, "ada", 10)["a"] == 3


def test_numbers_assigned_in_process_are_respected_by_later_http_events(ledger: SqlLedger) -> None:
    ledger.recording.commit([entry(seq=5), entry(seq=6)])
    assert [a.seq for a in ledger.recording.commit([entry()])] == [7]


def test_the_same_id_with_the_same_content_is_a_duplicate(ledger: SqlLedger) -> None:
    one = entry()
    assert commit(ledger, [one]) == [Recorded.NEW]
    assert commit(ledger, [entry(id=one.event.id)]) == [Recorded.DUPLICATE]


def test_the_same_id_with_other_content_is_a_conflict_and_the_rest_is_kept(
    ledger: SqlLedger,
) -> None:
    one = entry()
    ledger.recording.commit([one])
    other = entry()
    outcomes = commit(ledger, [entry(id=one.event.id, data={"x": 1}), other])
    assert outcomes == [Recorded.CONFLICT, Recorded.NEW]
    assert ledger.events.get(other.event.id) is not None


def test_an_id_repeated_within_one_batch_is_recorded_once(ledger: SqlLedger) -> None:
    one = entry()
    twin = entry(id=one.event.id)
    other = entry(id=one.event.id, data={"x": 2})
    answers = ledger.recording.commit([one, twin, other])
    assert [a.outcome for a in answers] == [
        Recorded.NEW,
        Recorded.DUPLICATE,
        Recorded.CONFLICT,
    ]
    assert answers[1].seq == 1


def test_two_nodes_that_record_one_id_at_once_agree_on_one_row(ledger: SqlLedger) -> None:
    identity = str(uuid_utils.uuid7())
    start = threading.Barrier(4)
    outcomes: list[Recorded] = []

    def record() -> None:
        start.wait(5)
        outcomes.extend(commit(ledger, [entry(id=identity)]))

    threads = [threading.Thread(target=record) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(outcomes) == sorted([Recorded.NEW] + [Recorded.DUPLICATE] * 3)


def test_two_producers_of_one_run_keep_both_events_in_commit_order(ledger: SqlLedger) -> None:
    start = threading.Barrier(2)

    def produce() -> None:
        start.wait(5)
        for _ in range(20):
            ledger.recording.commit([entry(), entry()])

    threads = [threading.Thread(target=produce) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    fed, _ = ledger.feed.page("ada", None, by="ada", limit=200)
    assert [one.event.seq for one in fed] == list(range(1, 81))


def test_an_ack_that_beats_the_commit_is_inserted_with_the_event(ledger: SqlLedger) -> None:
    one = entry(sent=True)
    one.confirmations.append(confirmation(one))
    ledger.recording.commit([one])
    timeline = ledger.events.get(one.event.id)
    assert timeline is not None
    assert timeline.stored.state is State.CONFIRMED
    assert timeline.stored.due_at is None
    assert [(c.channel, c.by) for c in timeline.confirmations] == [("websocket", "ada")]
    assert [(a.channel, a.outcome) for a in timeline.attempts] == [("websocket", Outcome.CONFIRMED)]


def test_a_confirmation_confirms_and_clears_the_due_time(ledger: SqlLedger) -> None:
    one = entry(sent=True)
    ledger.recording.commit([one])
    assert state(ledger, one) is State.SENT
    assert ledger.confirmations.confirm([confirmation(one)]).confirmed == (one.event.id,)
    [stored] = ledger.events.read([one.event.id])
    assert (stored.state, stored.due_at) == (State.CONFIRMED, None)


def test_a_second_device_adds_a_row_and_a_repeated_confirmation_adds_none(
    ledger: SqlLedger,
) -> None:
    one = entry()
    ledger.recording.commit([one])
    ledger.confirmations.confirm([confirmation(one), confirmation(one)])
    again = ledger.confirmations.confirm(
        [confirmation(one), confirmation(one, evidence="connection-2")]
    )
    assert again.confirmed == (one.event.id,)
    timeline = ledger.events.get(one.event.id)
    assert timeline is not None
    assert {c.evidence for c in timeline.confirmations} == {"connection-1", "connection-2"}


def test_only_the_events_own_user_confirms_it(ledger: SqlLedger) -> None:
    one = entry()
    ledger.recording.commit([one])
    stranger = ledger.confirmations.confirm([confirmation(one, user_id="eve")])
    assert stranger.confirmed == ()
    assert stranger.unknown == (one.event.id,)
    assert state(ledger, one) is State.ACCEPTED


def test_confirmations_of_malformed_ids_are_unknown(ledger: SqlLedger) -> None:
    one = entry()
    answer = ledger.confirmations.confirm(
        [confirmation(one), confirmation(one, event_id="no-uuid")]
    )
    assert set(answer.unknown) == {one.event.id, "no-uuid"}


def test_a_hand_over_starts_the_chain_once_and_says_why(ledger: SqlLedger) -> None:
    one, done = entry(), entry()
    ledger.recording.commit([one, done])
    ledger.confirmations.confirm([confirmation(done)])
    ledger.operations.hand_over([one.event.id, done.event.id], "nobody connected")
    ledger.operations.hand_over([one.event.id], "again")
    timeline = ledger.events.get(one.event.id)
    assert timeline is not None
    assert timeline.stored.state is State.FALLING_BACK
    assert [(a.channel, a.outcome, a.error) for a in timeline.attempts] == [
        ("websocket", Outcome.FAILED, "nobody connected")
    ]
    assert state(ledger, done) is State.CONFIRMED


def test_a_feed_reads_unconfirmed_events_by_their_index(ledger: SqlLedger) -> None:
    database = ledger.database
    explain = "EXPLAIN QUERY PLAN" if database.is_sqlite else "EXPLAIN"
    asked: list[tuple[str, Any]] = []
    listener = (database.engine, "before_cursor_execute")
    note = lambda _c, _k, statement, values, *_: asked.append((statement, values))  # noqa: E731
    sa.event.listen(*listener, note)
    try:
        ledger.feed.page("ada", None, by="ada", limit=10)
    finally:
        sa.event.remove(*listener, note)
    [(statement, values)] = [one for one in asked if "expires_at" in one[0]]
    with database.read() as connection:
        if not database.is_sqlite:  # it scans a table as small as this one
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        plan = connection.exec_driver_sql(f"{explain} {statement}", values).all()
    assert "ix_events_unconfirmed" in str(plan)


def test_last_numbers_are_those_of_the_runs_with_the_newest_events(ledger: SqlLedger) -> None:
    for run, count in (("one", 3), ("two", 1), ("three", 2)):
        ledger.recording.commit([entry(run=run) for _ in range(count)])
    ledger.recording.commit([entry("eve", run="hers")])
    assert last_seqs(ledger, "ada", 10) == {"one": 3, "two": 1, "three": 2}
    assert last_seqs(ledger, "ada", 3) == {"two": 1, "three": 2}
    assert last_seqs(ledger, "nobody", 2) == {}


SPECIAL = "a\\b\"c'd{e},f\u2028g\u00e9 N\\N"


def test_no_character_of_an_id_or_of_data_is_special(ledger: SqlLedger) -> None:
    special = entry(
        SPECIAL, run=f"run {SPECIAL}", data={SPECIAL: f"{SPECIAL}\n\t\r"}, thread_id=SPECIAL
    )
    plain = entry(SPECIAL, run="run-1")
    ledger.recording.commit([special, plain])
    kept, _ = ledger.events.find(EventFilter(user_id=SPECIAL, run_id=f"run {SPECIAL}"))
    assert [one.event for one in kept] == [special.event.evolve(seq=1)]
    ledger.confirmations.confirm(
        [confirmation(special, by=SPECIAL, evidence=SPECIAL), confirmation(plain, user_id="a")]
    )
    timeline = ledger.events.get(special.event.id)
    assert timeline is not None
    assert [(one.by, one.evidence) for one in timeline.confirmations] == [(SPECIAL, SPECIAL)]
    assert state(ledger, plain) is State.ACCEPTED


def test_a_claim_finds_the_address_of_a_user_with_special_characters_in_the_name(
    ledger: SqlLedger,
) -> None:
    special = entry(SPECIAL, hand_over=True)
    ledger.recording.commit([special])
    ledger.contacts.put(Contact(SPECIAL, email="ada@example.org"))
    [claim] = ledger.chain.claim([special.event.id], 60.0)
    assert claim.contact.email == "ada@example.org"


def test_an_entry_without_a_connection_is_inserted_as_falling_back(ledger: SqlLedger) -> None:
    one = entry(hand_over=True, pushes=[(Outcome.FAILED, "not connected")])
    ledger.recording.commit([one])
    [stored] = ledger.events.read([one.event.id])
    assert stored.state is State.FALLING_BACK
    assert stored.handed_over_at == stored.due_at == stored.recorded_at


def test_the_feed_holds_unconfirmed_events_in_order_and_recent_ones(
    ledger: SqlLedger,
) -> None:
    entries = [entry() for _ in range(5)]
    ledger.recording.commit([*entries, entry(user="eve")])
    ledger.confirmations.confirm([confirmation(entries[1])])
    fed, mark = ledger.feed.page("ada", None, by="ada", limit=10)
    wanted = [e.event.id for i, e in enumerate(entries) if i != 1]
    assert ([one.event.id for one in fed], mark) == (wanted, None)
    everything, mark = ledger.feed.page("ada", entries[0].event.id, by="ada", limit=10)
    assert [one.event for one in everything] == [
        e.event.evolve(seq=number) for number, e in enumerate(entries, start=1)
    ]
    rest, _ = ledger.feed.page("ada", mark, by="ada", after=everything[2].position, limit=10)
    assert [one.event.id for one in rest] == [e.event.id for e in entries[3:]]


def test_a_cursor_of_another_user_marks_nothing(ledger: SqlLedger) -> None:
    mine, hers = entry(), entry(user="eve")
    ledger.recording.commit([mine, hers])
    for cursor in (hers.event.id, mine.event.id.replace("0", "1"), "no id"):
        fed, mark = ledger.feed.page("ada", cursor, by="ada", limit=10)
        assert ([one.event.id for one in fed], mark) == ([mine.event.id], None)


def test_the_feed_marks_events_that_this_client_acknowledged(ledger: SqlLedger) -> None:
    by_phone, by_laptop, by_mail, again, open_one = entries = [entry() for _ in range(5)]
    ledger.recording.commit(entries)
    for one, by in ((by_phone, "phone"), (by_laptop, "laptop"), (again, "laptop")):
        ledger.confirmations.confirm([confirmation(one, by=by)])
    ledger.confirmations.confirm(
        [confirmation(by_mail, by="phone", channel="email"), confirmation(again, by="phone")]
    )
    fed, _ = ledger.feed.page("ada", by_phone.event.id, by="phone", limit=10)
    confirmed = [one.event.id for one in fed if one.is_confirmed]
    assert confirmed == [by_phone.event.id, again.event.id]
    assert open_one.event.id in [one.event.id for one in fed]


def test_events_far_older_than_the_cursor_are_not_read(
    ledger: SqlLedger,
) -> None:
    old, late, cursor = entry(), entry(), entry()
    ledger.recording.commit([old])
    ledger.recording.commit([late])
    ledger.recording.commit([cursor])
    ledger.confirmations.confirm([confirmation(one) for one in (old, late, cursor)])
    for one, seconds in ((old, 46), (late, 31)):
        with ledger.database.write() as connection:
            recorded_at = events.c.recorded_at
            at = connection.execute(sa.select(recorded_at).where(events.c.id == one.event.id))
            earlier = at.scalar_one() - timedelta(seconds=seconds)
            connection.execute(
                sa.update(events).where(events.c.id == one.event.id).values(recorded_at=earlier)
            )
    fed, mark = ledger.feed.page("ada", cursor.event.id, by="ada", limit=10)
    assert [one.event.id for one in fed] == [cursor.event.id]
    [stored] = ledger.events.read([old.event.id])
    assert mark is not None
    assert mark.behind == stored.position


def test_a_cursor_with_too_many_events_behind_it_brings_the_newest_and_the_unconfirmed(
    ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("delivery.ledger.stores.feed.MAX_REPLAYED", 20)
    monkeypatch.setattr("delivery.ledger.stores.feed.SOON", 5)
    entries = [entry() for _ in range(40)]
    ledger.recording.commit(entries)
    ids = [one.event.id for one in entries]
    open_one, *confirmed = entries
    ledger.confirmations.confirm([confirmation(one) for one in confirmed])
    fed, mark = ledger.feed.page("ada", ids[1], by="ada", limit=100)
    assert mark is not None
    assert mark.is_cut
    assert [one.event.id for one in fed] == [open_one.event.id, *ids[20:]]
    rest, again = ledger.feed.page("ada", mark, by="ada", after=fed[5].position, limit=100)
    assert [one.event.id for one in rest] == ids[25:]
    assert again == mark
    # Not one too many: the cursor's own time is within reach.
    monkeypatch.setattr("delivery.ledger.stores.feed.MAX_REPLAYED", 41)
    fed, mark = ledger.feed.page("ada", ids[1], by="ada", limit=100)
    assert mark is not None
    assert not mark.is_cut
    assert [one.event.id for one in fed] == ids


@pytest.mark.parametrize("after", ["", "bogus", "-1", "9" * 30, "\u0661"])
def test_a_page_after_nothing_known_is_refused(ledger: SqlLedger, after: str) -> None:
    with pytest.raises(ValueError, match="not the next of a page"):
        ledger.events.find(EventFilter(user_id="ada"), after=after)


def test_a_page_begins_before_an_event_that_is_named_or_before_its_time(ledger: SqlLedger) -> None:
    entries = [entry() for _ in range(4)]
    foreign, purged, ids = entry("bob"), str(uuid_utils.uuid7()), [one.event.id for one in entries]
    later = entry()
    ledger.recording.commit([foreign, *reversed(entries), later])  # not in the order of their ids
    mine = EventFilter(user_id="ada")

    def before(id_: str) -> list[str]:
        return [one.event.id for one in ledger.events.find(mine, after=id_)[0]]

    assert before(ids[1]) == [ids[2], ids[3]]
    # Another user's tells nothing but the time that its id holds; so does one that is gone.
    assert before(foreign.event.id) == ids
    assert before(purged) == ids


def test_an_expired_event_is_not_fed(ledger: SqlLedger) -> None:
    ledger.recording.commit([entry(ttl=0.0)])
    assert ledger.feed.page("ada", None, by="ada", limit=10) == ([], None)


def test_listing_pages_from_the_newest_and_filters(ledger: SqlLedger) -> None:
    entries = [entry(run=f"r{i % 2}") for i in range(5)]
    ledger.recording.commit(entries)
    first, after = ledger.events.find(EventFilter(user_id="ada"), limit=3)
    second, end = ledger.events.find(EventFilter(user_id="ada"), after=after, limit=3)
    listed = [one.event.id for one in [*first, *second]]
    assert listed == [e.event.id for e in reversed(entries)]
    assert end is None
    runs, _ = ledger.events.find(EventFilter(run_id="r1", state=State.ACCEPTED))
    assert {one.event.run_id for one in runs} == {"r1"}
    assert ledger.events.find(EventFilter(type="other")) == ([], None)


def test_a_replay_starts_a_new_generation_but_never_a_confirmed_event(
    ledger: SqlLedger,
) -> None:
    one, done = entry(hand_over=True), entry()
    ledger.recording.commit([one, done])
    ledger.confirmations.confirm([confirmation(done)])
    ids = [one.event.id, done.event.id]
    assert ledger.operations.replay(ids, policies=POLICIES, dry_run=True) == [one.event.id]
    assert state(ledger, one) is State.FALLING_BACK
    assert ledger.operations.replay(ids, policies=POLICIES) == [one.event.id]
    [stored] = ledger.events.read([one.event.id])
    assert (stored.state, stored.generation) == (State.ACCEPTED, 2)
    assert stored.due_at is not None


def test_purge_takes_only_old_events_of_the_state(ledger: SqlLedger) -> None:
    one, done = entry(), entry()
    ledger.recording.commit([one, done])
    ledger.confirmations.confirm([confirmation(done)])
    hour = timedelta(hours=1)
    assert ledger.retention.purge({State.CONFIRMED: datetime.now(UTC) - hour}).deleted == {}
    gone = ledger.retention.purge({State.CONFIRMED: datetime.now(UTC) + hour})
    assert gone == Purged({State.CONFIRMED: 1}, None)
    assert ledger.events.get(done.event.id) is None
    assert ledger.events.get(one.event.id) is not None


def test_a_drained_event_whose_id_is_taken_is_kept_dead_under_a_new_id(
    ledger: SqlLedger,
) -> None:
    one = entry()
    ledger.recording.commit([one])
    other = entry(id=one.event.id, data={"other": True})
    [answer] = ledger.recording.commit([other], drained=True)
    assert answer.id != one.event.id
    timeline = ledger.events.get(answer.id)
    assert timeline is not None
    assert timeline.stored.state is State.DEAD
    assert timeline.stored.event.meta == {"conflicts_with": one.event.id}


def test_a_meta_that_looks_like_a_conflicts_makes_no_event_dead(ledger: SqlLedger) -> None:
    """A spool may hold events that were accepted with such a ``meta``."""
    one = entry(meta={"conflicts_with": "x"})
    ledger.recording.commit([one], drained=True)
    [stored] = ledger.events.read([one.event.id])
    assert stored.state is State.ACCEPTED


def test_an_event_without_a_connection_left_is_due_at_once(ledger: SqlLedger) -> None:
    sent, confirmed, later = entry(sent=True), entry(sent=True), entry(sent=True)
    ledger.recording.commit([sent, confirmed, later], [confirmation(confirmed)])
    assert not ledger.chain.sweep(10).due
    ledger.operations.expedite([sent.event.id, confirmed.event.id, "no id"])
    assert [due.id for due in ledger.chain.sweep(10).due] == [sent.event.id]
    assert state(ledger, confirmed) is State.CONFIRMED
    assert state(ledger, later) is State.SENT


def test_expediting_does_not_change_events_on_the_chain(ledger: SqlLedger) -> None:
    one = entry(hand_over=True)
    ledger.recording.commit([one])
    assert len(ledger.chain.sweep(10).due) == 1  # published: due again in some seconds
    ledger.operations.expedite([one.event.id])
    assert not ledger.chain.sweep(10).due


def test_draining_twice_records_once(ledger: SqlLedger) -> None:
    one = entry(seq=1)
    assert commit(ledger, [one], drained=True) == [Recorded.NEW]
    assert commit(ledger, [one], drained=True) == [Recorded.DUPLICATE]


def test_an_auth_event_is_in_the_audit_log(ledger: SqlLedger) -> None:
    one = entry(event_class=EventClass.AUTH, type="auth_completed")
    ledger.recording.commit([one])
    ledger.operations.hand_over([one.event.id], "nobody connected")
    ledger.operations.replay([one.event.id], policies=POLICIES)
    ledger.confirmations.confirm([confirmation(one)])
    assert ledger.audit.seal() == 6, "the row of the replay and the switch to the keyed chain, too"
    assert ledger.audit.verify().findings == ()


def test_attempts_beside_the_chain_are_numbered_after_those_that_are_there(
    ledger: SqlLedger,
) -> None:
    one = entry(event_class=EventClass.AUTH, type="auth_completed")
    one.pushes.append((Outcome.FAILED, "nobody connected"))
    at = one.event.at
    made = [
        SideAttempt(one.event.id, channel, Outcome.DELIVERED, at, at)
        for channel in ("websocket", "queue", "websocket")
    ]
    assert ledger.recording.add_attempts(made) == made, "the event is not recorded yet"
    ledger.recording.commit([one])
    assert ledger.recording.add_attempts(made) == []
    found = ledger.events.get(one.event.id)
    assert found is not None
    assert sorted((a.channel, a.number, a.outcome.value) for a in found.attempts) == [
        ("database", 1, "delivered"),
        ("queue", 1, "delivered"),
        ("websocket", 1, "failed"),
        ("websocket", 2, "delivered"),
        ("websocket", 3, "delivered"),
    ]


def test_many_events_go_in_one_batch(ledger: SqlLedger) -> None:
    entries = [entry(run=f"r{i % 50}") for i in range(2_500)]
    outcomes = commit(ledger, entries, confirmations=[confirmation(e) for e in entries[:2_000]])
    assert outcomes == [Recorded.NEW] * 2_500
    stored = ledger.events.read([one.event.id for one in entries])
    assert sum(one.state is State.CONFIRMED for one in stored) == 2_000
