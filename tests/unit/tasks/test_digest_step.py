"""Email and SMS by digest: one message, every member's outcome, never twice without need."""

from __future__ import annotations

from functools import partial

from delivery.domain.event import EventClass
from delivery.domain.lifecycle import State
from delivery.domain.policy import DigestRule
from delivery.domain.users.receipts import Suppress
from delivery.errors import ChannelRejected, ChannelUnavailable, LedgerUnavailable, OutcomeUnknown
from delivery.ledger.stores.fallback.digests import DigestSql
from tests.unit.tasks.fakes import World, make_event, policies_of, step_on

WINDOW = DigestRule(window=30.0, min_interval=0.0)
UNAVAILABLE = ChannelUnavailable("451 try later")


def bench_of(*more: object, **changes: object) -> World:
    step = step_on("email", **{"digest": WINDOW, "confirms": "link", **changes})
    return World(policies_of(step, *more))  # type: ignore[arg-type]


def test_an_event_waits_for_the_end_of_its_digests_window() -> None:
    world = bench_of()
    event_id = world.ledger.add()
    world.run("email", event_id)
    assert world.channels["email"].messages == []
    assert (world.ledger.step(event_id), world.ledger.due_in(event_id)) == ("email", 30.0)


def test_a_user_gets_one_mail_for_all_events_of_a_run() -> None:
    world = bench_of()
    ids = [world.ledger.add() for _ in range(40)]
    world.run("email", *ids)
    world.ledger.advance(30.0)
    world.run("email", *ids)
    [message] = world.channels["email"].messages
    assert [event.id for event in message.events] == ids
    assert {tuple(world.ledger.tries(i)) for i in ids} == {(("email", 1, "delivered"),)}


def test_users_and_runs_do_not_share_a_mail() -> None:
    world = bench_of()
    pairs = [("a", "1"), ("a", "2"), ("b", "1")]
    ids = [world.ledger.add(make_event(user, run)) for user, run in pairs]
    world.run("email", *ids)
    world.ledger.advance(30.0)
    world.run("email", *ids)
    sent = [(m.user_id, m.run_id, len(m.events)) for m in world.channels["email"].messages]
    assert sorted(sent) == [("a", "1", 1), ("a", "2", 1), ("b", "1", 1)]


def test_a_message_carries_its_links_and_a_stable_key() -> None:
    world = bench_of(respects=("opt_out",))
    world.channels["email"].faults = [UNAVAILABLE]
    event_id = world.ledger.add()
    world.play(event_id)
    first, second = world.channels["email"].messages
    digest_id = world.ledger.look(event_id).stored.digest_id
    assert first.key == second.key == digest_id
    assert first.confirm_url == f"https://x/confirm/{digest_id}"
    assert first.unsubscribe_url == "https://x/unsubscribe/u/email"
    assert first.callback_url == "https://x/callback"
    assert (first.number, second.number) == (1, 2)


def test_each_attempt_at_a_message_is_kept_as_it_went_out_without_its_tokens() -> None:
    step = step_on("email", digest=WINDOW, confirms="link")
    world = World(policies_of(step), keeps_messages=True)
    world.channels["email"].faults = [UNAVAILABLE]
    event_id = world.ledger.add()
    world.play(event_id)
    kept = world.ledger.sent_messages.of_event(event_id)
    assert [(one.number, one.content.text) for one in kept] == [
        (1, "text of 1 https://x/confirm/…"),
        (2, "text of 2 https://x/confirm/…"),
    ]
    assert {(one.channel, one.content.subject, one.content.html) for one in kept} == {
        ("email", "subject", "<p>mail</p>")
    }
    assert world.ledger.sent_messages.trim(7.0) == 0
    world.ledger.advance(8 * 86_400)
    assert world.ledger.sent_messages.trim(7.0) == 2
    assert world.ledger.sent_messages.of_event(event_id) == []


def test_nothing_is_kept_unless_it_is_asked_for() -> None:
    world = bench_of()
    event_id = world.ledger.add()
    world.play(event_id)
    assert world.channels["email"].messages
    assert world.ledger.sent_messages.of_event(event_id) == []


def test_a_message_that_cannot_be_kept_is_sent_all_the_same() -> None:
    step = step_on("email", digest=WINDOW, confirms="link")
    world = World(policies_of(step), keeps_messages=True)

    def away(*_: object) -> None:
        raise LedgerUnavailable("the ledger is away")

    world.ledger.sent_messages.keep = away  # type: ignore[method-assign]
    event_id = world.ledger.add()
    world.play(event_id)
    assert ("email", 1, "delivered") in world.ledger.tries(event_id)


def test_a_step_that_no_link_confirms_sends_none() -> None:
    world = bench_of(confirms="receipt")
    world.play(world.ledger.add())
    [message] = world.channels["email"].messages
    assert message.confirm_url is None
    assert message.unsubscribe_url is None


