"""The promises of the digest store, on SQLite and on PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
import uuid_utils

from delivery.domain.event import EventClass
from delivery.domain.lifecycle import Attempt, Confirmation, Outcome, State
from delivery.domain.options import Options
from delivery.domain.policy import parse_policies
from delivery.domain.records import Claim, Digest, DigestClaim, Result, Stored
from delivery.domain.users.contact import Contact
from delivery.ledger import SqlLedger
from delivery.ledger.stores.fallback.digest_joining import MAX_OPEN
from delivery.testing import make_entry, make_event
from tests.conformance.chain_calls import finish, move
from tests.waiting import at_once

RUN = ("user_id", "run_id")
USER = ("user_id",)
LEASE = 60.0
DELIVERED = Result(Outcome.DELIVERED, provider_id="mail-1")


def on_chain(ledger: SqlLedger, run: str = "run-1", **changes: Any) -> str:
    """The id of an event on the chain."""
    event = make_event(
        id=str(uuid_utils.uuid7()),
        type=changes.pop("type", "agent_completed"),
        user_id=changes.pop("user", "ada"),
        run_id=run,
        seq=None,
        at=datetime.now(UTC),
        event_class=changes.pop("event_class", EventClass.CRITICAL),
    )
    values: dict[str, Any] = {"ack_timeout": 5.0, "ttl": 36_000.0, "hand_over": True} | changes
    ledger.recording.commit([make_entry(event, **values)])
    return event.id


def claimed(ledger: SqlLedger, event_id: str) -> Claim:
    [claim] = ledger.chain.claim([event_id], LEASE)
    return claim


def join(ledger: SqlLedger, event_id: str, channel: str = "email", **changes: Any) -> Digest:
    """Claim the event, put it into its digest and let it wait for that, as the executor does."""
    rule: dict[str, Any] = {"by": RUN, "window": 30.0, "min_interval": 600.0} | changes
    claim = claimed(ledger, event_id)
    digest = ledger.digests.join(claim, channel, **rule)
    assert digest.due_at is not None
    assert move(ledger, claim, channel, digest.due_at)
    return digest


def sending(ledger: SqlLedger, digest: Digest, **options: Any) -> DigestClaim:
    claim = ledger.digests.claim(digest.id, LEASE, **options)
    assert claim is not None
    return claim


def ids(claim: DigestClaim) -> list[str]:
    return [member.event.id for member in claim.members]


def stored(ledger: SqlLedger, event_id: str) -> Stored:
    [found] = ledger.events.read([event_id])
    return found


def attempts(ledger: SqlLedger, event_id: str) -> list[Attempt]:
    timeline = ledger.events.get(event_id)
    assert timeline is not None
    return list(timeline.attempts)


def confirm(ledger: SqlLedger, event_id: str) -> None:
    ledger.confirmations.confirm([Confirmation(event_id, "ada", "websocket", "ada", "c-1")])


def present(ledger: SqlLedger, digest: Digest) -> Digest:
    found = ledger.digests.get(digest.id)
    assert found is not None
    return found[0]


# --- join ------------------------------------------------------------------------------------


def test_the_first_event_opens_a_digest_of_its_run(ledger: SqlLedger) -> None:
    event_id = on_chain(ledger)
    before = ledger.now()
    digest = join(ledger, event_id)
    assert (digest.user_id, digest.run_id, digest.channel) == ("ada", "run-1", "email")
    assert (digest.state, digest.number) == ("open", 0)
    assert digest.message_id
    assert digest.due_at is not None
    assert abs(digest.due_at - before - timedelta(seconds=30)) < timedelta(seconds=5)
    assert stored(ledger, event_id).digest_id == digest.id


def test_further_events_join_it_and_do_not_put_it_off(ledger: SqlLedger, advance: Any) -> None:
    first = join(ledger, on_chain(ledger))
    advance(10)
    second = join(ledger, on_chain(ledger))
    assert second == first


def test_channels_and_users_have_digests_of_their_own(ledger: SqlLedger) -> None:
    mail = join(ledger, on_chain(ledger))
    text = join(ledger, on_chain(ledger), "sms")
    other = join(ledger, on_chain(ledger, user="eve"))
    assert len({mail.id, text.id, other.id}) == 3


def test_workers_that_join_at_once_end_in_one_digest(ledger: SqlLedger) -> None:
    claims = [claimed(ledger, on_chain(ledger)) for _ in range(6)]
    rule = {"by": RUN, "window": 30.0, "min_interval": 600.0}
    digests = at_once(*[partial(ledger.digests.join, one, "email", **rule) for one in claims])
    assert len({digest.id for digest in digests}) == 1


def test_runs_that_fall_back_together_share_one_message(ledger: SqlLedger, advance: Any) -> None:
    waiting = [on_chain(ledger, run=f"run-{number}") for number in range(5)]
    digests = [join(ledger, event_id) for event_id in waiting]
    assert len({digest.id for digest in digests}) == 1
    advance(31)
    claim = sending(ledger, digests[0])
    assert claim.digest.run_id is None
    assert ids(claim) == waiting


def test_without_a_min_interval_every_run_has_its_message(ledger: SqlLedger, advance: Any) -> None:
    first, second = (
        join(ledger, on_chain(ledger, run=run), min_interval=0.0) for run in ("a", "b")
    )
    assert (first.run_id, second.run_id) == ("a", "b")
    advance(31)
    assert len(sending(ledger, first).members) == 1
    ledger.digests.end(sending(ledger, second), DELIVERED, retry_in=None)
    assert join(ledger, on_chain(ledger, run="c"), min_interval=0.0).run_id == "c"


def test_a_flood_of_runs_shares_digests_though_each_run_has_its_own(ledger: SqlLedger) -> None:
    ids = [on_chain(ledger, f"run-{number}") for number in range(MAX_OPEN + 5)]
    joined = [join(ledger, event_id, min_interval=0.0) for event_id in ids]
    assert len({digest.id for digest in joined[:MAX_OPEN]}) == MAX_OPEN
    assert {digest.id for digest in joined[MAX_OPEN:]} == {joined[0].id}
    assert joined[-1].run_id is None


def test_a_digest_by_user_spans_runs(ledger: SqlLedger) -> None:
    digests = [join(ledger, on_chain(ledger, run=run), by=USER, min_interval=0.0) for run in "abc"]
    assert len({digest.id for digest in digests}) == 1
    assert digests[0].run_id is None


def test_after_a_message_the_next_one_waits_for_the_interval_and_is_the_users(
    ledger: SqlLedger, advance: Any
) -> None:
    first = join(ledger, on_chain(ledger))
    advance(31)
    ledger.digests.end(sending(ledger, first), DELIVERED, retry_in=None)
    sent_at = ledger.now()
    advance(60)
    merged = join(ledger, on_chain(ledger, run="run-2"))
    assert merged.id != first.id
    assert merged.run_id is None
    assert merged.due_at is not None
    assert abs(merged.due_at - sent_at - timedelta(seconds=600)) < timedelta(seconds=5)
    assert join(ledger, on_chain(ledger, run="run-3")).id == merged.id


def test_near_the_end_of_the_interval_the_window_still_counts(
    ledger: SqlLedger, advance: Any
) -> None:
    first = join(ledger, on_chain(ledger))
    advance(31)
    ledger.digests.end(sending(ledger, first), DELIVERED, retry_in=None)
    advance(590)
    before = ledger.now()
    merged = join(ledger, on_chain(ledger))
    assert merged.due_at is not None
    assert merged.due_at - before >= timedelta(seconds=29)


def test_after_the_interval_a_run_has_a_digest_of_its_own_again(
    ledger: SqlLedger, advance: Any
) -> None:
    first = join(ledger, on_chain(ledger))
    advance(31)
    ledger.digests.end(sending(ledger, first), DELIVERED, retry_in=None)
    advance(601)
    assert join(ledger, on_chain(ledger, run="run-2")).run_id == "run-2"


def test_while_a_message_is_being_sent_other_runs_wait_for_the_next(
    ledger: SqlLedger, advance: Any
) -> None:
    first = join(ledger, on_chain(ledger))
    advance(31)
    sending(ledger, first)
    merged = join(ledger, on_chain(ledger, run="run-2"))
    assert merged.id != first.id
    assert merged.due_at is not None
    assert merged.due_at - ledger.now() > timedelta(seconds=590)


def test_a_failed_message_starts_no_interval(ledger: SqlLedger, advance: Any) -> None:
    first = join(ledger, on_chain(ledger))
    advance(31)
    ledger.digests.end(sending(ledger, first), Result(Outcome.FAILED), retry_in=None)
    assert join(ledger, on_chain(ledger, run="run-2")).run_id == "run-2"


def test_a_lost_claim_joins_nothing(ledger: SqlLedger, advance: Any) -> None:
    event_id = on_chain(ledger)
    stale = claimed(ledger, event_id)
    advance(LEASE + 1)
    claimed(ledger, event_id)
    digest = ledger.digests.join(stale, "email", by=RUN, window=1.0, min_interval=0.0)
    assert stored(ledger, event_id).digest_id is None
    advance(2)
    assert ledger.digests.claim(digest.id, LEASE) is None


def test_a_claim_knows_the_pending_digests_of_its_run_and_user(ledger: SqlLedger) -> None:
    mail = join(ledger, on_chain(ledger), min_interval=0.0)
    text = join(ledger, on_chain(ledger), "sms", by=USER)
    join(ledger, on_chain(ledger, user="eve"), "emergency")
    assert claimed(ledger, on_chain(ledger)).digests == {"email": mail.due_at, "sms": text.due_at}
    assert claimed(ledger, on_chain(ledger, run="other")).digests == {"sms": text.due_at}


# --- claim -----------------------------------------------------------------------------------


def test_a_digest_is_not_sent_before_its_window_ends(ledger: SqlLedger, advance: Any) -> None:
    digest = join(ledger, on_chain(ledger))
    assert ledger.digests.claim(digest.id, LEASE) is None
    advance(31)
    assert ledger.digests.claim(digest.id, LEASE) is not None


def test_claiming_reads_the_members_and_begins_an_attempt_for_each(
    ledger: SqlLedger, advance: Any
) -> None:
    ledger.contacts.put(Contact("ada", email="ada@example.org"))
    opener = on_chain(ledger)
    digest = join(ledger, opener)
    companion = on_chain(ledger, hand_over=False)
    on_chain(ledger, run="elsewhere")
    on_chain(ledger, user="eve")
    advance(31)
    claim = sending(ledger, digest)
    assert ids(claim) == [opener, companion]
    assert claim.contact.email == "ada@example.org"
    assert (claim.digest.number, claim.digest.token) == (1, 1)
    for event_id in (opener, companion):
        [begun] = attempts(ledger, event_id)
        assert (begun.channel, begun.number, begun.outcome, begun.digest_id) == (
            "email",
            1,
            Outcome.STARTED,
            digest.id,
        )


def test_confirmed_and_expired_events_are_not_in_the_message(
    ledger: SqlLedger, advance: Any
) -> None:
    opener, gone, short = on_chain(ledger), on_chain(ledger), on_chain(ledger, ttl=10.0)
    digest = join(ledger, opener)
    join(ledger, gone)
    confirm(ledger, gone)
    advance(31)
    assert ids(sending(ledger, digest)) == [opener]
    assert attempts(ledger, short) == []


def test_a_digest_with_nothing_left_to_send_closes_itself(ledger: SqlLedger, advance: Any) -> None:
    event_id = on_chain(ledger)
    digest = join(ledger, event_id)
    confirm(ledger, event_id)
    advance(31)
    assert ledger.digests.claim(digest.id, LEASE) is None
    assert present(ledger, digest).state == "dropped"
    assert join(ledger, on_chain(ledger)).id != digest.id


def test_only_one_of_two_workers_gets_the_digest(ledger: SqlLedger, advance: Any) -> None:
    digest = join(ledger, on_chain(ledger))
    advance(31)
    claim = partial(ledger.digests.claim, digest.id, LEASE)
    answers = at_once(claim, claim, claim)
    assert sum(answer is None for answer in answers) == 2
    assert not [answer for answer in answers if isinstance(answer, BaseException)]


def test_classes_exclude_other_events_of_the_run_but_never_members_that_joined(
    ledger: SqlLedger, advance: Any
) -> None:
    opener = on_chain(ledger, event_class=EventClass("gone"))
    digest = join(ledger, opener)
    listed, _ = on_chain(ledger), on_chain(ledger, event_class=EventClass.STANDARD)
    advance(31)
    assert ids(sending(ledger, digest, classes=("critical",))) == [opener, listed]


def test_a_second_step_with_the_channel_sends_a_message_of_its_own(
    ledger: SqlLedger, advance: Any
) -> None:
    event_id = on_chain(ledger)
    first = join(ledger, event_id, min_interval=0.0)
    advance(31)
    assert ledger.digests.end(sending(ledger, first), DELIVERED, retry_in=None)
    advance(LEASE + 1)
    claim = claimed(ledger, event_id)
    rule: dict[str, Any] = {"by": RUN, "window": 30.0, "min_interval": 0.0}
    second = ledger.digests.join(claim, "email", step="reminder", **rule)
    assert second.due_at is not None
    assert move(ledger, claim, "reminder", second.due_at)
    assert stored(ledger, event_id).step == "reminder"
    advance(31)
    assert claimed(ledger, event_id).digests == {"reminder": second.due_at}
    again = sending(ledger, second)
    assert ids(again) == [event_id]
    assert ledger.digests.end(again, DELIVERED, retry_in=None)
    made = [(a.channel, a.step_name, a.number) for a in attempts(ledger, event_id)]
    assert made[-2:] == [("email", "email", 1), ("email", "reminder", 2)]


def test_a_digest_of_a_step_that_is_gone_is_closed_by_the_next_event(
    ledger: SqlLedger, advance: Any
) -> None:
    rule: dict[str, Any] = {"by": RUN, "window": 30.0, "min_interval": 0.0}
    claim = claimed(ledger, on_chain(ledger))
    left = ledger.digests.join(claim, "email", step="reminder", **rule)
    assert finish(ledger, claim, alerted=False)
    advance(31)
    other = join(ledger, on_chain(ledger), min_interval=0.0)
    assert present(ledger, left).state == "dropped"
    assert other.id != left.id


def test_two_steps_with_one_channel_are_skipped_at_once(ledger: SqlLedger) -> None:
    claim = claimed(ledger, on_chain(ledger))
    skips = [(claim, "email", "no address", None), (claim, "email", "no address", "reminder")]
    assert ledger.chain.skip_all(skips) == [True, True]
    made = [(a.step_name, a.number) for a in attempts(ledger, claim.id) if a.channel == "email"]
    assert made == [("email", 1), ("reminder", 2)]


IN_ONE = Options(group="trip-7")


def test_a_group_takes_the_place_of_the_run(ledger: SqlLedger, advance: Any) -> None:
    first = on_chain(ledger, options=IN_ONE)
    by_run = join(ledger, on_chain(ledger), min_interval=0.0)
    digest = join(ledger, first, min_interval=0.0)
    of_other_run = on_chain(ledger, "other", options=IN_ONE)
    assert claimed(ledger, of_other_run).digests.keys() == {"email"}
    late = on_chain(ledger, "third", options=IN_ONE)
    on_chain(ledger, options=Options(group="trip-8"))
    advance(LEASE + 1)
    assert join(ledger, of_other_run, min_interval=0.0).id == digest.id
    assert digest.id != by_run.id
    assert ids(sending(ledger, digest)) == [first, of_other_run, late]
    assert len(ids(sending(ledger, by_run))) == 1, "events of a group are not their run's"


def test_two_groups_within_the_interval_are_one_message(ledger: SqlLedger, advance: Any) -> None:
    members = [on_chain(ledger, options=Options(group=f"trip-{n}")) for n in (1, 2)]
    digests = {join(ledger, one).id for one in members}
    advance(31)
    assert len(digests) == 1
    found = ledger.digests.get(digests.pop())
    assert found is not None
    assert ids(sending(ledger, found[0])) == members


def test_a_step_by_user_gathers_all_groups(ledger: SqlLedger) -> None:
    members = [on_chain(ledger, options=Options(group=f"trip-{n}")) for n in (1, 2)]
    rule = {"by": ("user_id",), "min_interval": 0.0}
    assert len({join(ledger, one, **rule).id for one in members}) == 1


def test_an_event_that_this_channel_delivered_is_not_sent_again(
    ledger: SqlLedger, advance: Any
) -> None:
    old = on_chain(ledger)
    first = join(ledger, old, min_interval=0.0)
    advance(31)
    ledger.digests.end(sending(ledger, first), DELIVERED, retry_in=None)
    new = on_chain(ledger)
    second = join(ledger, new, min_interval=0.0)
    advance(31)
    assert ids(sending(ledger, second)) == [new]


def test_a_replayed_event_may_be_sent_again(ledger: SqlLedger, advance: Any) -> None:
    event_id = on_chain(ledger)
    first = join(ledger, event_id, min_interval=0.0)
    advance(31)
    ledger.digests.end(sending(ledger, first), DELIVERED, retry_in=None)
    ledger.operations.replay([event_id], policies=parse_policies({}))
    ledger.operations.hand_over([event_id], "again")
    second = join(ledger, event_id, min_interval=0.0)
    advance(31)
    assert ids(sending(ledger, second)) == [event_id]
    assert [
        (one.generation, one.number) for one in attempts(ledger, event_id) if one.channel == "email"
    ] == [(1, 1), (2, 1)]


def test_a_lost_workers_message_is_unknown_and_the_next_one_keeps_its_message_id(
    ledger: SqlLedger, advance: Any
) -> None:
    event_id = on_chain(ledger)
    digest = join(ledger, event_id)
    advance(31)
    lost = sending(ledger, digest)
    assert ledger.digests.claim(digest.id, LEASE) is None
    advance(LEASE + 1)
    again = sending(ledger, digest)
    assert [(one.number, one.outcome) for one in attempts(ledger, event_id)] == [
        (1, Outcome.UNKNOWN),
        (2, Outcome.STARTED),
    ]
    assert again.digest.message_id == lost.digest.message_id
    assert (again.digest.token, again.digest.number) == (2, 2)
    assert not ledger.digests.end(lost, DELIVERED, retry_in=None)
    assert [one.outcome for one in attempts(ledger, event_id)][-1] is Outcome.STARTED
    assert ledger.digests.end(again, DELIVERED, retry_in=None)


@pytest.mark.parametrize(("unknown_limit", "is_sent_again"), [(None, True), (1, True), (0, False)])
def test_a_message_that_may_have_been_sent_is_repeated_only_as_the_policy_allows(
    ledger: SqlLedger, advance: Any, unknown_limit: int | None, is_sent_again: bool
) -> None:
    doubtful, fresh = on_chain(ledger), on_chain(ledger)
    first = join(ledger, doubtful, min_interval=0.0)
    advance(31)
    unknown = Result(Outcome.UNKNOWN, error="the answer was lost")
    only_one = sending(ledger, first, classes=("none",))
    assert ledger.digests.end(only_one, unknown, retry_in=None)
    second = join(ledger, fresh, min_interval=0.0)
    advance(31)
    members = ids(sending(ledger, second, unknown_limit=unknown_limit))
    assert members == ([doubtful, fresh] if is_sent_again else [fresh])


def test_an_attempt_in_a_digest_that_is_being_sent_is_not_taken_for_lost(
    ledger: SqlLedger, advance: Any
) -> None:
    event_id = on_chain(ledger)
    digest = join(ledger, event_id)
    advance(31)
    sending(ledger, digest)
    [during] = claimed(ledger, event_id).attempts
    assert during.outcome is Outcome.STARTED
    advance(LEASE + 1)
    [after] = claimed(ledger, event_id).attempts
    assert after.outcome is Outcome.UNKNOWN


# --- end -------------------------------------------------------------------------------------


def test_the_outcome_is_every_members(ledger: SqlLedger, advance: Any) -> None:
    first, second = on_chain(ledger), on_chain(ledger)
    digest = join(ledger, first)
    advance(31)
    assert ledger.digests.end(sending(ledger, digest), DELIVERED, retry_in=None)
    for event_id in (first, second):
        [ended] = attempts(ledger, event_id)
        assert (ended.outcome, ended.provider_id) == (Outcome.DELIVERED, "mail-1")
        assert ended.ended_at is not None
    assert present(ledger, digest).state == "sent"
    assert ledger.digests.claim(digest.id, LEASE) is None


def test_a_retry_is_due_for_the_digest_and_for_the_events_that_wait_for_it(
    ledger: SqlLedger, advance: Any
) -> None:
    event_id = on_chain(ledger)
    digest = join(ledger, event_id)
    elsewhere = on_chain(ledger)
    advance(31)
    claim = sending(ledger, digest)
    before = stored(ledger, elsewhere).due_at
    assert ledger.digests.end(claim, Result(Outcome.FAILED, error="busy"), retry_in=45.0)
    reopened = present(ledger, digest)
    assert reopened.state == "open"
    assert reopened.due_at is not None
    assert stored(ledger, event_id).due_at == reopened.due_at
    assert stored(ledger, elsewhere).due_at == before
    assert ledger.digests.claim(digest.id, LEASE) is None
    advance(46)
    assert sending(ledger, digest).digest.number == 2


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (Outcome.DELIVERED, "sent"),
        (Outcome.UNKNOWN, "sent"),
        (Outcome.FAILED, "failed"),
        (Outcome.SKIPPED, "failed"),
    ],
)
def test_a_closed_digest_says_whether_it_may_have_been_sent(
    ledger: SqlLedger, advance: Any, outcome: Outcome, state: str
) -> None:
    digest = join(ledger, on_chain(ledger))
    advance(31)
    claim = sending(ledger, digest)
    assert ledger.digests.end(claim, Result(outcome), retry_in=None)
    assert present(ledger, digest).state == state
    assert not ledger.digests.end(claim, Result(outcome), retry_in=None)


def test_a_digest_is_found_with_what_its_message_listed(ledger: SqlLedger, advance: Any) -> None:
    event_id = on_chain(ledger)
    digest = join(ledger, event_id)
    advance(31)
    claim = sending(ledger, digest)
    assert ledger.digests.get(digest.id) == (claim.digest, (event_id,))  # its link works at once
    ledger.digests.end(claim, DELIVERED, retry_in=None)
    later = on_chain(ledger)
    found = ledger.digests.get(digest.id)
    assert found is not None
    assert (found[0].id, found[1]) == (digest.id, (event_id,))
    assert later not in found[1]
    assert ledger.digests.get(str(uuid_utils.uuid7())) is None
    assert ledger.digests.get("not an id") is None


def test_a_message_that_was_never_sent_lists_nothing(ledger: SqlLedger, advance: Any) -> None:
    digest = join(ledger, on_chain(ledger))
    advance(31)
    ledger.digests.end(sending(ledger, digest), Result(Outcome.FAILED), retry_in=5.0)
    found = ledger.digests.get(digest.id)
    assert found is not None
    assert found[1] == ()


def test_a_message_about_an_auth_event_is_in_the_audit_log(
    ledger: SqlLedger, advance: Any, audited: Any
) -> None:
    event_id = on_chain(ledger, event_class=EventClass.AUTH)
    digest = join(ledger, event_id)
    advance(31)
    ledger.digests.end(sending(ledger, digest), DELIVERED, retry_in=None)
    assert [kind for kind, _ in audited()] == ["accepted", "attempt", "outcome"]


# --- alerts ----------------------------------------------------------------------------------


def dead(ledger: SqlLedger, *event_ids: str) -> Any:
    """Alert for the events and end their chains, as the executor does."""
    claims = [claimed(ledger, event_id) for event_id in event_ids]
    group = ledger.alerts.fire(EventClass.CRITICAL, claims)
    for claim in claims:
        assert finish(ledger, claim, alerted=True)
    return group


def test_a_thousand_dead_events_are_one_alert(ledger: SqlLedger) -> None:
    first = dead(ledger, *[on_chain(ledger) for _ in range(7)])
    assert (first.count, first.users, first.is_new) == (7, 1, True)
    assert len(first.sample) == 5
    second = dead(ledger, on_chain(ledger, user="eve"))
    assert (second.id, second.count, second.users, second.is_new) == (first.id, 8, 2, False)
    [group] = ledger.alerts.firing()
    assert (group.id, group.count, group.event_class) == (first.id, 8, EventClass.CRITICAL)


def test_an_alert_names_the_channel_that_failed_with_its_top_error(ledger: SqlLedger) -> None:
    ids = [on_chain(ledger) for _ in range(3)]
    refused = Result(Outcome.FAILED, error="550 no such user", retryable=False)
    for event_id in ids:
        claim = claimed(ledger, event_id)
        for channel, result in (
            ("direct", Result(Outcome.FAILED, error="not connected")),
            ("email", refused if event_id != ids[0] else DELIVERED),
            ("sms", Result(Outcome.SKIPPED, error="no phone number")),
        ):
            assert all(ledger.chain.begin_all([(claim, 1)], channel))
            assert all(ledger.chain.end_all([(claim, 1)], channel, result))
        ledger.alerts.fire(EventClass.CRITICAL, [claim])
        assert finish(ledger, claim, alerted=True)
    [group] = ledger.alerts.firing()
    assert [(one.channel, one.error, one.count) for one in group.failures] == [
        ("email", "550 no such user", 2),
        ("direct", "not connected", 3),
        ("sms", "no phone number", 3),
    ]


def test_every_class_has_its_own_alert(ledger: SqlLedger) -> None:
    one = ledger.alerts.fire(EventClass.CRITICAL, [claimed(ledger, on_chain(ledger))])
    other = ledger.alerts.fire(
        EventClass.AUTH, [claimed(ledger, on_chain(ledger, event_class=EventClass.AUTH))]
    )
    assert one.id != other.id
    assert [group.id for group in ledger.alerts.firing()] == [one.id, other.id]


def test_workers_that_fire_at_once_open_one_group(ledger: SqlLedger) -> None:
    claims = [claimed(ledger, on_chain(ledger)) for _ in range(4)]
    groups = at_once(*[partial(ledger.alerts.fire, EventClass.CRITICAL, [c]) for c in claims])
    assert len({group.id for group in groups}) == 1
    assert sum(group.is_new for group in groups) == 1
    assert ledger.alerts.firing()[0].count == 4


def test_a_lost_claim_does_not_fire(ledger: SqlLedger, advance: Any) -> None:
    event_id = on_chain(ledger)
    stale = claimed(ledger, event_id)
    advance(LEASE + 1)
    claimed(ledger, event_id)
    assert ledger.alerts.fire(EventClass.CRITICAL, [stale]).count == 0


def test_an_alert_is_over_when_its_events_were_confirmed_after_all(ledger: SqlLedger) -> None:
    first, second = on_chain(ledger), on_chain(ledger)
    group = dead(ledger, first, second)
    confirm(ledger, first)
    assert ledger.alerts.firing()[0].count == 1
    ledger.alerts.resolve(group.id)  # not over yet: it goes on firing
    assert [one.id for one in ledger.alerts.firing()] == [group.id]
    confirm(ledger, second)
    assert ledger.alerts.firing()[0].count == 0
    ledger.alerts.resolve(group.id)
    assert ledger.alerts.firing() == []
    assert stored(ledger, second).state is State.CONFIRMED
    assert dead(ledger, on_chain(ledger)).is_new


def test_a_replayed_event_is_not_counted_any_more(ledger: SqlLedger, advance: Any) -> None:
    event_id = on_chain(ledger)
    dead(ledger, event_id)
    ledger.operations.replay([event_id], policies=parse_policies({}))
    advance(3600)
    ledger.chain.sweep()
    assert ledger.alerts.firing()[0].count == 0


def test_the_ledger_records_when_operators_were_notified(ledger: SqlLedger) -> None:
    group = dead(ledger, on_chain(ledger))
    assert group.notified_at is None
    ledger.alerts.notified(group.id)
    [after] = ledger.alerts.firing()
    assert after.notified_at is not None
    assert abs(after.notified_at - ledger.now()) < timedelta(seconds=5)


def test_a_message_confirms_no_later_generation_of_its_events(
    ledger: SqlLedger, advance: Any
) -> None:
    replayed, same = on_chain(ledger), on_chain(ledger)
    digest = join(ledger, replayed)
    join(ledger, same)
    advance(31.0)
    assert ledger.digests.end(sending(ledger, digest), DELIVERED, retry_in=None)
    assert ledger.operations.replay([replayed], policies=parse_policies({})) == [replayed]
    found = ledger.digests.get(digest.id)
    assert found is not None
    assert found[1] == (same,)
    link = [Confirmation(id_, "ada", "email", "ada", "link") for id_ in (replayed, same)]
    answer = ledger.confirmations.confirm(link, digest_id=digest.id)
    assert (answer.confirmed, answer.unknown) == ((same,), (replayed,))
    assert stored(ledger, replayed).state is State.ACCEPTED
    assert stored(ledger, same).state is State.CONFIRMED
