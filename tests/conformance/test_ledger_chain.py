"""The promises of the chain store, on SQLite and on PostgreSQL."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
import uuid_utils

from delivery.domain.event import EventClass
from delivery.domain.lifecycle import Attempt, Confirmation, Outcome, State
from delivery.domain.policy import parse_policies
from delivery.domain.records import Claim, Result, Stored, Swept
from delivery.domain.users.contact import Contact
from delivery.ledger import SqlLedger
from delivery.testing import make_entry, make_event
from tests.conformance.chain_calls import begin, end, finish, move, skip
from tests.waiting import at_once

DELIVERED = Result(Outcome.DELIVERED, provider_id="p-1")
LEASE = 60.0


def recorded(ledger: SqlLedger, user: str = "ada", run: str = "run-1", **changes: Any) -> str:
    """The id of an event in the ledger."""
    event = make_event(
        id=str(uuid_utils.uuid7()),
        type="agent_completed",
        user_id=user,
        run_id=run,
        seq=None,
        at=datetime.now(UTC),
        event_class=changes.pop("event_class", EventClass.CRITICAL),
    )
    values: dict[str, Any] = {"ack_timeout": 5.0, "ttl": 3600.0} | changes
    ledger.recording.commit([make_entry(event, **values)])
    return event.id


def handed_over(ledger: SqlLedger, **changes: Any) -> str:
    """The id of an event on the chain."""
    return recorded(ledger, hand_over=True, **changes)


def claimed(ledger: SqlLedger, event_id: str, lease: float = LEASE) -> Claim:
    [claim] = ledger.chain.claim([event_id], lease)
    return claim


def stored(ledger: SqlLedger, event_id: str) -> Stored:
    [found] = ledger.events.read([event_id])
    return found


def attempts(ledger: SqlLedger, event_id: str) -> list[Attempt]:
    timeline = ledger.events.get(event_id)
    assert timeline is not None
    return list(timeline.attempts)


def confirm(ledger: SqlLedger, event_id: str, user: str = "ada") -> None:
    ledger.confirmations.confirm([Confirmation(event_id, user, "websocket", user, "c-1")])


# --- sweep -----------------------------------------------------------------------------------


def test_an_event_is_not_due_before_its_ack_timeout(ledger: SqlLedger, advance: Any) -> None:
    recorded(ledger)
    advance(4.0)
    assert ledger.chain.sweep().due == ()


def test_an_event_without_an_acknowledgement_enters_the_chain(
    ledger: SqlLedger, advance: Any
) -> None:
    event_id = recorded(ledger)
    advance(6.0)
    [due] = ledger.chain.sweep().due
    assert (due.id, due.event_class, due.step) == (event_id, EventClass.CRITICAL, None)
    now = stored(ledger, event_id)
    assert (now.state, now.step) == (State.FALLING_BACK, None)
    assert now.handed_over_at is not None
    assert abs(now.handed_over_at - ledger.now()) < timedelta(seconds=5)


def test_a_pushed_event_that_timed_out_has_a_failed_attempt_on_the_record(
    ledger: SqlLedger, advance: Any
) -> None:
    pushed = recorded(ledger, sent=True, pushes=[(Outcome.DELIVERED, None)])
    unsent = recorded(ledger)
    advance(6.0)
    ledger.chain.sweep()
    last = attempts(ledger, pushed)[-1]
    assert (last.channel, last.number, last.outcome) == ("websocket", 2, Outcome.FAILED)
    assert (last.error, last.retryable) == ("no acknowledgement in time", True)
    assert attempts(ledger, unsent) == []


def test_entering_the_chain_counts_as_the_first_publish(ledger: SqlLedger, advance: Any) -> None:
    event_id = recorded(ledger)
    advance(6.0)
    pauses = []
    for _ in range(2):
        before = ledger.now()
        ledger.chain.sweep()
        due_at = stored(ledger, event_id).due_at
        assert due_at is not None
        pauses.append(round((due_at - before).total_seconds()))
        advance(pauses[-1] + 1)
    assert pauses == [5, 10]


def test_a_lost_message_is_published_again_after_5_s_doubling_up_to_60(
    ledger: SqlLedger, advance: Any
) -> None:
    event_id = handed_over(ledger)
    pauses = []
    for _ in range(6):
        before = ledger.now()
        assert [due.id for due in ledger.chain.sweep().due] == [event_id]
        due_at = stored(ledger, event_id).due_at
        assert due_at is not None
        pauses.append(round((due_at - before).total_seconds()))
        assert ledger.chain.sweep().due == ()
        advance(pauses[-1] + 1)
    assert pauses == [5, 10, 20, 40, 60, 60]


def test_an_event_is_never_due_later_than_it_expires(ledger: SqlLedger) -> None:
    event_id = handed_over(ledger, ttl=3.0, ack_timeout=1.0)
    ledger.chain.sweep()
    now = stored(ledger, event_id)
    assert now.due_at == now.expires_at


@pytest.mark.parametrize("hand_over", [True, False])
def test_an_event_past_its_time_to_live_expires(
    ledger: SqlLedger, advance: Any, hand_over: bool
) -> None:
    event_id = recorded(ledger, ttl=10.0, hand_over=hand_over)
    advance(11.0)
    swept = ledger.chain.sweep()
    assert (swept.due, swept.expired) == ((), 1)
    now = stored(ledger, event_id)
    assert (now.state, now.due_at) == (State.EXPIRED, None)
    assert ledger.chain.sweep().expired == 0


def test_a_page_holds_at_most_its_limit_oldest_first(ledger: SqlLedger, advance: Any) -> None:
    ids = []
    for _ in range(5):
        ids.append(handed_over(ledger))
        advance(0.1)
    assert [due.id for due in ledger.chain.sweep(3).due] == ids[:3]
    assert [due.id for due in ledger.chain.sweep(3).due] == ids[3:]


def test_sweepers_at_once_never_get_the_same_event(ledger: SqlLedger) -> None:
    ids = [handed_over(ledger) for _ in range(40)]
    pages = at_once(*[lambda: ledger.chain.sweep(10) for _ in range(4)])
    taken = [due.id for page in pages for due in page.due]
    assert len(taken) == len(set(taken))
    while page := ledger.chain.sweep(10).due:
        taken += [due.id for due in page]
    assert sorted(taken) == sorted(ids)


def test_the_oldest_overdue_age_counts_events_not_swept(ledger: SqlLedger, advance: Any) -> None:
    assert ledger.chain.oldest_overdue() == 0.0
    handed_over(ledger)
    advance(30.0)
    assert 29.0 < ledger.chain.oldest_overdue() < 40.0
    ledger.chain.sweep()
    assert ledger.chain.oldest_overdue() == 0.0


# --- claim -----------------------------------------------------------------------------------


def test_a_claim_brings_all_that_a_decision_needs(ledger: SqlLedger) -> None:
    contact = Contact("ada", email="ada@example.org", quiet_hours=("22:00", "07:00"))
    ledger.contacts.put(contact)
    event_id = handed_over(ledger, pushes=[(Outcome.FAILED, "nobody connected")])
    claim = claimed(ledger, event_id)
    assert claim.stored.event.id == event_id
    assert claim.attempts == ()  # the fast path's are not the chain's
    assert claim.contact == contact
    assert claim.token == 1
    assert claim.stored.due_at == claim.now + timedelta(seconds=LEASE)


def test_a_user_without_contact_data_has_an_empty_contact(ledger: SqlLedger) -> None:
    assert claimed(ledger, handed_over(ledger)).contact == Contact("ada")


def test_a_claimed_event_cannot_be_claimed_until_the_lease_ends(
    ledger: SqlLedger, advance: Any
) -> None:
    event_id = handed_over(ledger)
    claimed(ledger, event_id)
    assert ledger.chain.claim([event_id], LEASE) == []
    advance(LEASE + 1)
    assert claimed(ledger, event_id).token == 2


def test_a_claim_keeps_the_sweep_away_until_the_lease_ends(ledger: SqlLedger, advance: Any) -> None:
    event_id = handed_over(ledger)
    claimed(ledger, event_id)
    advance(LEASE - 1)
    assert ledger.chain.sweep().due == ()
    advance(2)
    assert [due.id for due in ledger.chain.sweep().due] == [event_id]


def test_only_events_on_the_chain_can_be_claimed(ledger: SqlLedger) -> None:
    accepted = recorded(ledger)
    confirmed = handed_over(ledger)
    confirm(ledger, confirmed)
    assert ledger.chain.claim([accepted, confirmed, str(uuid_utils.uuid7()), "?"], LEASE) == []
    assert ledger.chain.claim([], LEASE) == []


def test_claiming_an_expired_event_ends_it(ledger: SqlLedger, advance: Any) -> None:
    event_id = handed_over(ledger, ttl=10.0)
    advance(11.0)
    assert ledger.chain.claim([event_id], LEASE) == []
    assert stored(ledger, event_id).state is State.EXPIRED


def test_of_two_workers_at_once_one_gets_the_claim(ledger: SqlLedger) -> None:
    for _ in range(5):
        event_id = handed_over(ledger)
        claim = partial(ledger.chain.claim, [event_id], LEASE)
        first, second = at_once(claim, claim)
        assert sorted([len(first), len(second)]) == [0, 1]


def test_overlapping_batches_in_any_order_share_out_without_waiting(ledger: SqlLedger) -> None:
    ids = [handed_over(ledger) for _ in range(30)]
    answers = at_once(
        lambda: ledger.chain.claim(ids, LEASE),
        lambda: ledger.chain.claim(ids[::-1], LEASE),
        lambda: ledger.chain.claim(ids[10:] + ids[:10], LEASE),
    )
    assert not [answer for answer in answers if isinstance(answer, BaseException)]
    taken = [claim.stored.event.id for answer in answers for claim in answer]
    assert len(taken) == len(set(taken))
    taken += [claim.stored.event.id for claim in ledger.chain.claim(ids, LEASE)]
    assert sorted(taken) == sorted(ids)


def test_an_attempt_that_a_lost_worker_left_is_unknown(ledger: SqlLedger, advance: Any) -> None:
    event_id = handed_over(ledger)
    assert begin(ledger, claimed(ledger, event_id), "emergency", 1)
    advance(LEASE + 1)
    [left] = claimed(ledger, event_id).attempts
    assert (left.outcome, left.error) == (Outcome.UNKNOWN, "the worker was lost")
    assert left.ended_at is not None


def test_a_claim_has_the_attempts_of_its_generation_only(ledger: SqlLedger) -> None:
    event_id = handed_over(ledger)
    claim = claimed(ledger, event_id)
    begin(ledger, claim, "direct", 1)
    end(ledger, claim, "direct", 1, Result(Outcome.FAILED, error="gone"))
    ledger.operations.replay([event_id], policies=parse_policies({}))
    ledger.operations.hand_over([event_id], "again")
    again = claimed(ledger, event_id)
    assert again.stored.generation == 2
    assert again.attempts == ()


# --- attempts --------------------------------------------------------------------------------


def test_an_attempt_is_written_before_and_its_outcome_after(ledger: SqlLedger) -> None:
    event_id = handed_over(ledger)
    claim = claimed(ledger, event_id)
    assert begin(ledger, claim, "emergency", 1)
    [begun] = attempts(ledger, event_id)
    assert (begun.outcome, begun.ended_at) == (Outcome.STARTED, None)
    result = Result(Outcome.FAILED, error="busy", retryable=False, retry_after=2.5)
    assert end(ledger, claim, "emergency", 1, result)
    [ended] = attempts(ledger, event_id)
    assert ended.ended_at is not None
    assert ended.started_at == begun.started_at
    assert (ended.outcome, ended.error, ended.retryable, ended.retry_after) == (
        Outcome.FAILED,
        "busy",
        False,
        2.5,
    )


def test_nothing_is_begun_for_an_event_that_was_confirmed_meanwhile(ledger: SqlLedger) -> None:
    event_id = handed_over(ledger)
    claim = claimed(ledger, event_id)
    confirm(ledger, event_id)
    assert not begin(ledger, claim, "emergency", 1)
    assert not skip(ledger, claim, "emergency", "no address")
    assert attempts(ledger, event_id) == []


def test_an_attempt_during_which_the_event_was_confirmed_still_gets_its_outcome(
    ledger: SqlLedger,
) -> None:
    event_id = handed_over(ledger)
    claim = claimed(ledger, event_id)
    begin(ledger, claim, "emergency", 1)
    confirm(ledger, event_id)
    assert end(ledger, claim, "emergency", 1, DELIVERED)
    assert [one.outcome for one in attempts(ledger, event_id)] == [Outcome.DELIVERED]
    assert stored(ledger, event_id).state is State.CONFIRMED


def test_a_stale_token_records_nothing(ledger: SqlLedger, advance: Any) -> None:
    event_id = handed_over(ledger)
    stale = claimed(ledger, event_id)
    begin(ledger, stale, "emergency", 1)
    advance(LEASE + 1)
    claimed(ledger, event_id)
    before = stored(ledger, event_id)
    assert not begin(ledger, stale, "emergency", 2)
    assert not end(ledger, stale, "emergency", 1, DELIVERED)
    assert not skip(ledger, stale, "sms", "no address")
    assert not move(ledger, stale, "email", ledger.now())
    assert not finish(ledger, stale, alerted=True)
    assert stored(ledger, event_id) == before
    assert [one.outcome for one in attempts(ledger, event_id)] == [Outcome.UNKNOWN]


def test_a_replay_makes_the_claim_stale(ledger: SqlLedger) -> None:
    event_id = handed_over(ledger)
    claim = claimed(ledger, event_id)
    begin(ledger, claim, "emergency", 1)
    ledger.operations.replay([event_id], policies=parse_policies({}))
    assert not end(ledger, claim, "emergency", 1, DELIVERED)
    assert not finish(ledger, claim, alerted=True)
    assert stored(ledger, event_id).state is State.ACCEPTED


def test_an_attempt_number_is_used_once(ledger: SqlLedger) -> None:
    claim = claimed(ledger, handed_over(ledger))
    assert begin(ledger, claim, "emergency", 1)
    assert not begin(ledger, claim, "emergency", 1)


def test_a_batch_is_answered_event_by_event(ledger: SqlLedger) -> None:
    ids = [handed_over(ledger) for _ in range(4)]
    found = {claim.stored.event.id: claim for claim in ledger.chain.claim(ids, LEASE)}
    fine, confirmed, begun, other = (found[event_id] for event_id in ids)
    lost = replace(other, token=other.token - 1)
    confirm(ledger, ids[1])
    assert begin(ledger, begun, "queue", 1)

    starts = [(claim, 1) for claim in (fine, confirmed, begun, lost)]
    assert ledger.chain.begin_all(starts, "queue") == [True, False, False, False]
    assert ledger.chain.end_all(starts, "queue", DELIVERED) == [True, False, True, False]
    outcomes = [[attempt.outcome for attempt in attempts(ledger, one)] for one in ids]
    assert outcomes == [[Outcome.DELIVERED], [], [Outcome.DELIVERED], []]

    soon, later = ledger.now(), ledger.now() + timedelta(seconds=60)
    moves = [
        (fine, "direct", soon),
        (confirmed, "direct", soon),
        (begun, "email", later),
        (lost, "direct", soon),
    ]
    assert ledger.chain.move_all(moves) == [True, False, True, False]
    assert [stored(ledger, one).step for one in ids] == ["direct", None, "email", None]
    assert ledger.chain.move_all([]) == []


def test_a_skip_takes_the_next_number_and_says_why(ledger: SqlLedger) -> None:
    event_id = handed_over(ledger)
    claim = claimed(ledger, event_id)
    begin(ledger, claim, "sms", 1)
    end(ledger, claim, "sms", 1, Result(Outcome.FAILED))
    assert skip(ledger, claim, "sms", "opted out")
    last = attempts(ledger, event_id)[-1]
    assert (last.number, last.outcome, last.error) == (2, Outcome.SKIPPED, "opted out")


# --- moves -----------------------------------------------------------------------------------


def test_a_move_releases_the_claim(ledger: SqlLedger, advance: Any) -> None:
    event_id = handed_over(ledger)
    claim = claimed(ledger, event_id)
    due_at = claim.now + timedelta(seconds=30)
    assert move(ledger, claim, "email", due_at)
    now = stored(ledger, event_id)
    assert (now.state, now.step, now.due_at) == (State.FALLING_BACK, "email", due_at)
    assert claimed(ledger, event_id).token == 2


def test_a_moved_event_comes_back_with_its_step_and_the_first_pause(
    ledger: SqlLedger, advance: Any
) -> None:
    event_id = handed_over(ledger)
    for _ in range(3):
        ledger.chain.sweep()
        advance(61)
    move(ledger, claimed(ledger, event_id), "email", ledger.now())
    [due] = ledger.chain.sweep().due
    assert (due.id, due.step) == (event_id, "email")
    pause = (stored(ledger, event_id).due_at or ledger.now()) - ledger.now()
    assert pause <= timedelta(seconds=5)


def test_a_move_beyond_the_time_to_live_is_due_when_it_ends(ledger: SqlLedger) -> None:
    event_id = handed_over(ledger)
    move(ledger, claimed(ledger, event_id), "email", ledger.now() + timedelta(days=30))
    now = stored(ledger, event_id)
    assert now.due_at == now.expires_at


@pytest.mark.parametrize("way", ["move", "park", "die"])
def test_a_confirmed_event_does_not_move(ledger: SqlLedger, way: str) -> None:
    event_id = handed_over(ledger)
    claim = claimed(ledger, event_id)
    confirm(ledger, event_id)
    if way == "move":
        assert not move(ledger, claim, "email", ledger.now())
    else:
        assert not finish(ledger, claim, alerted=way == "die")
    now = stored(ledger, event_id)
    assert (now.state, now.due_at) == (State.CONFIRMED, None)


def test_a_chain_that_alerted_ends_dead(ledger: SqlLedger, advance: Any) -> None:
    event_id = handed_over(ledger)
    assert finish(ledger, claimed(ledger, event_id), alerted=True)
    now = stored(ledger, event_id)
    assert (now.state, now.step, now.due_at) == (State.DEAD, None, None)
    advance(10_000)
    assert ledger.chain.sweep() == Swept((), 0, is_last=True)
    assert stored(ledger, event_id).state is State.DEAD


def test_a_chain_without_alert_parks_the_event_until_it_expires(
    ledger: SqlLedger, advance: Any
) -> None:
    event_id = handed_over(ledger)
    assert finish(ledger, claimed(ledger, event_id), alerted=False)
    now = stored(ledger, event_id)
    assert (now.state, now.due_at) == (State.PARKED, now.expires_at)
    advance(3500)
    assert ledger.chain.sweep().due == ()
    assert stored(ledger, event_id).state is State.PARKED
    advance(101)
    assert ledger.chain.sweep().expired == 1
    assert stored(ledger, event_id).state is State.EXPIRED


def test_an_ack_and_a_finish_at_once_leave_one_clear_state(ledger: SqlLedger) -> None:
    for _ in range(5):
        event_id = handed_over(ledger)
        claim = claimed(ledger, event_id)
        ended, _ = at_once(
            partial(finish, ledger, claim, alerted=True), partial(confirm, ledger, event_id)
        )
        assert ended in (True, False)
        assert (
            stored(ledger, event_id).state is State.CONFIRMED
        )  # a late confirmation wins over dead


# --- audit log -------------------------------------------------------------------------------


def test_every_step_of_an_auth_event_is_in_the_audit_log(ledger: SqlLedger, audited: Any) -> None:
    event_id = handed_over(ledger, event_class=EventClass.AUTH)
    claim = claimed(ledger, event_id)
    begin(ledger, claim, "emergency", 1)
    end(ledger, claim, "emergency", 1, DELIVERED)
    skip(ledger, claim, "sms", "no address")
    finish(ledger, claim, alerted=True)
    kinds = [kind for kind, of in audited() if of == event_id]
    assert kinds == ["accepted", "attempt", "outcome", "outcome", "state"]


def test_a_timeout_of_an_auth_event_is_in_the_audit_log(
    ledger: SqlLedger, advance: Any, audited: Any
) -> None:
    event_id = recorded(ledger, event_class=EventClass.AUTH)
    advance(6.0)
    ledger.chain.sweep()
    assert ("state", event_id) in audited()


def test_other_events_are_not_in_the_audit_log(ledger: SqlLedger, audited: Any) -> None:
    event_id = handed_over(ledger)
    claim = claimed(ledger, event_id)
    begin(ledger, claim, "emergency", 1)
    end(ledger, claim, "emergency", 1, DELIVERED)
    assert audited() == []
