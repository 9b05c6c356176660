"""The executor: what each channel does, what each outcome leads to, and what is never done."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from delivery.domain.event import EventClass
from delivery.domain.lifecycle import State
from delivery.domain.policy import Priority, parse_policies
from delivery.domain.transports import Message, Taken
from delivery.domain.users.contact import Contact
from delivery.errors import (
    ChannelRejected,
    ChannelUnavailable,
    LedgerUnavailable,
    OutcomeUnknown,
)
from delivery.tasks.executor import TimeLimits
from delivery.tasks.steps import MAX_PUSHES, PUSHES_IN
from delivery.tasks.sweep import Sweeper
from tests.unit.tasks.fakes import World, make_event, policies_of, step_on

UNAVAILABLE = ChannelUnavailable("the server is busy")
UNKNOWN = OutcomeUnknown("no answer after the request")
WHOLE_CHAIN = (
    step_on("database"),
    step_on("queue"),
    step_on("direct", after=1.0),
    step_on("emergency", after=5.0),
    step_on("email", after=60.0, confirms="link"),
    step_on("sms", after=60.0),
    step_on("alert", after=60.0),
)


def malformed_breaks(*about: Any) -> None:
    """An error that was not foreseen."""
    if "malformed" in str(about):
        raise ZeroDivisionError("person@example.org")


def stopped() -> None:
    """The worker's time limit."""
    raise InterruptedError