def test_a_member_that_was_confirmed_meanwhile_is_not_in_the_mail() -> None:
    world = bench_of()
    gone, left = world.ledger.add(), world.ledger.add()
    world.run("email", gone, left)
    world.ledger.acknowledge(gone)
    world.ledger.advance(30.0)
    world.run("email", gone, left)
    [message] = world.channels["email"].messages
    assert [event.id for event in message.events] == [left]


def test_an_ack_of_everything_cancels_the_mail() -> None:
    world = bench_of()
    event_id = world.ledger.add()
    world.run("email", event_id)
    world.ledger.acknowledge(event_id)
    world.ledger.advance(30.0)
    world.run("email", event_id)
    assert world.channels["email"].messages == []


def test_a_transient_failure_reopens_the_digest_and_the_event_waits_with_it() -> None:
    world = bench_of(digest=DigestRule(window=0.0, min_interval=0.0))
    world.channels["email"].faults = [UNAVAILABLE]
    event_id = world.ledger.add()
    world.run("email", event_id)
    assert world.ledger.digests.ends[0][2] == 10.0
    assert world.ledger.due_in(event_id) == 10.0
    world.play(event_id)
    assert world.ledger.tries(event_id) == [("email", 1, "failed"), ("email", 2, "delivered")]


def test_a_refused_address_closes_the_digest_and_the_chain_goes_on() -> None:
    world = bench_of(step_on("alert"))
    world.channels["email"].faults = [ChannelRejected("550 no such user")]
    event_id = world.ledger.add()
    world.play(event_id)
    assert world.ledger.digests.ends[0][2] is None
    assert len(world.channels["email"].messages) == 1
    assert world.ledger.state(event_id) is State.DEAD


def test_attempts_stop_at_the_cap_and_the_digest_with_them() -> None:
    world = bench_of(attempts=2)
    world.channels["email"].faults = [UNAVAILABLE] * 9
    world.play(world.ledger.add())
    assert [retry for _, _, retry in world.ledger.digests.ends] == [10.0, None]


def test_an_unknown_outcome_is_repeated_by_policy() -> None:
    for policy, messages in (("retry", 3), ("once", 2), ("skip", 1)):
        world = bench_of(on_unknown=policy)
        world.channels["email"].faults = [OutcomeUnknown("answer lost")] * 9
        world.play(world.ledger.add())
        assert len(world.channels["email"].messages) == messages, policy


def test_a_digest_that_another_worker_sends_is_waited_for() -> None:
    world = bench_of()
    event_id = world.ledger.add()
    world.run("email", event_id)
    world.ledger.advance(30.0)
    digest_id = world.ledger.look(event_id).stored.digest_id
    assert digest_id is not None
    assert world.ledger.digests.claim(digest_id, 60.0) is not None
    world.run("email", event_id)
    assert world.channels["email"].messages == []
    assert (world.ledger.step(event_id), world.ledger.due_in(event_id)) == ("email", 5.0)


def test_a_digest_that_another_worker_took_first_is_waited_for() -> None:
    world = bench_of()
    event_id = world.ledger.add()
    world.run("email", event_id)
    world.ledger.advance(30.0)
    digest_id = world.ledger.look(event_id).stored.digest_id
    assert digest_id is not None
    theirs = DigestSql(world.ledger.database)
    world.ledger.digests.before_claim = partial(theirs.claim, digest_id, 60.0)
    world.run("email", event_id)
    assert world.channels["email"].messages == []
    assert (world.ledger.step(event_id), world.ledger.due_in(event_id)) == ("email", 2.0)


def test_an_event_after_the_mail_of_its_run_gets_a_digest_of_its_own() -> None:
    world = bench_of()
    early = world.ledger.add()
    world.play(early)
    late = world.ledger.add()
    world.play(late)
    listed = [[event.id for event in m.events] for m in world.channels["email"].messages]
    assert listed == [[early], [late]]


def test_an_event_that_opens_no_digest_rides_along_with_one_of_its_run() -> None:
    world = bench_of(only=("agent_completed",))
    follower = world.ledger.add(make_event(type="agent_thinking"))
    opener = world.ledger.add()
    world.run("email", follower, opener)
    assert world.ledger.due_in(follower) == 45.0
    world.play(opener)
    [message] = world.channels["email"].messages
    assert {event.id for event in message.events} == {follower, opener}
    world.play(follower)
    assert world.ledger.tries(follower) == [("email", 1, "delivered")]


def test_without_a_digest_of_its_run_it_is_skipped() -> None:
    world = bench_of(only=("agent_completed",))
    follower = world.ledger.add(make_event(type="agent_thinking"))
    world.play(follower)
    assert world.ledger.tries(follower) == [("email", 1, "skipped")]
    assert world.channels["email"].messages == []


def test_a_policy_may_take_the_providers_word_as_confirmation() -> None:
    world = bench_of(confirms="accepted")
    ids = [world.ledger.add() for _ in range(2)]
    world.run("email", *ids)
    world.ledger.advance(30.0)
    world.run("email", *ids)
    assert {world.ledger.state(event_id) for event_id in ids} == {State.CONFIRMED}
    confirmations = [world.ledger.look(event_id).confirmations for event_id in ids]
    assert [[(c.channel, c.by, c.evidence) for c in each] for each in confirmations] == [
        [("email", "provider", "email-1")]
    ] * 2


