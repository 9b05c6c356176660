"""The chain's decision: every step, every outcome, and what must hold for any history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delivery.domain.event import EventClass
from delivery.domain.fallback import (
    DIGEST_GRACE,
    RUNNING_RECHECK,
    RUNNING_TIMEOUT,
    Decision,
    Exhausted,
    Progress,
    Skip,
    Step,
    Wait,
    next_step,
    retry_at,
)
from delivery.domain.lifecycle import Attempt, Outcome
from delivery.domain.policy import CHANNELS, ChainStep, ClassPolicy, DigestRule
from delivery.domain.retry import Backoff

START = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
STEADY = Backoff(base=10.0, max=40.0, jitter=0.0)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def policy_of(*steps: ChainStep, ack_timeout: float = 5.0) -> ClassPolicy:
    return ClassPolicy(EventClass.CRITICAL, chain=steps, ack_timeout=ack_timeout)


def step_on(channel: str, **changes: Any) -> ChainStep:
    return ChainStep(channel=channel, **{"backoff": STEADY, "attempts": 3, **changes})


def tried(
    channel: str,
    number: int = 1,
    outcome: Outcome = Outcome.DELIVERED,
    *,
    started: float = 0.0,
    ended: float | None = 0.0,
    retryable: bool = True,
    retry_after: float | None = None,
) -> Attempt:
    return Attempt(
        event_id="e",
        generation=1,
        channel=channel,
        number=number,
        outcome=outcome,
        started_at=at(started),
        ended_at=None if ended is None else at(ended),
        retryable=retryable,
        retry_after=retry_after,
    )


def decide(
    policy: ClassPolicy,
    attempts: Sequence[Attempt] = (),
    *,
    now: float = 0.0,
    event_type: str = "agent_completed",
    draw: float = 0.5,
    **progress: Any,
) -> Decision:
    known = Progress(type=event_type, entered_at=START, attempts=attempts, **progress)
    return next_step(known, policy, at(now), draw)


class TestOrderAndDueTimes:
    def test_the_first_step_is_due_on_entering_the_chain(self) -> None:
        assert decide(policy_of(step_on("database"))) == Step("database", 1, START)

    def test_a_first_step_with_a_delay_waits_for_it(self) -> None:
        assert decide(policy_of(step_on("direct", after=2.0)), now=1.9) == Wait("direct", at(2.0))

    def test_a_step_is_due_exactly_when_its_delay_is_over(self) -> None:
        assert decide(policy_of(step_on("direct", after=2.0)), now=2.0) == Step(
            "direct", 1, at(2.0)
        )

    def test_the_next_step_counts_from_the_start_of_the_one_before(self) -> None:
        policy = policy_of(step_on("queue"), step_on("email", after=60.0))
        done = [tried("queue", started=3.0, ended=4.0)]
        assert decide(policy, done, now=10.0) == Wait("email", at(63.0))

    def test_the_next_step_never_comes_before_the_end_of_the_one_before(self) -> None:
        policy = policy_of(step_on("queue"), step_on("email", after=1.0))
        done = [tried("queue", started=3.0, ended=30.0)]
        assert decide(policy, done, now=10.0) == Wait("email", at(30.0))

    def test_the_first_attempt_of_several_is_the_start_of_a_step(self) -> None:
        policy = policy_of(step_on("emergency", attempts=2), step_on("alert", after=20.0))
        done = [
            tried("emergency", 2, Outcome.FAILED, started=12.0, ended=13.0),
            tried("emergency", 1, Outcome.FAILED, started=1.0, ended=2.0),
        ]
        assert decide(policy, done, now=14.0) == Wait("alert", at(21.0))

    def test_attempts_outside_the_chain_do_not_count(self) -> None:
        done = [tried("websocket", 7, Outcome.FAILED, started=-5.0, ended=99.0)]
        assert decide(policy_of(step_on("database")), done) == Step("database", 1, START)

    def test_an_empty_chain_is_over_at_once_and_parks(self) -> None:
        assert decide(policy_of()) == Exhausted(alerted=False)

    def test_a_chain_without_an_alert_parks(self) -> None:
        assert decide(policy_of(step_on("queue")), [tried("queue")]) == Exhausted(alerted=False)

    def test_a_chain_with_an_alert_ends_with_operators(self) -> None:
        assert decide(policy_of(step_on("alert")), [tried("alert")]) == Exhausted(alerted=True)


class TestRepeats:
    def test_a_retryable_failure_waits_for_the_backoff(self) -> None:
        done = [tried("emergency", 1, Outcome.FAILED, ended=1.0)]
        policy = policy_of(step_on("emergency"))
        assert decide(policy, done, now=5.0) == Wait("emergency", at(11.0))
        assert decide(policy, done, now=11.0) == Step("emergency", 2, at(11.0))

    def test_the_backoff_doubles_up_to_its_limit(self) -> None:
        policy = policy_of(step_on("emergency", attempts=9))
        waits = []
        for number in range(1, 5):
            done = [tried("emergency", n, Outcome.FAILED) for n in range(1, number + 1)]
            decision = decide(policy, done)
            assert isinstance(decision, Wait)
            waits.append((decision.until - START).total_seconds())
        assert waits == [10.0, 20.0, 40.0, 40.0]

    def test_attempts_are_capped(self) -> None:
        done = [tried("emergency", n, Outcome.FAILED) for n in (1, 2, 3)]
        assert decide(policy_of(step_on("emergency")), done) == Exhausted(alerted=False)

    def test_a_permanent_failure_is_not_repeated(self) -> None:
        done = [tried("email", 1, Outcome.FAILED, retryable=False)]
        policy = policy_of(step_on("email"), step_on("sms"))
        assert decide(policy, done) == Step("sms", 1, START)

    def test_a_provider_may_ask_for_more_time_than_the_backoff(self) -> None:
        done = [tried("sms", 1, Outcome.FAILED, ended=1.0, retry_after=120.0)]
        assert decide(policy_of(step_on("sms")), done, now=20.0) == Wait("sms", at(121.0))

    def test_a_provider_cannot_shorten_the_backoff(self) -> None:
        done = [tried("sms", 1, Outcome.FAILED, ended=1.0, retry_after=0.1)]
        assert decide(policy_of(step_on("sms")), done, now=2.0) == Wait("sms", at(11.0))

    @pytest.mark.parametrize("channel", ["database", "queue", "emergency", "email", "sms", "alert"])
    def test_a_delivered_attempt_is_not_repeated(self, channel: str) -> None:
        decision = decide(policy_of(step_on(channel)), [tried(channel)], now=99.0)
        assert isinstance(decision, Exhausted)

    def test_a_resend_that_reached_a_socket_gets_the_time_of_an_acknowledgement(self) -> None:
        quick = step_on("direct", backoff=Backoff(0.1, 0.1, 0.0))
        decision = decide(policy_of(quick), [tried("direct", ended=1.0)], now=2.0)
        assert decision == Wait("direct", at(6.0))

    def test_the_step_after_direct_waits_for_the_last_acknowledgement_too(self) -> None:
        policy = policy_of(step_on("direct", attempts=1), step_on("email"))
        assert decide(policy, [tried("direct", ended=1.0)], now=2.0) == Wait("email", at(6.0))

    def test_the_step_after_a_direct_that_reached_no_connection_does_not_wait(self) -> None:
        policy = policy_of(step_on("direct", attempts=1), step_on("email"))
        done = [tried("direct", 1, Outcome.FAILED, ended=1.0)]
        assert decide(policy, done, now=2.0) == Step("email", 1, at(1.0))

    def test_a_draw_moves_a_retry_by_the_jitter_only(self) -> None:
        jittery = step_on("sms", backoff=Backoff(10.0, 10.0, 0.5))
        failed = [tried("sms", 1, Outcome.FAILED)]
        ends = [retry_at(jittery, failed, policy_of(jittery), draw) for draw in (0.0, 0.5, 1.0)]
        assert ends == [at(5.0), at(10.0), at(15.0)]


class TestUnknownOutcomes:
    def test_retry_repeats_up_to_the_cap(self) -> None:
        step = step_on("email", on_unknown="retry")
        unknown = [tried("email", n, Outcome.UNKNOWN) for n in (1, 2)]
        assert decide(policy_of(step), unknown, now=50.0) == Step("email", 3, at(20.0))

    def test_skip_never_repeats(self) -> None:
        step = step_on("sms", on_unknown="skip")
        unknown = [tried("sms", 1, Outcome.UNKNOWN)]
        assert decide(policy_of(step), unknown, now=50.0) == Exhausted(alerted=False)

    def test_once_repeats_a_single_time(self) -> None:
        policy = policy_of(step_on("email", on_unknown="once"))
        one = [tried("email", 1, Outcome.UNKNOWN)]
        assert decide(policy, one, now=50.0) == Step("email", 2, at(10.0))
        two = [*one, tried("email", 2, Outcome.UNKNOWN)]
        assert decide(policy, two, now=50.0) == Exhausted(alerted=False)

    def test_once_counts_unknown_outcomes_and_not_attempts(self) -> None:
        policy = policy_of(step_on("email", on_unknown="once"))
        done = [tried("email", 1, Outcome.FAILED), tried("email", 2, Outcome.UNKNOWN)]
        assert decide(policy, done, now=50.0) == Step("email", 3, at(20.0))

    def test_an_attempt_that_runs_elsewhere_is_waited_for(self) -> None:
        running = [tried("email", 1, Outcome.STARTED, ended=None)]
        decision = decide(policy_of(step_on("email")), running, now=30.0)
        assert decision == Wait("email", at(30.0 + RUNNING_RECHECK))

    def test_an_attempt_that_never_ends_counts_as_unknown_in_the_end(self) -> None:
        running = [tried("sms", 1, Outcome.STARTED, ended=None)]
        policy = policy_of(step_on("sms", on_unknown="skip"))
        assert isinstance(decide(policy, running, now=RUNNING_TIMEOUT - 1), Wait)
        assert decide(policy, running, now=RUNNING_TIMEOUT) == Exhausted(alerted=False)


class TestSkipsAndQuietHours:
    def test_an_unreachable_channel_is_skipped_with_its_reason(self) -> None:
        decision = decide(policy_of(step_on("sms", after=60.0)), unreachable={"sms": "no address"})
        assert decision == Skip("sms", "no address")

    def test_a_skipped_step_takes_no_time(self) -> None:
        policy = policy_of(step_on("emergency", after=60.0), step_on("email"))
        skipped = [tried("emergency", 1, Outcome.SKIPPED, started=2.0, ended=2.0)]
        assert decide(policy, skipped, now=2.0) == Step("email", 1, at(2.0))

    def test_a_channel_that_becomes_unreachable_between_attempts_is_skipped(self) -> None:
        failed = [tried("sms", 1, Outcome.FAILED)]
        decision = decide(policy_of(step_on("sms")), failed, unreachable={"sms": "opted out"})
        assert decision == Skip("sms", "opted out")

    def test_a_step_that_is_over_is_not_skipped_as_well(self) -> None:
        policy = policy_of(step_on("sms"), step_on("alert"))
        decision = decide(policy, [tried("sms")], unreachable={"sms": "opted out"})
        assert decision == Step("alert", 1, START)

    def test_quiet_hours_move_a_step_that_respects_them(self) -> None:
        policy = policy_of(step_on("email", respects=("quiet_hours",)))
        assert decide(policy, quiet_until=at(3600.0)) == Wait("email", at(3600.0))

    def test_quiet_hours_do_not_move_other_steps(self) -> None:
        assert decide(policy_of(step_on("email")), quiet_until=at(3600.0)) == Step(
            "email", 1, START
        )

    def test_quiet_hours_move_a_retry_too(self) -> None:
        policy = policy_of(step_on("email", respects=("quiet_hours",)))
        failed = [tried("email", 1, Outcome.FAILED)]
        decision = decide(policy, failed, now=20.0, quiet_until=at(3600.0))
        assert decision == Wait("email", at(3600.0))


class TestFollowersOfADigest:
    policy = policy_of(
        step_on("email", only=("agent_completed",), digest=DigestRule(window=30.0)),
        step_on("alert"),
    )
    last = 30.0 + DIGEST_GRACE

    def follow(self, attempts: Sequence[Attempt] = (), **options: Any) -> Decision:
        return decide(self.policy, attempts, event_type="agent_thinking", **options)

    def test_an_event_that_opens_the_step_does_not_wait(self) -> None:
        assert decide(self.policy) == Step("email", 1, START)

    def test_an_event_that_does_not_open_it_waits_for_a_digest_of_its_run(self) -> None:
        assert self.follow(now=1.0) == Wait("email", at(self.last))

    def test_it_waits_as_long_as_such_a_digest_is_pending(self) -> None:
        decision = self.follow(now=self.last, digest_due={"email": at(300.0)})
        assert decision == Wait("email", at(300.0 + DIGEST_GRACE))

    def test_without_one_it_is_skipped(self) -> None:
        assert self.follow(now=self.last) == Skip("email", "no digest of its run was sent")

    def test_having_been_a_member_it_goes_on(self) -> None:
        sent = [tried("email", 1, started=20.0, ended=21.0)]
        assert self.follow(sent, now=22.0) == Step("alert", 1, at(21.0))

    def test_after_a_failed_digest_it_waits_for_the_retry_and_never_opens_one(self) -> None:
        failed = [tried("email", 1, Outcome.FAILED, started=20.0, ended=21.0)]
        decision = self.follow(failed, now=200.0, digest_due={"email": at(220.0)})
        assert decision == Wait("email", at(220.0 + DIGEST_GRACE))
        assert self.follow(failed, now=200.0) == Step("alert", 1, at(21.0))

    def test_it_waits_through_quiet_hours_like_the_digest_does(self) -> None:
        step = step_on(
            "email",
            only=("agent_completed",),
            digest=DigestRule(window=30.0),
            respects=("quiet_hours",),
        )
        decision = decide(
            policy_of(step), event_type="agent_thinking", now=1.0, quiet_until=at(3600.0)
        )
        assert decision == Wait("email", at(3600.0 + self.last))

    def test_where_nothing_is_gathered_the_step_is_skipped_at_once(self) -> None:
        policy = policy_of(step_on("emergency", only=("agent_completed",), after=60.0))
        decision = decide(policy, event_type="agent_thinking")
        assert decision == Skip("emergency", "agent_thinking does not open emergency")


# --- whatever the history ---

backoffs = st.builds(
    lambda base, more, jitter: Backoff(base, base + more, jitter),
    st.floats(0, 30),
    st.floats(0, 300),
    st.floats(0, 1),
)
steps = st.builds(
    ChainStep,
    channel=st.sampled_from(CHANNELS),
    after=st.floats(0, 600),
    attempts=st.integers(1, 5),
    backoff=backoffs,
    digest=st.none() | st.builds(DigestRule, window=st.floats(0, 60)),
    only=st.sampled_from([(), ("agent_completed",)]),
    on_unknown=st.sampled_from(["retry", "once", "skip"]),
    respects=st.sampled_from([(), ("quiet_hours",), ("quiet_hours", "opt_out")]),
)
chains = st.lists(steps, max_size=7, unique_by=lambda step: step.channel)
outcomes = st.sampled_from([Outcome.DELIVERED, Outcome.FAILED, Outcome.UNKNOWN])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    chain=chains,
    event_type=st.sampled_from(["agent_completed", "agent_thinking"]),
    unreachable=st.sets(st.sampled_from(CHANNELS)),
    quiet=st.none() | st.floats(0, 10_000),
    data=st.data(),
)
def test_every_chain_ends_without_a_step_out_of_order_or_over_its_cap(
    chain: list[ChainStep],
    event_type: str,
    unreachable: set[str],
    quiet: float | None,
    data: st.DataObject,
) -> None:
    """Plays the executor: do what is decided, at the earliest instant, until it is over."""
    policy = policy_of(*chain)
    order = [step.channel for step in chain]
    clock = START
    attempts: list[Attempt] = []
    visited: list[str] = []
    draws = data.draw(st.lists(st.floats(0, 0.999), min_size=60, max_size=60))
    # Every step waits, is tried `attempts` times with a wait each, and may be skipped.
    for _ in range(sum(2 * step.attempts + 3 for step in chain) + 1):
        quiet_until = at(quiet) if quiet is not None and clock < at(quiet) else None
        progress = Progress(
            type=event_type,
            entered_at=START,
            attempts=tuple(attempts),
            unreachable=dict.fromkeys(unreachable, "no address"),
            quiet_until=quiet_until,
        )
        decision = next_step(progress, policy, clock, draws[len(attempts)])
        match decision:
            case Exhausted(alerted):
                assert alerted is policy.ends_in_alert
                break
            case Wait(channel, until):
                assert until > clock, "a wait must lie ahead"
                clock = until
            case Skip(channel, reason):
                assert reason
                number = sum(a.channel == channel for a in attempts) + 1
                attempts.append(_made(channel, number, Outcome.SKIPPED, clock))
            case Step(channel, number, due_at):
                step = policy.step(channel)
                assert step is not None
                assert number == sum(a.channel == channel for a in attempts) + 1
                assert number <= step.attempts, "a poison event is capped"
                assert due_at <= clock
                assert channel not in unreachable
                assert not step.only or event_type in step.only
                outcome = data.draw(outcomes)
                attempts.append(
                    _made(channel, number, outcome, clock, retryable=data.draw(st.booleans()))
                )
        visited.append(decision.step)
    else:
        pytest.fail("the chain does not end")
    assert [order.index(c) for c in visited] == sorted(order.index(c) for c in visited)
    for step in chain:
        unknown = [a for a in attempts if a.channel == step.channel and _is_unknown(a)]
        assert len(unknown) <= {"retry": step.attempts, "once": 2, "skip": 1}[step.on_unknown]
        assert any(a.channel == step.channel for a in attempts), "no step is left out silently"


def _is_unknown(attempt: Attempt) -> bool:
    return attempt.outcome is Outcome.UNKNOWN


def _made(
    channel: str, number: int, outcome: Outcome, clock: datetime, *, retryable: bool = True
) -> Attempt:
    return Attempt("e", 1, channel, number, outcome, clock, clock, retryable=retryable)


@given(
    chain=chains,
    seconds=st.floats(0, 5_000),
    draw=st.floats(0, 0.999),
    shuffled=st.randoms(use_true_random=False),
)
def test_a_decision_depends_on_what_was_tried_and_not_on_its_order(
    chain: list[ChainStep], seconds: float, draw: float, shuffled: Any
) -> None:
    attempts = [
        _made(step.channel, number, Outcome.FAILED, at(number))
        for step in chain
        for number in range(1, step.attempts)
    ]
    expected = decide(policy_of(*chain), attempts, now=seconds, draw=draw)
    shuffled.shuffle(attempts)
    assert decide(policy_of(*chain), attempts, now=seconds, draw=draw) == expected


def test_of_two_steps_with_one_channel_each_has_its_own_attempts() -> None:
    policy = policy_of(step_on("email", attempts=1), step_on("email", name="again", attempts=2))
    first = _made("email", 1, Outcome.FAILED, START)
    progress = Progress(type="x", entered_at=START, attempts=(first,))
    assert next_step(progress, policy, at(1), 0.0) == Step("again", 2, at(0))
    second = replace(_made("email", 2, Outcome.FAILED, at(1)), step="again")
    progress = replace(progress, attempts=(first, second))
    assert next_step(progress, policy, at(9_999), 0.0).number == 3  # type: ignore[union-attr]
    third = replace(_made("email", 3, Outcome.FAILED, at(2)), step="again")
    progress = replace(progress, attempts=(first, second, third))
    assert next_step(progress, policy, at(9_999), 0.0) == Exhausted(alerted=False)


def test_what_was_sent_under_a_name_that_is_gone_is_not_sent_again() -> None:
    sent = _made("email", 1, Outcome.DELIVERED, at(1))
    renamed = policy_of(step_on("email", name="mail"), step_on("email", name="again", after=60.0))
    progress = Progress(type="x", entered_at=START, attempts=(sent,))
    assert next_step(progress, renamed, at(2), 0.0) == Wait("again", at(61))
    reminder = replace(_made("email", 2, Outcome.DELIVERED, at(70)), step="reminder")
    progress = replace(progress, attempts=(sent, reminder))
    assert next_step(progress, policy_of(step_on("email")), at(80), 0.0) == Exhausted(alerted=False)
