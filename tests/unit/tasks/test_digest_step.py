"""Email and SMS by digest: one message, every member's outcome, never twice without need."""

from __future__ import annotations

from functools import partial

from delivery.domain.lifecycle import State
from delivery.domain.policy import DigestRule
from delivery.errors import ChannelRejected, ChannelUnavailable, OutcomeUnknown
from delivery.ledger.stores.digests import DigestSql
from tests.unit.tasks.fakes import Bench, make_event, policies_of, step_on

WINDOW = DigestRule(window=30.0, min_interval=0.0)
UNAVAILABLE = ChannelUnavailable("451 try later")


def bench_of(*more: object, **changes: object) -> Bench:
    step = step_on("email", **{"digest": WINDOW, "confirms": "link", **changes})
    return Bench(policies_of(step, *more))  # type: ignore[arg-type]


def test_an_event_waits_for_the_end_of_its_digests_window() -> None:
    bench = bench_of()
    event_id = bench.ledger.add()
    bench.run("email", event_id)
    assert bench.channels["email"].messages == []
    assert (bench.ledger.step(event_id), bench.ledger.due_in(event_id)) == ("email", 30.0)


def test_a_user_gets_one_mail_for_all_events_of_a_run() -> None:
    bench = bench_of()
    ids = [bench.ledger.add() for _ in range(40)]
    bench.run("email", *ids)
    bench.ledger.advance(30.0)
    bench.run("email", *ids)
    [message] = bench.channels["email"].messages
    assert [event.id for event in message.events] == ids
    assert {tuple(bench.ledger.tries(i)) for i in ids} == {(("email", 1, "delivered"),)}


def test_users_and_runs_do_not_share_a_mail() -> None:
    bench = bench_of()
    pairs = [("a", "1"), ("a", "2"), ("b", "1")]
    ids = [bench.ledger.add(make_event(user, run)) for user, run in pairs]
    bench.run("email", *ids)
    bench.ledger.advance(30.0)
    bench.run("email", *ids)
    sent = [(m.user_id, m.run_id, len(m.events)) for m in bench.channels["email"].messages]
    assert sorted(sent) == [("a", "1", 1), ("a", "2", 1), ("b", "1", 1)]


def test_a_message_carries_its_links_and_a_stable_key() -> None:
    bench = bench_of(respects=("opt_out",))
    bench.channels["email"].faults = [UNAVAILABLE]
    event_id = bench.ledger.add()
    bench.play(event_id)
    first, second = bench.channels["email"].messages
    digest_id = bench.ledger.look(event_id).stored.digest_id
    assert first.key == second.key == digest_id
    assert first.confirm_url == f"https://x/confirm/{digest_id}"
    assert first.unsubscribe_url == "https://x/unsubscribe/u/email"
    assert first.callback_url == "https://x/callback"
    assert (first.number, second.number) == (1, 2)


def test_a_step_that_no_link_confirms_sends_none() -> None:
    bench = bench_of(confirms="receipt")
    bench.play(bench.ledger.add())
    [message] = bench.channels["email"].messages
    assert message.confirm_url is None
    assert message.unsubscribe_url is None


def test_a_member_that_was_confirmed_meanwhile_is_not_in_the_mail() -> None:
    bench = bench_of()
    gone, left = bench.ledger.add(), bench.ledger.add()
    bench.run("email", gone, left)
    bench.ledger.acknowledge(gone)
    bench.ledger.advance(30.0)
    bench.run("email", gone, left)
    [message] = bench.channels["email"].messages
    assert [event.id for event in message.events] == [left]


def test_an_ack_of_everything_cancels_the_mail() -> None:
    bench = bench_of()
    event_id = bench.ledger.add()
    bench.run("email", event_id)
    bench.ledger.acknowledge(event_id)
    bench.ledger.advance(30.0)
    bench.run("email", event_id)
    assert bench.channels["email"].messages == []