class TestScheduling:
    def test_each_channel_does_its_own_work_and_hands_on_to_the_next(self) -> None:
        world = World(policies_of(step_on("database"), step_on("queue")))
        event_id = world.ledger.add()
        report = world.run("database", event_id)
        assert world.ledger.tries(event_id) == [("database", 1, "delivered")]
        assert world.ledger.step(event_id) == "queue"
        assert world.queue.published == [("queue", [event_id])]
        assert report.handed_on == {"queue": [event_id]}
        assert world.gateways.copied == []

    def test_what_is_handed_on_keeps_the_priority_of_its_class(self) -> None:
        chain = [{"channel": "database"}, {"channel": "queue"}]
        critical = {"chain": chain, "priority": "low"}
        world = World(parse_policies({"class": {"critical": critical}}))
        event_id = world.ledger.add()
        world.run("database", event_id)
        assert world.queue.published == [("queue", [event_id])]
        assert world.queue.priorities == {event_id: Priority.LOW}

    def test_a_lost_publish_is_made_up_by_the_due_time(self) -> None:
        world = World(policies_of(step_on("database"), step_on("queue")))
        event_id = world.ledger.add()
        world.run("database", event_id)
        assert world.ledger.due_in(event_id) == 5.0

    def test_a_step_that_is_not_due_yet_is_not_published(self) -> None:
        world = World(policies_of(step_on("database"), step_on("direct", after=30.0)))
        event_id = world.ledger.add()
        report = world.run("database", event_id)
        assert report.waiting == 1
        assert world.queue.published == []
        assert (world.ledger.step(event_id), world.ledger.due_in(event_id)) == ("direct", 30.0)

    def test_a_task_that_comes_early_changes_no_due_time_and_makes_no_attempt(self) -> None:
        world = World(policies_of(step_on("direct", after=30.0)))
        event_id = world.ledger.add()
        world.ledger.advance(10.0)
        world.run("direct", event_id)
        assert world.ledger.tries(event_id) == []
        assert world.ledger.due_in(event_id) == 20.0

    def test_a_message_for_the_wrong_channel_is_passed_to_the_right_one(self) -> None:
        world = World(policies_of(step_on("database")))
        event_id = world.ledger.add()
        world.run("sms", event_id)
        assert world.queue.published == [("database", [event_id])]
        assert world.channels["sms"].messages == []

    def test_a_batch_is_handed_on_as_a_batch(self) -> None:
        world = World(policies_of(step_on("database"), step_on("queue")))
        ids = [world.ledger.add() for _ in range(3)]
        world.run("database", *ids)
        assert world.queue.published == [("queue", ids)]
        assert world.drained == ["drained"]

    def test_slow_channels_get_smaller_batches(self) -> None:
        world = World(policies_of(step_on("database"), step_on("emergency")))
        ids = [world.ledger.add() for _ in range(45)]
        world.run("database", *ids)
        assert [len(batch) for _, batch in world.queue.published] == [20, 20, 5]

    def test_an_event_that_another_worker_holds_is_left_alone(self) -> None:
        world = World(policies_of(step_on("database")))
        event_id = world.ledger.add()
        world.ledger.claim(event_id)
        assert world.run("database", event_id).claimed == 0
        assert world.ledger.tries(event_id) == []

    def test_a_message_that_comes_twice_makes_one_attempt(self) -> None:
        world = World(policies_of(step_on("emergency")))
        event_id = world.ledger.add()
        world.run("emergency", event_id)
        world.run("emergency", event_id)
        assert len(world.channels["emergency"].messages) == 1

    def test_an_ack_before_the_step_ends_the_chain(self) -> None:
        world = World(policies_of(step_on("emergency")))
        event_id = world.ledger.add()
        world.ledger.chain.before_begin = world.ledger.acknowledge
        report = world.run("emergency", event_id)
        assert world.channels["emergency"].messages == []
        assert world.ledger.state(event_id) is State.CONFIRMED
        assert report.lost == 1

    def test_a_class_without_a_chain_parks_its_events(self) -> None:
        world = World(policies_of())
        event_id = world.ledger.add()
        assert world.run("database", event_id).finished == 1
        assert world.ledger.state(event_id) is State.PARKED

    def test_a_ledger_that_is_away_is_told_to_the_caller(self) -> None:
        world = World(policies_of(step_on("database")))
        event_id = world.ledger.add()
        world.ledger.go_away()
        with pytest.raises(LedgerUnavailable):
            world.run("database", event_id)

    def test_an_unknown_channel_is_refused(self) -> None:
        with pytest.raises(ValueError, match="pigeon"):
            World(policies_of()).run("pigeon", "x")

    def test_one_event_that_cannot_be_decided_on_does_not_hold_up_the_others(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        world = World(policies_of(step_on("database"), step_on("email")))
        bad = world.ledger.add(make_event("malformed"))
        good = world.ledger.add(make_event("plain"))
        world.channels["email"].unreachable = malformed_breaks  # type: ignore[method-assign]
        world.run("database", bad, good)
        assert world.ledger.step(good) == "email"
        assert world.ledger.tries(bad) == [("decision", 1, "failed")]
        assert world.ledger.due_in(bad) == 30.0
        assert bad in caplog.text

    def test_one_that_raises_twice_is_given_up_to_the_operators(self) -> None:
        world = World(policies_of(step_on("database"), step_on("email")))
        bad = world.ledger.add(make_event("malformed"))
        world.channels["email"].unreachable = malformed_breaks  # type: ignore[method-assign]
        assert world.play(bad) == ["database", "database", "alert"]
        assert world.ledger.state(bad) is State.DEAD
        (group, _) = world.alerts.fired[0]
        assert group.faults == (world.ledger.error(bad),)
        assert "ZeroDivisionError at test_executor.py" in group.faults[0]

    def test_an_alert_that_raises_as_well_does_not_go_round_for_ever(self) -> None:
        world = World(policies_of(step_on("email"), step_on("alert")))
        bad = world.ledger.add(make_event("malformed"))
        world.channels["email"].unreachable = malformed_breaks  # type: ignore[method-assign]
        world.ledger.alerts.fire = malformed_breaks  # type: ignore[method-assign]
        world.play(bad)
        assert world.ledger.state(bad) is State.PARKED

    def test_an_interruption_of_the_task_is_no_fault_of_its_event(self) -> None:
        world = World(policies_of(step_on("email")), interruptions=(InterruptedError,))
        event_id = world.ledger.add()
        world.ledger.digests.before_claim = stopped
        with pytest.raises(InterruptedError):
            world.run("email", event_id)
        assert world.ledger.tries(event_id) == []

    def test_what_there_is_no_time_for_goes_back_to_the_same_channel(self) -> None:
        world = World(policies_of(step_on("emergency")), TimeLimits(soft=0.0, hard=1.0, lease=2.0))
        world.executor._limits = TimeLimits(soft=-1.0, hard=1.0, lease=2.0)
        event_id = world.ledger.add()
        world.run("emergency", event_id)
        assert world.channels["emergency"].messages == []
        assert world.ledger.tries(event_id) == []
        assert world.queue.published == [("emergency", [event_id])]

    def test_an_unconfirmed_event_goes_through_the_whole_chain_to_the_operators(self) -> None:
        world = World(policies_of(*WHOLE_CHAIN))
        event_id = world.ledger.add()
        ran = world.play(event_id)
        assert list(dict.fromkeys(ran)) == [step.channel for step in WHOLE_CHAIN]
        assert world.ledger.state(event_id) is State.DEAD
        assert world.ledger.tries(event_id) == [
            ("database", 1, "delivered"),
            ("queue", 1, "delivered"),
            ("direct", 1, "failed"),
            ("direct", 2, "failed"),
            ("direct", 3, "failed"),
            ("emergency", 1, "delivered"),
            ("email", 1, "delivered"),
            ("sms", 1, "delivered"),
            ("alert", 1, "delivered"),
        ]

    def test_a_user_without_addresses_gets_to_the_operators_with_every_skip_on_record(self) -> None:
        world = World(policies_of(*WHOLE_CHAIN))
        event_id = world.ledger.add(email=None, phone=None, push=())
        world.play(event_id)
        skipped = [c for c, _, outcome in world.ledger.tries(event_id) if outcome == "skipped"]
        assert skipped == ["emergency", "email", "sms"]
        assert world.ledger.state(event_id) is State.DEAD


class TestInsideTheSystem:
    def test_the_database_step_drains_the_spool(self) -> None:
        world = World(policies_of(step_on("database")))
        world.run("database", world.ledger.add())
        assert world.drained == ["drained"]

    def test_a_spool_that_cannot_be_drained_is_tried_again(self) -> None:
        world = World(policies_of(step_on("database")))
        world.drain_faults = [LedgerUnavailable("locked")]
        event_id = world.ledger.add()
        world.run("database", event_id)
        assert world.ledger.tries(event_id) == [("database", 1, "failed")]
        assert world.ledger.due_in(event_id) == 10.0

    def test_the_queue_step_copies_the_batch_and_wakes_each_user_once(self) -> None:
        world = World(policies_of(step_on("queue")))
        ids = [world.ledger.add(make_event(user)) for user in ("b", "a", "b")]
        world.run("queue", *ids)
        assert world.gateways.copied == [ids]
        assert world.gateways.woken == [["a", "b"]]

    def test_a_queue_that_is_away_is_tried_again_and_wakes_no_gateway(self) -> None:
        world = World(policies_of(step_on("queue")))
        world.gateways.copy_faults = [UNAVAILABLE]
        event_id = world.ledger.add()
        world.run("queue", event_id)
        assert world.ledger.tries(event_id) == [("queue", 1, "failed")]
        assert world.gateways.woken == []

    def test_a_wake_up_that_fails_does_not_undo_the_copy(self) -> None:
        world = World(policies_of(step_on("queue")))
        world.gateways.wake_faults = [UNAVAILABLE]
        event_id = world.ledger.add()
        world.run("queue", event_id)
        assert world.ledger.tries(event_id) == [("queue", 1, "delivered")]

    def test_direct_resends_once_per_user(self) -> None:
        world = World(policies_of(step_on("direct")))
        first, second = world.ledger.add(make_event("a")), world.ledger.add(make_event("a"))
        other = world.ledger.add(make_event("b"))
        world.run("direct", first, other, second)
        assert sorted(world.gateways.resent) == [("a", [first, second]), ("b", [other])]

    def test_a_user_without_a_connection_is_a_failure_that_is_tried_again(self) -> None:
        world = World(policies_of(step_on("direct")))
        event_id = world.ledger.add()
        world.run("direct", event_id)
        attempt = world.ledger.look(event_id).attempts[0]
        assert (attempt.outcome, attempt.error) == ("failed", "not connected")
        assert world.ledger.due_in(event_id) == 10.0

    def test_a_resend_that_reached_a_socket_waits_for_its_ack(self) -> None:
        world = World(policies_of(step_on("direct", backoff=step_on("x").backoff)))
        world.gateways.connections["u"] = 1
        event_id = world.ledger.add()
        world.run("direct", event_id)
        assert world.ledger.tries(event_id) == [("direct", 1, "delivered")]
        assert world.ledger.due_in(event_id) == 10.0

    def test_a_gateway_that_fails_for_one_user_is_a_failure_for_that_user_only(self) -> None:
        world = World(policies_of(step_on("direct")))
        world.gateways.resend_faults = [RuntimeError("secret://host")]
        event_id = world.ledger.add()
        world.run("direct", event_id)
        attempt = world.ledger.look(event_id).attempts[0]
        assert attempt.error == "unforeseen RuntimeError"

    def test_attempts_stop_at_the_cap(self) -> None:
        world = World(policies_of(step_on("direct", attempts=3)))
        event_id = world.ledger.add()
        assert world.play(event_id).count("direct") == 3
        assert world.ledger.state(event_id) is State.PARKED


class TestEmergency:
    def test_a_user_gets_one_message_and_every_event_its_attempt(self) -> None:
        world = World(policies_of(step_on("emergency")))
        ids = [world.ledger.add() for _ in range(3)]
        ids.append(world.ledger.add(make_event(run_id="other")))
        world.run("emergency", *ids)
        [message] = world.channels["emergency"].messages
        assert [event.id for event in message.events] == ids
        assert message.run_id is None
        assert all(world.ledger.tries(i) == [("emergency", 1, "delivered")] for i in ids)

    def test_a_flood_of_one_user_is_few_messages_and_costs_no_other_user_one(self) -> None:
        world = World(policies_of(step_on("emergency"), step_on("alert")))
        for _ in range(MAX_PUSHES):
            world.run("emergency", world.ledger.add(make_event("loud")))
        ids = [world.ledger.add(make_event("loud")) for _ in range(3)]
        quiet = world.ledger.add(make_event("quiet"))
        world.run("emergency", *ids, quiet)
        messages = world.channels["emergency"].messages
        assert [m.user_id for m in messages] == ["loud"] * MAX_PUSHES + ["quiet"]
        assert {world.ledger.due_in(event_id) for event_id in ids} == {PUSHES_IN}
        world.ledger.advance(PUSHES_IN)
        world.run("emergency", *ids)  # the minute is over: what waited is one message
        assert [event.id for event in messages[-1].events] == ids

    def test_an_event_waits_for_its_users_next_push_only_for_a_while(self) -> None:
        world = World(policies_of(step_on("emergency"), step_on("alert")))
        late = world.ledger.add(make_event("loud"))
        world.ledger.advance(PUSHES_IN)
        for _ in range(MAX_PUSHES):
            world.run("emergency", world.ledger.add(make_event("loud")))
        world.run("emergency", late)
        assert world.ledger.tries(late) == [("emergency", 1, "skipped")]
        assert world.ledger.step(late) == "alert"

    def test_a_target_that_hangs_holds_up_no_other_users_push(self) -> None:
        world = World(policies_of(step_on("emergency")))
        channel, other_is_sent = world.channels["emergency"], threading.Event()
        take = channel.deliver

        def deliver(message: Message, timeout: float) -> Taken:
            if message.user_id == "hangs":
                assert other_is_sent.wait(30.0), "the other push waited for this one"
            taken = take(message, timeout)
            other_is_sent.set()
            return taken

        channel.deliver = deliver  # type: ignore[method-assign]
        ids = [world.ledger.add(make_event(user)) for user in ("hangs", "quiet")]
        world.run("emergency", *ids)
        assert [m.user_id for m in channel.messages] == ["quiet", "hangs"]
        assert [world.ledger.tries(i) for i in ids] == [[("emergency", 1, "delivered")]] * 2

    def test_the_key_of_a_message_is_stable_over_retries(self) -> None:
        world = World(policies_of(step_on("emergency")))
        world.channels["emergency"].faults = [UNAVAILABLE]
        world.play(world.ledger.add())
        first, second = world.channels["emergency"].messages
        assert first.key == second.key
        assert (first.number, second.number) == (1, 2)

    def test_an_opted_out_user_is_skipped_where_the_step_respects_it(self) -> None:
        world = World(policies_of(step_on("emergency", respects=("opt_out",))))
        event_id = world.ledger.add(opt_out=("emergency",))
        world.run("emergency", event_id)
        assert world.ledger.tries(event_id) == [("emergency", 1, "skipped")]
        assert world.ledger.error(event_id) == "opted out"

    def test_an_opt_out_does_not_stop_a_step_that_does_not_respect_it(self) -> None:
        world = World(policies_of(step_on("emergency")))
        world.run("emergency", world.ledger.add(opt_out=("emergency",)))
        assert len(world.channels["emergency"].messages) == 1

    def test_a_channel_that_is_not_configured_is_skipped(self) -> None:
        world = World(policies_of(step_on("emergency")))
        del world.executor._transports["emergency"]
        event_id = world.ledger.add()
        world.run("database", event_id)
        assert world.ledger.error(event_id) == "not configured"

    def test_a_refusal_is_final(self) -> None:
        world = World(policies_of(step_on("emergency")))
        world.channels["emergency"].faults = [ChannelRejected("no such device")]
        event_id = world.ledger.add()
        world.run("emergency", event_id)
        assert world.ledger.tries(event_id) == [("emergency", 1, "failed")]
        assert world.ledger.state(event_id) is State.PARKED

    def test_an_unknown_outcome_is_repeated_only_as_the_policy_says(self) -> None:
        world = World(policies_of(step_on("emergency", on_unknown="once", attempts=5)))
        world.channels["emergency"].faults = [UNKNOWN, UNKNOWN, UNKNOWN]
        world.play(world.ledger.add())
        assert len(world.channels["emergency"].messages) == 2

    def test_an_interruption_in_the_middle_counts_as_unknown(self) -> None:
        world = World(policies_of(step_on("emergency", on_unknown="skip")))
        world.channels["emergency"].faults = [RuntimeError("soft time limit")]
        event_id = world.ledger.add()
        world.run("emergency", event_id)
        assert world.ledger.tries(event_id) == [("emergency", 1, "unknown")]

    def test_an_attempt_of_a_dead_worker_is_not_repeated_when_the_policy_forbids_it(self) -> None:
        world = World(policies_of(step_on("emergency", on_unknown="skip")))
        event_id = world.ledger.add()
        claim = world.ledger.claim(event_id)
        world.ledger.chain.begin_all([(claim, 1)], "emergency")  # and then its worker died
        world.ledger.advance(61.0)
        world.run("emergency", event_id)
        assert world.channels["emergency"].messages == []
        assert world.ledger.state(event_id) is State.PARKED

    def test_a_poison_event_is_capped_though_no_attempt_ever_ends(self) -> None:
        world = World(policies_of(step_on("emergency", attempts=3)))
        event_id = world.ledger.add()
        for _ in range(3):
            world.channels["emergency"].faults = [KeyboardInterrupt()]  # type: ignore[list-item]
            with pytest.raises(KeyboardInterrupt):
                world.run("emergency", event_id)  # kills its worker
            world.ledger.advance(61.0)
            world.run("emergency", event_id)  # finds the attempt unknown, waits for the backoff
            world.ledger.advance(40.0)
        world.run("emergency", event_id)
        assert len(world.channels["emergency"].messages) == 3
        assert world.ledger.state(event_id) is State.PARKED


class TestBreakers:
    def test_an_open_breaker_costs_no_attempt_and_contacts_no_provider(self) -> None:
        world = World(policies_of(step_on("emergency")))
        event_id = world.ledger.add()
        world.ledger.break_open("emergency")
        world.run("emergency", event_id)
        assert world.channels["emergency"].messages == []
        assert world.ledger.tries(event_id) == []
        assert world.ledger.due_in(event_id) == 30.0

    def test_a_provider_that_stays_away_does_not_stop_the_chain(self) -> None:
        world = World(policies_of(step_on("emergency"), step_on("alert")))
        event_id = world.ledger.add()
        world.channels["emergency"].faults = [UNAVAILABLE] * 99
        world.ledger.break_open("emergency")
        began = world.ledger.now()
        world.play(event_id)
        assert world.ledger.state(event_id) is State.DEAD
        assert (world.ledger.now() - began).total_seconds() < 900

    def test_a_wait_at_an_open_breaker_that_lasts_too_long_is_on_record(self) -> None:
        world = World(policies_of(step_on("emergency")))
        event_id = world.ledger.add()
        world.ledger.advance(91.0)
        world.ledger.break_open("emergency")
        world.run("emergency", event_id)
        assert world.channels["emergency"].messages == []
        assert world.ledger.error(event_id) == "breaker open"
        assert world.ledger.due_in(event_id) == 30.0

    def test_failures_open_the_breaker(self) -> None:
        world = World(policies_of(step_on("emergency")))
        world.channels["emergency"].faults = [UNAVAILABLE] * 5
        for _ in range(5):
            world.run("emergency", world.ledger.add(make_event(run_id="r")))
        assert not world.ledger.breakers.allows("emergency")

    def test_refusals_of_single_recipients_do_not(self) -> None:
        world = World(policies_of(step_on("emergency")))
        world.channels["emergency"].faults = [ChannelRejected("no such user")] * 9
        for _ in range(9):
            world.run("emergency", world.ledger.add())
        assert world.ledger.breakers.allows("emergency")

    def test_an_unknown_outcome_counts_against_the_provider(self) -> None:
        world = World(policies_of(step_on("emergency", on_unknown="skip")))
        world.channels["emergency"].faults = [UNKNOWN] * 5
        for _ in range(5):
            world.run("emergency", world.ledger.add())
        assert not world.ledger.breakers.allows("emergency")


class TestAlert:
    def test_a_batch_is_one_alert_and_its_events_are_dead(self) -> None:
        world = World(policies_of(step_on("alert")))
        ids = [world.ledger.add() for _ in range(30)]
        world.run("alert", *ids)
        [(group, first)] = world.alerts.fired
        assert (group.count, first) == (30, True)
        assert {world.ledger.state(event_id) for event_id in ids} == {State.DEAD}

    def test_operators_hear_of_each_class_for_itself(self) -> None:
        world = World(policies_of(step_on("alert"), auth=[step_on("alert")]))
        ids = [
            world.ledger.add(),
            world.ledger.add(make_event(event_class=EventClass.AUTH, type="auth_failed")),
        ]
        world.run("alert", *ids)
        assert [group.event_class for group, _ in world.alerts.fired] == ["critical", "auth"]

    def test_a_second_batch_of_a_firing_group_is_no_news(self) -> None:
        world = World(policies_of(step_on("alert")))
        world.run("alert", world.ledger.add())
        world.run("alert", world.ledger.add())
        assert [first for _, first in world.alerts.fired] == [True, False]
        [group] = world.ledger.alerts.firing()
        assert group.notified_at == world.ledger.now()

    def test_a_group_that_lasts_is_told_again(self) -> None:
        world = World(policies_of(step_on("alert")))
        world.run("alert", world.ledger.add())
        world.ledger.advance(4 * 3600)
        world.run("alert", world.ledger.add())
        assert [first for _, first in world.alerts.fired] == [True, True]

    def test_without_a_receiver_the_step_is_skipped_and_nothing_says_that_operators_know(
        self,
    ) -> None:
        world = World(policies_of(step_on("alert")))
        world.alerts.has_receiver = False
        event_id = world.ledger.add()
        world.run("alert", event_id)
        assert world.ledger.tries(event_id) == [("alert", 1, "skipped")]
        assert world.ledger.state(event_id) is State.DEAD
        [group] = world.ledger.alerts.firing()
        assert (group.count, group.notified_at) == (1, None)

    def test_a_receiver_that_is_away_is_tried_again_before_the_event_is_dead(self) -> None:
        world = World(policies_of(step_on("alert")))
        world.alerts.faults = [UNAVAILABLE]
        event_id = world.ledger.add()
        world.run("alert", event_id)
        assert world.ledger.state(event_id) is State.FALLING_BACK
        assert [group.notified_at for group in world.ledger.alerts.firing()] == [None]
        world.play(event_id)
        assert world.ledger.state(event_id) is State.DEAD
        assert len(world.alerts.fired) == 1


def test_the_same_history_always_gets_the_same_jitter() -> None:
    jittery = step_on("direct")
    policies = policies_of(step_on("direct", backoff=type(jittery.backoff)(10.0, 10.0, 0.9)))
    world = World(policies)
    event_id = world.ledger.add()
    world.run("direct", event_id)
    wait = world.ledger.due_in(event_id)
    assert wait is not None
    world.run("direct", event_id)
    assert world.ledger.due_in(event_id) == wait
    world.ledger.advance(wait)
    world.run("direct", event_id)
    assert world.ledger.tries(event_id)[-1][:2] == ("direct", 2)


def no_phone(contact: Contact) -> str | None:
    """A rule of the worker that sends texts."""
    return None if contact.phone else "no phone number"


class TestChannelsOfOtherWorkers:
    """A worker that lacks a channel's secrets leaves the step to the worker that has them."""

    CHAIN = (step_on("database"), step_on("sms"), step_on("alert"))

    def test_the_step_is_handed_on_and_the_user_without_an_address_is_skipped_at_once(self) -> None:
        world = World(policies_of(*self.CHAIN), channels=(), elsewhere={"sms": no_phone})
        has = world.ledger.add(make_event(user_id="has"))
        lacks = world.ledger.add(make_event(user_id="lacks"), phone=None)
        world.run("database", has, lacks)
        assert world.ledger.step(has) == "sms"
        assert world.ledger.step(lacks) == "alert"
        assert ("sms", 1, "skipped") in world.ledger.tries(lacks)

    def test_a_channel_that_no_worker_has_is_skipped_by_its_own(self) -> None:
        world = World(policies_of(*self.CHAIN), channels=(), elsewhere={"sms": no_phone})
        event_id = world.ledger.add()
        assert world.play(event_id) == ["database", "sms", "alert"]
        assert ("sms", 1, "skipped") in world.ledger.tries(event_id)


def test_a_channel_twice_sends_two_messages_each_by_the_rules_of_its_step() -> None:
    again = step_on("email", name="reminder", after=60.0, attempts=2, confirms="link")
    world = World(policies_of(step_on("email", attempts=1), again, step_on("alert")))
    world.channels["email"].faults = [ChannelUnavailable("451 later")] * 2
    event_id = world.ledger.add()
    assert world.play(event_id) == ["database", "email", "reminder", "reminder", "alert"]
    attempts = [a for a in world.ledger.look(event_id).attempts if a.channel == "email"]
    assert [(a.step_name, a.number, a.outcome.value) for a in attempts] == [
        ("email", 1, "failed"),
        ("reminder", 2, "failed"),
        ("reminder", 3, "delivered"),
    ]
    first, *reminders = world.channels["email"].messages
    assert first.confirm_url is None
    assert first.key not in {message.key for message in reminders}
    assert len({message.key for message in reminders}) == 1


def test_an_event_whose_step_left_the_file_goes_on_with_the_chain() -> None:
    before = World(policies_of(step_on("queue"), step_on("email", name="late", after=60.0)))
    event_id = before.ledger.add()
    before.run("queue", event_id)
    assert before.ledger.step(event_id) == "late"
    after = policies_of(step_on("queue"), step_on("sms"))
    world = World(after, ledger=before.ledger)
    world.ledger.advance(120.0)
    sweeper = Sweeper(world.ledger, after, world.queue)
    sweeper.sweep()
    [(channel, ids)] = world.queue.published
    assert ids == [event_id]
    world.run(channel, event_id)
    world.play(event_id)
    assert world.ledger.tries(event_id)[-1] == ("sms", 1, "delivered")


def test_a_second_push_of_an_event_counts_as_a_message_and_has_a_key_of_its_own() -> None:
    steps = [step_on("emergency"), step_on("emergency", name="again")]
    world = World(policies_of(*steps))
    world.play(world.ledger.add())
    first, second = world.channels["emergency"].messages
    assert first.key != second.key
    assert (first.number, second.number) == (1, 1)