def test_an_open_breaker_holds_the_digest_back_without_an_attempt() -> None:
    world = bench_of(digest=DigestRule(window=0.0, min_interval=0.0))
    event_id = world.ledger.add()
    world.ledger.break_open("email")
    world.run("email", event_id)
    assert world.channels["email"].messages == []
    assert world.ledger.tries(event_id) == []
    assert world.ledger.due_in(event_id) == 30.0


def test_a_mail_server_that_stays_away_does_not_stop_the_chain() -> None:
    world = bench_of(step_on("alert"))
    world.channels["email"].faults = [UNAVAILABLE] * 99
    event_id = world.ledger.add()
    world.ledger.break_open("email")
    world.play(event_id)
    assert world.ledger.state(event_id) is State.DEAD


def test_quiet_hours_hold_a_digest_that_is_due_back() -> None:
    world = bench_of(respects=("quiet_hours",))
    event_id = world.ledger.add(quiet_hours=("12:00", "13:00"))
    world.run("email", event_id)
    assert world.ledger.due_in(event_id) == 3600.0
    world.play(event_id)
    assert len(world.channels["email"].messages) == 1


def test_a_step_after_the_digest_is_due_after_its_attempt() -> None:
    world = bench_of(step_on("alert", after=300.0))
    event_id = world.ledger.add()
    world.run("email", event_id)
    world.ledger.advance(30.0)
    world.run("email", event_id)
    assert (world.ledger.step(event_id), world.ledger.due_in(event_id)) == ("alert", 300.0)


def test_events_of_types_without_this_channel_stay_out_of_the_mail() -> None:
    world = bench_of()
    world.ledger.add(make_event(type="report_ready", event_class=EventClass.STANDARD))
    event_id = world.ledger.add()
    world.play(event_id)
    [message] = world.channels["email"].messages
    assert [event.id for event in message.events] == [event_id]


def test_an_ack_at_the_very_moment_of_sending_keeps_its_event_out() -> None:
    world = bench_of(digest=DigestRule(window=0.0, min_interval=0.0))
    gone, left = world.ledger.add(), world.ledger.add()
    world.ledger.digests.before_claim = lambda: world.ledger.acknowledge(gone)
    report = world.run("email", gone, left)
    [message] = world.channels["email"].messages
    assert [event.id for event in message.events] == [left]
    assert (report.outcomes["delivered"], report.lost) == (1, 1)


def test_waiting_at_an_open_breaker_does_not_keep_it_open() -> None:
    world = bench_of(digest=DigestRule(window=0.0, min_interval=0.0))
    event_id = world.ledger.add()
    claim = world.ledger.claim(event_id, 60.0)
    world.ledger.digests.join(
        claim, "email", by=("user_id", "run_id"), window=0.0, min_interval=0.0
    )
    world.ledger.advance(100.0)
    world.ledger.break_open("email")
    opened = world.ledger.breakers.get("email")
    world.run("email", event_id)
    assert world.ledger.tries(event_id) == [("email", 1, "failed")]
    assert world.channels["email"].messages == []
    assert world.ledger.breakers.get("email") == opened


def suppress(world: World) -> None:
    world.ledger.suppressions.add(
        "email", "u@example.org", Suppress.HARD_BOUNCE, provider="ses", code="5.1.1"
    )


def test_a_suppressed_address_gets_no_mail_and_the_chain_goes_on() -> None:
    world = bench_of(step_on("sms", after=60.0))
    event_id = world.ledger.add(email="u@EXAMPLE.org", phone="+491701234567")
    suppress(world)
    world.play(event_id)
    assert world.channels["email"].messages == []
    assert ("email", 1, "skipped") in world.ledger.tries(event_id)
    assert len(world.channels["sms"].messages) == 1


def test_an_address_that_is_suppressed_between_claim_and_sending_gets_no_mail() -> None:
    world = bench_of()
    event_id = world.ledger.add(email="u@example.org")
    world.ledger.digests.before_claim = lambda: suppress(world)
    world.play(event_id)
    assert world.channels["email"].messages == []
    assert world.ledger.tries(event_id)[-1] == ("email", 1, "skipped")


def test_a_refusal_that_knows_no_such_mailbox_suppresses_the_address() -> None:
    world = bench_of()
    world.channels["email"].faults = [ChannelRejected("550").of_address("hard_bounce", "5.1.1")]
    world.play(world.ledger.add(email="u@example.org"))
    [one], _ = world.ledger.suppressions.page()
    assert (one.address, one.reason, one.code) == ("u@example.org", "hard_bounce", "5.1.1")


def test_another_refusal_suppresses_nothing() -> None:
    world = bench_of()
    world.channels["email"].faults = [ChannelRejected("550 5.7.1 policy")]
    world.play(world.ledger.add(email="u@example.org"))
    assert world.ledger.suppressions.page() == ([], None)