def test_a_transient_failure_reopens_the_digest_and_the_event_waits_with_it() -> None:
    bench = bench_of(digest=DigestRule(window=0.0, min_interval=0.0))
    bench.channels["email"].faults = [UNAVAILABLE]
    event_id = bench.ledger.add()
    bench.run("email", event_id)
    assert bench.ledger.digests.ends[0][2] == 10.0
    assert bench.ledger.due_in(event_id) == 10.0
    bench.play(event_id)
    assert bench.ledger.tries(event_id) == [("email", 1, "failed"), ("email", 2, "delivered")]


def test_a_refused_address_closes_the_digest_and_the_chain_goes_on() -> None:
    bench = bench_of(step_on("alert"))
    bench.channels["email"].faults = [ChannelRejected("550 no such user")]
    event_id = bench.ledger.add()
    bench.play(event_id)
    assert bench.ledger.digests.ends[0][2] is None
    assert len(bench.channels["email"].messages) == 1
    assert bench.ledger.state(event_id) is State.DEAD


def test_attempts_stop_at_the_cap_and_the_digest_with_them() -> None:
    bench = bench_of(attempts=2)
    bench.channels["email"].faults = [UNAVAILABLE] * 9
    bench.play(bench.ledger.add())
    assert [retry for _, _, retry in bench.ledger.digests.ends] == [10.0, None]


def test_an_unknown_outcome_is_repeated_by_policy() -> None:
    for policy, messages in (("retry", 3), ("once", 2), ("skip", 1)):
        bench = bench_of(on_unknown=policy)
        bench.channels["email"].faults = [OutcomeUnknown("answer lost")] * 9
        bench.play(bench.ledger.add())
        assert len(bench.channels["email"].messages) == messages, policy


def test_a_digest_that_another_worker_sends_is_waited_for() -> None:
    bench = bench_of()
    event_id = bench.ledger.add()
    bench.run("email", event_id)
    bench.ledger.advance(30.0)
    digest_id = bench.ledger.look(event_id).stored.digest_id
    assert digest_id is not None
    assert bench.ledger.digests.claim(digest_id, 60.0) is not None
    bench.run("email", event_id)
    assert bench.channels["email"].messages == []
    assert (bench.ledger.step(event_id), bench.ledger.due_in(event_id)) == ("email", 5.0)


def test_a_digest_that_another_worker_took_first_is_waited_for() -> None:
    bench = bench_of()
    event_id = bench.ledger.add()
    bench.run("email", event_id)
    bench.ledger.advance(30.0)
    digest_id = bench.ledger.look(event_id).stored.digest_id
    assert digest_id is not None
    theirs = DigestSql(bench.ledger.database)
    bench.ledger.digests.before_claim = partial(theirs.claim, digest_id, 60.0)
    bench.run("email", event_id)
    assert bench.channels["email"].messages == []
    assert (bench.ledger.step(event_id), bench.ledger.due_in(event_id)) == ("email", 2.0)


def test_an_event_after_the_mail_of_its_run_gets_a_digest_of_its_own() -> None:
    bench = bench_of()
    early = bench.ledger.add()
    bench.play(early)
    late = bench.ledger.add()
    bench.play(late)
    listed = [[event.id for event in m.events] for m in bench.channels["email"].messages]
    assert listed == [[early], [late]]


def test_an_event_that_opens_no_digest_rides_along_with_one_of_its_run() -> None:
    bench = bench_of(only=("agent_completed",))
    follower = bench.ledger.add(make_event(type="agent_thinking"))
    opener = bench.ledger.add()
    bench.run("email", follower, opener)
    assert bench.ledger.due_in(follower) == 45.0
    bench.play(opener)
    [message] = bench.channels["email"].messages
    assert {event.id for event in message.events} == {follower, opener}
    bench.play(follower)
    assert bench.ledger.tries(follower) == [("email", 1, "delivered")]


def test_without_a_digest_of_its_run_it_is_skipped() -> None:
    bench = bench_of(only=("agent_completed",))
    follower = bench.ledger.add(make_event(type="agent_thinking"))
    bench.play(follower)
    assert bench.ledger.tries(follower) == [("email", 1, "skipped")]
    assert bench.channels["email"].messages == []


