"""The life of one event under any interleaving of acks, timeouts, crashes, duplicates and replays.

A machine over the pure domain: what a ledger and two workers would do with ``TRANSITIONS`` and
``next_step``, with every guard that the ledger has (the token, the state, the generation).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from delivery.domain.event import EventClass
from delivery.domain.fallback import Exhausted, Progress, Skip, Step, Wait, next_step
from delivery.domain.lifecycle import (
    ENDED,
    TRANSITIONS,
    Attempt,
    Cause,
    Outcome,
    State,
    transition,
)
from delivery.domain.policy import ChainStep, ClassPolicy

START = datetime(2026, 11, 1, tzinfo=UTC)
TTL = timedelta(hours=12)
OUTCOMES = (Outcome.DELIVERED, Outcome.FAILED, Outcome.UNKNOWN)
CHANNELS = ("database", "queue", "direct", "emergency", "email", "sms", "alert")
LEAVES_AN_END = {Cause.CONFIRMATION, Cause.REPLAY}
MOST_ROUNDS = 200

# An event that is confirmed has nothing more to tell, so that must not come too early.
RARELY = st.integers(0, 7).map(lambda number: number == 7)

steps = st.builds(
    ChainStep,
    channel=st.sampled_from(CHANNELS[:-1]),
    after=st.floats(0, 600),
    attempts=st.integers(1, 3),
    on_unknown=st.sampled_from(["retry", "once", "skip"]),
)


@st.composite
def policies(draw: st.DrawFn) -> ClassPolicy:
    chain = draw(st.lists(steps, min_size=1, max_size=4, unique_by=lambda step: step.channel))
    alert = [ChainStep("alert")] if draw(st.booleans()) else []
    return ClassPolicy(EventClass.CRITICAL, chain=(*chain, *alert))


@dataclass(frozen=True)
class Held:
    """What a worker was given: it may act on it late, or never."""

    token: int
    generation: int
    decision: Step | Wait | Skip | Exhausted


class Life(RuleBasedStateMachine):
    """One event."""

    @initialize(
        policy=policies(), unreachable=st.frozensets(st.sampled_from(CHANNELS[:-1]), max_size=2)
    )
    def accept(self, policy: ClassPolicy, unreachable: frozenset[str]) -> None:
        self.policy = policy
        self.unreachable = dict.fromkeys(unreachable, "no address")
        self.state = State.ACCEPTED
        self.generation, self.token = 1, 0
        self.now = self.entered_at = START
        self.expires_at = START + TTL
        self.attempts: list[Attempt] = []
        self.hands: list[Held] = []
        self.due_at = START

    def move(self, cause: Cause) -> None:
        """The only way to another state."""
        before, self.state = self.state, transition(self.state, cause)
        if before in ENDED and self.state is not before:
            assert cause in LEAVES_AN_END, f"{before} was left by {cause}"

    @property
    def mine(self) -> list[Attempt]:
        return [a for a in self.attempts if a.generation == self.generation]

    def decide(self) -> Step | Wait | Skip | Exhausted:
        progress = Progress("note", self.entered_at, self.mine, self.unreachable)
        return next_step(progress, self.policy, self.now, draw=0.5)

    @rule(really=RARELY)
    def ack(self, really: bool) -> None:
        if really:
            self.move(Cause.CONFIRMATION)

    @precondition(lambda self: (self.state, Cause.HAND_OVER) in TRANSITIONS)
    @rule()
    def time_out(self) -> None:
        self.move(Cause.HAND_OVER)
        self.entered_at = self.due_at = self.now

    @rule(seconds=st.sampled_from([1.0, 5.0, 130.0, 900.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        if self.now >= self.expires_at and (self.state, Cause.EXPIRE) in TRANSITIONS:
            self.move(Cause.EXPIRE)

    @precondition(lambda self: self.state is not State.CONFIRMED)
    @rule(really=RARELY)
    def replay(self, really: bool) -> None:
        if not (really or self.state in ENDED or self.state is State.PARKED):
            return
        self.move(Cause.REPLAY)
        self.generation += 1
        self.token += 1
        self.expires_at = self.now + TTL

    @precondition(lambda self: self.state is State.FALLING_BACK and len(self.hands) < 3)
    @rule()
    def claim(self) -> None:
        """A worker takes the event, though another may still hold it: that one has lost it."""
        self.token += 1
        self.attempts = [
            replace(a, outcome=Outcome.UNKNOWN, ended_at=self.now)
            if a.outcome is Outcome.STARTED
            else a
            for a in self.attempts
        ]
        self.hands.append(Held(self.token, self.generation, self.decide()))

    @precondition(lambda self: self.state is State.FALLING_BACK)
    @rule(outcome=st.sampled_from(OUTCOMES), retryable=st.booleans(), crash=st.booleans())
    def serve(self, outcome: Outcome, retryable: bool, crash: bool) -> None:
        """One worker does the next thing as soon as it is due, undisturbed."""
        self.hands.clear()
        self.claim()
        decision = self.hands[0].decision
        if isinstance(decision, Wait):
            self.let_time_pass((decision.until - self.now).total_seconds())
            if self.state is State.FALLING_BACK:
                self.claim()
        self.act(len(self.hands) - 1, outcome, retryable, crash)

    @precondition(lambda self: self.hands)
    @rule(
        which=st.integers(0, 2),
        outcome=st.sampled_from(OUTCOMES),
        retryable=st.booleans(),
        crash=st.booleans(),
    )
    def act(self, which: int, outcome: Outcome, retryable: bool, crash: bool) -> None:
        """A worker does what was decided, however long ago; the ledger lets it, or does not."""
        held = self.hands.pop(which % len(self.hands))
        if held.token != self.token or self.state is not State.FALLING_BACK:
            return
        match held.decision:
            case Step(channel, number, due_at):
                assert due_at <= self.now
                ended = None if crash else self.now
                made = Outcome.STARTED if crash else outcome
                self.record(
                    Attempt("e", self.generation, channel, number, made, self.now, ended, retryable)
                )
            case Skip(channel, reason):
                number = 1 + sum(a.channel == channel for a in self.mine)
                self.record(
                    Attempt(
                        "e",
                        self.generation,
                        channel,
                        number,
                        Outcome.SKIPPED,
                        self.now,
                        self.now,
                        error=reason,
                    )
                )
            case Wait(until=until):
                self.due_at = until
            case Exhausted(alerted):
                assert alerted is self.policy.ends_in_alert
                self.move(Cause.EXHAUSTED if alerted else Cause.PARK)

    def record(self, attempt: Attempt) -> None:
        assert self.state is State.FALLING_BACK
        before = [a for a in self.mine if a.channel == attempt.channel]
        step = self.policy.step(attempt.channel)
        assert step is not None
        assert attempt.number == len(before) + 1, "no number is used twice"
        if attempt.outcome is not Outcome.SKIPPED:
            assert len(before) < step.attempts, "a poison event is capped"
            done = [a for a in before if a.outcome is Outcome.DELIVERED]
            assert not done or attempt.channel == "direct", "what was delivered is not sent again"
            refused = [a for a in before if a.outcome is Outcome.FAILED and not a.retryable]
            assert not refused, "a refusal for good is final"
            doubts = sum(a.outcome in (Outcome.UNKNOWN, Outcome.STARTED) for a in before)
            allowed = {"retry": step.attempts, "once": 1, "skip": 0}[step.on_unknown]
            assert doubts <= allowed, "doubt is answered as the policy says"
        self.attempts.append(attempt)

    @invariant()
    def one_attempt_per_number(self) -> None:
        keys = [(a.generation, a.channel, a.number) for a in self.attempts]
        assert len(keys) == len(set(keys))

    def teardown(self) -> None:
        """Left alone, it reaches an end; without an ack, and though every attempt fails."""
        if not hasattr(self, "state"):
            return
        for _ in range(MOST_ROUNDS):
            if self.state in ENDED or self.state is State.PARKED:
                return
            if self.state is not State.FALLING_BACK:
                self.time_out()
            self.hands.clear()
            self.claim()
            decision = self.hands[0].decision
            if isinstance(decision, Wait):
                assert decision.until > self.now, "a wait lies ahead"
                self.let_time_pass((decision.until - self.now).total_seconds())
            if self.hands and self.state is State.FALLING_BACK:
                self.act(0, Outcome.FAILED, True, False)
        raise AssertionError(f"no end: {self.state}, {self.attempts}")


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, derandomize=True
)
