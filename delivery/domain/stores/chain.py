"""Stores of the fallback chain: leases of events, digests and alerts, copies, breakers, nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from delivery.domain.event import Event, EventClass
from delivery.domain.health import Breaker
from delivery.domain.operators.figures import AlertGroup, Condition, NodeInfo
from delivery.domain.records import (
    Claim,
    Digest,
    DigestClaim,
    HandedOn,
    Lane,
    NextTurns,
    Result,
    Swept,
)


class ChainStore(Protocol):
    """Keeps due times, claims and attempts of the fallback chain."""

    def sweep(
        self, limit: int = 500, *, ack_timeout: Callable[[EventClass], float] = lambda _: 5.0
    ) -> Swept:
        """Take one page of due events.

        Args:
            ack_timeout: seconds for the acknowledgement of an event that was held back until now.

        Effect: events past their ack timeout become ``falling_back``, expired ones end, and each
        due time moves 5 s ahead, doubling up to 60 s, so that a lost message is published again.
        Concurrent sweeps take different events: on PostgreSQL by ``FOR UPDATE SKIP LOCKED``.
        What is over its user's share of a queue waits until ``next_turns``.
        """

    def next_turns(self, limit: int = 500, after: Lane | None = None) -> NextTurns:
        """Take one page of events whose turn has come.

        Args:
            after: of the page before.

        Effect: as for the events of a sweep.
        """

    def oldest_overdue(self) -> float:
        """Age in seconds of the oldest due time that no sweep has taken; 0.0 if none."""

    def claim(self, ids: Sequence[str], lease: float) -> list[Claim]:
        """Claim events that are ``falling_back`` and unclaimed, for ``lease`` seconds.

        Effect: unfinished attempts under an older token become ``unknown``; expired events end.
        """

    def begin_all(
        self, starts: Sequence[tuple[Claim, int]], channel: str, steps: Mapping[str, str] = ...
    ) -> list[bool]:
        """Write ``started`` attempts with these numbers, before their side effect; ``False`` for an
        event that is no longer ``falling_back`` under this token (confirmed, or the claim was
        lost).

        Args:
            steps: event id -> name of its step, where that is not the channel's.
        """

    def end_all(
        self, starts: Sequence[tuple[Claim, int]], channel: str, result: Result
    ) -> list[bool]:
        """End begun attempts with one result; ``False`` (nothing written) on a stale token."""

    def skip_all(self, skips: Sequence[tuple[Claim, str, str, str | None]]) -> list[bool]:
        """Record ``skipped`` attempts by channel, reason and (where it is not the channel's) name
        of the step; ``False`` if the claim was lost."""

    def move_all(self, moves: Sequence[tuple[Claim, str, datetime]]) -> list[bool]:
        """Release the claims, with each event's next step and due time; ``False`` if the claim
        was lost."""

    def hand_on_all(self, hand_ons: Sequence[tuple[Claim, str]], pause: float) -> list[HandedOn]:
        """Release the claims for other workers, which are told now: each event stands on its next
        channel, due after ``pause`` seconds, for the message may be lost. What is over its user's
        share of that channel's queue waits until ``next_turns``."""

    def finish_all(self, finishes: Sequence[tuple[Claim, bool]]) -> list[bool]:
        """End the chains: ``dead`` where operators were alerted, else ``parked``; ``False`` if the
        claim was lost."""


class DigestStore(Protocol):
    """Keeps digests: one message for several events of a user."""

    def join(
        self,
        claim: Claim,
        channel: str,
        *,
        by: Sequence[str],
        window: float,
        min_interval: float,
        step: str | None = None,
    ) -> Digest:
        """Put an event into the open digest of its user (and run); opens one if there is none.

        Args:
            by: whether digests are per user, or per user and run.
            window: seconds until a new digest is due.
            min_interval: seconds between two messages to a user; 0 for no limit. With a limit an
                event of another run joins the user's open digest, whose ``run_id`` becomes
                ``None``, and a digest within the interval after a message is due at its end.
            step: the name of the step that sends it, where it is not the channel's.
        """

    def claim(
        self,
        digest_id: str,
        lease: float,
        *,
        classes: Sequence[str] = (),
        unknown_limit: int | None = None,
        refusable: Sequence[str] = (),
    ) -> DigestClaim | None:
        """Claim an open, due digest and read its members: the unconfirmed, unexpired open events of
        the runs that joined it, whose attempt on this channel was not delivered in this generation.

        Args:
            classes: classes of members that did not join by themselves; empty for any.
            unknown_limit: leaves out events with more attempts of unknown outcome on this channel.
            refusable: classes whose events are left out where the user refuses them here.

        Returns:
            ``None`` if the digest is claimed, done, not yet due, or has nothing left to send (then
            it is closed).

        Effect: one ``started`` attempt per member; attempts that a dead worker left ``started``
        become ``unknown`` first.
        """

    def end(self, claim: DigestClaim, result: Result, *, retry_in: float | None) -> bool:
        """End every member's attempt with one result. The digest is due again in ``retry_in``
        seconds; ``None`` closes it."""

    def count_message(
        self, user_id: str, channel: str, *, most: int, period: float
    ) -> datetime | None:
        """Count a message to a user on a channel without digests, which is to be sent now.

        Returns:
            ``None`` if it may be sent. If ``most`` were counted within ``period`` seconds, this one
            is not: the instant from which on one may be sent.
        """

    def get(self, digest_id: str) -> tuple[Digest, tuple[str, ...]] | None:
        """A digest and the ids that its message listed."""


class AlertStore(Protocol):
    """Keeps alert groups."""

    def fire(
        self, event_class: EventClass, claims: Sequence[Claim], faults: Sequence[str] = ()
    ) -> AlertGroup:
        """Put events into the firing alert group of their class; opens one if there is none.

        Args:
            faults: errors of ours for which some of the events left their chain.
        """

    def watch(self, conditions: Sequence[Condition]) -> None:
        """Set the conditions of the one group without a class, all that are out of their limit now.
        A condition that is new to a firing group makes it unnotified again."""

    def notified(self, group_id: str) -> None:
        """Note that operators were notified now."""

    def firing(self) -> list[AlertGroup]:
        """Firing groups with their present counts; ``count`` 0 means that a group is over."""

    def resolve(self, group_id: str) -> None: ...


class BreakerStore(Protocol):
    """Keeps breakers of external channels, shared by all workers; times are epoch seconds."""

    def get(self, name: str) -> Breaker: ...
    def allows(self, name: str, *, probe: bool = True) -> bool:
        """Whether a call may pass now. The answer may be one second old; ``True`` when the ledger
        is away.

        Args:
            probe: whether the call may be the probe of an open breaker, which becomes half open.
        """

    def report(self, name: str, ok: bool) -> Breaker: ...
    def all(self) -> dict[str, Breaker]: ...


class ProviderRateStore(Protocol):
    """Keeps the rates of providers, shared by all workers."""

    def take(self, name: str, rate: float) -> float:
        """Take room for one message.

        Args:
            rate: messages per second; a second's messages may go at once.

        Returns:
            0.0 if there is room; else the seconds until there is.
        """


class QueueCopyStore(Protocol):
    """The ``queue`` channel's copies of events: in Redis, or in the ledger where there is none."""

    def put(self, events: Sequence[Event]) -> None: ...
    def read(self, user_id: str, limit: int = 1_000) -> list[Event]: ...
    def trim(self, max_age: float) -> int: ...
    def forget(self, user_id: str) -> None:
        """Delete all copies of a user."""


class NodeStore(Protocol):
    """Keeps heartbeats of processes, for display."""

    def beat(self, node: str, kind: str, connections: int, info: Mapping[str, Any]) -> None: ...
    def all(self, max_age: float = 60.0) -> list[NodeInfo]: ...
    def leave(self, node: str) -> None: ...