def test_a_policy_may_take_the_providers_word_as_confirmation() -> None:
    bench = bench_of(confirms="accepted")
    ids = [bench.ledger.add() for _ in range(2)]
    bench.run("email", *ids)
    bench.ledger.advance(30.0)
    bench.run("email", *ids)
    assert {bench.ledger.state(event_id) for event_id in ids} == {State.CONFIRMED}
    confirmations = [bench.ledger.look(event_id).confirmations for event_id in ids]
    assert [[(c.channel, c.by, c.evidence) for c in each] for each in confirmations] == [
        [("email", "provider", "email-1")]
    ] * 2


def test_an_open_breaker_holds_the_digest_back_without_an_attempt() -> None:
    bench = bench_of(digest=DigestRule(window=0.0, min_interval=0.0))
    event_id = bench.ledger.add()
    bench.ledger.break_open("email")
    bench.run("email", event_id)
    assert bench.channels["email"].messages == []
    assert bench.ledger.tries(event_id) == []
    assert bench.ledger.due_in(event_id) == 30.0


def test_a_mail_server_that_stays_away_does_not_stop_the_chain() -> None:
    bench = bench_of(step_on("alert"))
    bench.channels["email"].faults = [UNAVAILABLE] * 99
    event_id = bench.ledger.add()
    bench.ledger.break_open("email")
    bench.play(event_id)
    assert bench.ledger.state(event_id) is State.DEAD


def test_quiet_hours_hold_a_digest_that_is_due_back() -> None:
    bench = bench_of(respects=("quiet_hours",))
    event_id = bench.ledger.add(quiet_hours=("12:00", "13:00"))
    bench.run("email", event_id)
    assert bench.ledger.due_in(event_id) == 3600.0
    bench.play(event_id)
    assert len(bench.channels["email"].messages) == 1


def test_a_step_after_the_digest_is_due_after_its_attempt() -> None:
    bench = bench_of(step_on("alert", after=300.0))
    event_id = bench.ledger.add()
    bench.run("email", event_id)
    bench.ledger.advance(30.0)
    bench.run("email", event_id)
    assert (bench.ledger.step(event_id), bench.ledger.due_in(event_id)) == ("alert", 300.0)


def test_events_of_types_without_this_channel_stay_out_of_the_mail() -> None:
    bench = bench_of()
    bench.ledger.add(make_event(type="report_ready"))
    event_id = bench.ledger.add()
    bench.play(event_id)
    [message] = bench.channels["email"].messages
    assert [event.id for event in message.events] == [event_id]


def test_an_ack_at_the_very_moment_of_sending_keeps_its_event_out() -> None:
    bench = bench_of(digest=DigestRule(window=0.0, min_interval=0.0))
    gone, left = bench.ledger.add(), bench.ledger.add()
    bench.ledger.digests.before_claim = lambda: bench.ledger.acknowledge(gone)
    report = bench.run("email", gone, left)
    [message] = bench.channels["email"].messages
    assert [event.id for event in message.events] == [left]
    assert (report.outcomes["delivered"], report.lost) == (1, 1)


def test_waiting_at_an_open_breaker_does_not_keep_it_open() -> None:
    bench = bench_of(digest=DigestRule(window=0.0, min_interval=0.0))
    event_id = bench.ledger.add()
    claim = bench.ledger.claim(event_id, 60.0)
    bench.ledger.digests.join(
        claim, "email", by=("user_id", "run_id"), window=0.0, min_interval=0.0
    )
    bench.ledger.advance(100.0)
    bench.ledger.break_open("email")
    opened = bench.ledger.breakers.get("email")
    bench.run("email", event_id)
    assert bench.ledger.tries(event_id) == [("email", 1, "failed")]
    assert bench.channels["email"].messages == []
    assert bench.ledger.breakers.get("email") == opened
