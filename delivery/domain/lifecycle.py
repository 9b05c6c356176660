"""The life of an event: its states, the one table of transitions, attempts and confirmations.

Owns: which state may follow which, and by which cause. The ledger enforces it; the docs draw it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime

import msgspec

from delivery.errors import IllegalTransition


class State(enum.StrEnum):
    """Where an event stands."""

    ACCEPTED = "accepted"
    SENT = "sent"
    FALLING_BACK = "falling_back"
    CONFIRMED = "confirmed"
    PARKED = "parked"
    DEAD = "dead"
    EXPIRED = "expired"

    @property
    def is_unconfirmed(self) -> bool:
        """Whether the feed of a connecting client includes the event."""
        return self in UNCONFIRMED


OPEN = frozenset({State.ACCEPTED, State.SENT, State.FALLING_BACK, State.PARKED})
UNCONFIRMED = OPEN | {State.DEAD}
ENDED = frozenset({State.CONFIRMED, State.DEAD, State.EXPIRED})


class Cause(enum.StrEnum):
    """What moves an event from one state to another."""

    CONFIRMATION = "confirmation"  # an ack, a link, a receipt
    HAND_OVER = "hand_over"  # not acknowledged in time, nack, no connection
    EXHAUSTED = "exhausted"  # the chain ended with its alert
    PARK = "park"  # the chain ended without an alert
    EXPIRE = "expire"  # time to live over
    REPLAY = "replay"  # an operator, or a replay by filter


TRANSITIONS: dict[tuple[State, Cause], State] = {
    (State.ACCEPTED, Cause.CONFIRMATION): State.CONFIRMED,
    (State.ACCEPTED, Cause.HAND_OVER): State.FALLING_BACK,
    (State.ACCEPTED, Cause.EXPIRE): State.EXPIRED,
    (State.ACCEPTED, Cause.REPLAY): State.ACCEPTED,
    (State.SENT, Cause.CONFIRMATION): State.CONFIRMED,
    (State.SENT, Cause.HAND_OVER): State.FALLING_BACK,
    (State.SENT, Cause.EXPIRE): State.EXPIRED,
    (State.SENT, Cause.REPLAY): State.ACCEPTED,
    (State.FALLING_BACK, Cause.CONFIRMATION): State.CONFIRMED,
    (State.FALLING_BACK, Cause.EXHAUSTED): State.DEAD,
    (State.FALLING_BACK, Cause.PARK): State.PARKED,
    (State.FALLING_BACK, Cause.EXPIRE): State.EXPIRED,
    (State.FALLING_BACK, Cause.REPLAY): State.ACCEPTED,
    (State.PARKED, Cause.CONFIRMATION): State.CONFIRMED,
    (State.PARKED, Cause.EXPIRE): State.EXPIRED,
    (State.PARKED, Cause.REPLAY): State.ACCEPTED,
    (State.DEAD, Cause.CONFIRMATION): State.CONFIRMED,
    (State.DEAD, Cause.REPLAY): State.ACCEPTED,
    (State.CONFIRMED, Cause.CONFIRMATION): State.CONFIRMED,  # a second device: one more row
    (State.EXPIRED, Cause.CONFIRMATION): State.EXPIRED,  # recorded; the state stays
    (State.EXPIRED, Cause.REPLAY): State.ACCEPTED,
}


def transition(state: State, cause: Cause) -> State:
    """The state after ``cause``.

    Raises:
        IllegalTransition: the table has no such edge.
    """
    try:
        return TRANSITIONS[state, cause]
    except KeyError:
        raise IllegalTransition(f"no transition from {state} by {cause}") from None


def sources(cause: Cause) -> frozenset[State]:
    """The states with a transition by ``cause``; what a conditional update may match."""
    return frozenset(state for state, known in TRANSITIONS if known is cause)


class Outcome(enum.StrEnum):
    """How an attempt stands or ended."""

    STARTED = "started"
    DELIVERED = "delivered"
    CONFIRMED = "confirmed"
    FAILED = "failed"
    SKIPPED = "skipped"
    UNKNOWN = "unknown"


LOST_WORKER = "the worker was lost"
"""The error of an attempt that its worker did not end, and whose outcome is unknown."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of one step for one event, as the ledger has it.

    Attributes:
        channel: ``websocket`` for the fast path, else the step's channel.
        number: 1-based within (event, generation, channel).
        retryable: for ``failed``: whether another attempt may succeed.
        started_at: aware UTC.
        ended_at: aware UTC; ``None`` while the attempt runs.
        retry_after: seconds that the provider asked to wait, if it did.
        receipt: the status by which the provider reported afterwards that the message failed.
        step: the step's name where it is not its channel's.
        provider: which of the step's providers did it, where the step names them.
    """

    event_id: str
    generation: int
    channel: str
    number: int
    outcome: Outcome
    started_at: datetime
    ended_at: datetime | None = None
    retryable: bool = True
    error: str | None = None
    provider_id: str | None = None
    digest_id: str | None = None
    retry_after: float | None = None
    receipt: str | None = None
    step: str | None = None
    provider: str | None = None

    @property
    def step_name(self) -> str:
        """The name of the step that it was made for."""
        return self.step or self.channel


class Confirmation(msgspec.Struct, frozen=True, gc=False):
    """One confirmation that an event reached its user.

    Attributes:
        channel: over what it was confirmed: ``websocket``, ``sse``, ``http``, ``email``, ``sms`` …
        by: who confirmed it: a user id, a device, a provider.
        evidence: a name that can be looked up: a connection id, a link's token id, a receipt id.
    """

    event_id: str
    user_id: str
    channel: str
    by: str
    evidence: str
