"""The audit of every event against the ledger and against the clients' handlers.

Owns: the conditions for lost, handled twice and out of order, and how an event reached its user.
Figures come from the raw samples of all users. Never does: wait, or repair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from delivery.bench.faults.listeners import Listener, Sight
from delivery.bench.faults.producers import Sent
from delivery.domain.channels import Channel
from delivery.domain.lifecycle import ENDED, Attempt, Outcome, State
from delivery.domain.records import Stored
from delivery.domain.stores.ledger import Ledger

PAGE = 500
LATE = 1.0
"""Seconds to the handler after which an event counts as held up by the fault."""


@dataclass(frozen=True, slots=True)
class Window:
    """A fault, from its begin to its end; monotonic seconds."""

    what: str
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """Counts and times of one scenario's events.

    Attributes:
        accepted: durable by the service's answer; ``refused`` are the rest.
        live: handled on the connection that stood when they were emitted.
        replay: handled on a later connection.
        fallback: brought by a step of the chain: a resend, or a mail that confirms by itself.
        dead: unconfirmed at the end of their chain, operators alerted; ``waiting`` are still in it.
        lost: not in the ledger, or never handled by a user who came back.
        unconfirmed: handled, but not confirmed in the ledger.
        twice: given to a handler more than once.
        disordered: handled after a later event of their run, as the ledger orders it.
        to_handler_s: from the emission, waits for the service included; over all first sights of
            users whose clients behave.
        recover_s: from the end of a fault until no event was late any more; the longest. Where
            servers changed places, also until no gateway named an outage.
        settle_s: from the end of load and faults until the ledger had every confirmation.
    """

    accepted: int
    refused: int
    live: int
    replay: int
    fallback: int
    dead: int
    waiting: int
    lost: int
    unconfirmed: int
    twice: int
    disordered: int
    to_handler_s: Mapping[str, float]
    recover_s: float
    settle_s: float | None = None
    refusals: Mapping[str, int] = field(default_factory=dict)
    examples: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def is_good(self) -> bool:
        """Nothing lost, nothing handled twice."""
        return not (self.lost or self.twice or self.unconfirmed)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


class Audit:
    """The accepted events of a scenario, with their rows and the handlers' sights of them."""

    def __init__(
        self, ledger: Ledger, accepted: Sequence[Sent], listeners: Iterable[Listener]
    ) -> None:
        self._ledger = ledger
        self._accepted = accepted
        self._listeners = {listener.user_id: listener for listener in listeners}
        self._stored: dict[str, Stored] = {}

    def open_events(self) -> list[str]:
        """Ids of events that have not ended as they should; reads only these from the ledger.

        Raises:
            LedgerUnavailable: the ledger is away.
        """
        self._read([one.receipt.id for one in self._accepted if not self._is_over(one)])
        return [one.receipt.id for one in self._accepted if not self._is_over(one)]

    def _read(self, ids: Sequence[str]) -> None:
        for start in range(0, len(ids), PAGE):
            found = self._ledger.events.read(ids[start : start + PAGE])
            self._stored.update((stored.event.id, stored) for stored in found)

    def _is_over(self, one: Sent) -> bool:
        stored = self._stored.get(one.receipt.id)
        if stored is None:
            return False
        # The event of a user who comes back must be confirmed, even after an alert.
        ends = {State.CONFIRMED} if self._listeners[one.user_id].returns else ENDED
        return stored.state in ends

    def verdict(
        self, refusals: Sequence[str], windows: Sequence[Window], settle_s: float | None
    ) -> Verdict:
        """Judge the rows that were read last."""
        sights = {user: _by_event(one.sights) for user, one in self._listeners.items()}
        outcomes: Counter[str] = Counter()
        examples: dict[str, list[str]] = {}
        samples: list[tuple[float, float]] = []
        for one in self._accepted:
            seen = sights[one.user_id].get(one.receipt.id, [])
            if seen and not self._listeners[one.user_id].misbehaves:
                samples.append((one.at, seen[0].at))
            for outcome in self._outcomes(one, seen):
                outcomes[outcome] += 1
                if outcome not in ("live", "replay", "fallback", "dead"):
                    examples.setdefault(outcome, []).append(f"{one.user_id} {one.receipt.id}")
        return Verdict(
            accepted=len(self._accepted),
            refused=len(refusals),
            **{outcome: outcomes[outcome] for outcome in OUTCOMES},
            disordered=sum(self._disordered(one) for one in self._listeners.values()),
            to_handler_s=_shares([handled - at for at, handled in samples]),
            recover_s=_recovery(samples, windows),
            settle_s=settle_s,
            refusals=Counter(refusals),
            examples={outcome: found[:5] for outcome, found in examples.items()},
        )

    def _outcomes(self, one: Sent, seen: Sequence[Sight]) -> Iterable[str]:
        stored = self._stored.get(one.receipt.id)
        if len(seen) > 1:
            yield "twice"
        if stored is None:
            yield "lost"
        elif seen:
            yield "replay" if seen[0].connection != one.connection else self._standing(stored)
            if stored.state is not State.CONFIRMED:
                yield "unconfirmed"
        elif stored.state is State.CONFIRMED and self._by_message(one.receipt.id):
            yield "fallback"
        elif self._listeners[one.user_id].returns:
            yield "lost"
        else:
            yield "dead" if stored.state is State.DEAD else "waiting"

    def _standing(self, stored: Stored) -> str:
        """How an event came whose connection stood all the time."""
        if stored.handed_over_at is None:
            return "live"
        resent = any(
            one.channel == Channel.DIRECT and one.outcome in (Outcome.CONFIRMED, Outcome.DELIVERED)
            for one in self._attempts(stored.event.id)
        )
        return "fallback" if resent else "live"

    def _by_message(self, event_id: str) -> bool:
        timeline = self._ledger.events.get(event_id)
        return timeline is not None and any(
            c.channel == Channel.EMAIL for c in timeline.confirmations
        )

    def _attempts(self, event_id: str) -> Sequence[Attempt]:
        timeline = self._ledger.events.get(event_id)
        return () if timeline is None else timeline.attempts

    def _disordered(self, listener: Listener) -> int:
        """Count of events handled after a later one of their run."""
        last: dict[str, int] = {}
        count = 0
        for sights in _by_event(listener.sights).values():
            stored = self._stored.get(sights[0].event_id)
            if stored is None or stored.event.seq is None:
                continue
            run, seq = stored.event.run_id, stored.event.seq
            count += seq < last.get(run, 0)
            last[run] = max(seq, last.get(run, 0))
        return count


OUTCOMES = ("live", "replay", "fallback", "dead", "waiting", "lost", "unconfirmed", "twice")


def _by_event(sights: Sequence[Sight]) -> dict[str, list[Sight]]:
    """In order of the first sight."""
    found: dict[str, list[Sight]] = {}
    for sight in sights:
        found.setdefault(sight.event_id, []).append(sight)
    return found


def _shares(seconds: Sequence[float]) -> dict[str, float]:
    """The median, the 99th percentile and the longest of raw samples."""
    ordered = sorted(seconds)
    if not ordered:
        return {}
    last = len(ordered) - 1
    shares = {"p50": 0.50, "p99": 0.99, "max": 1.0}
    return {name: ordered[min(last, int(len(ordered) * at))] for name, at in shares.items()}


def _recovery(samples: Sequence[tuple[float, float]], windows: Sequence[Window]) -> float:
    """Longest time from the end of a fault until an event held up by it was handled."""
    ordered = sorted(windows, key=lambda window: window.begin)
    nexts = [window.begin - LATE for window in ordered[1:]] + [float("inf")]
    felt = [
        handled - window.end
        for window, until in zip(ordered, nexts, strict=False)
        for at, handled in samples
        if handled - at > LATE and window.begin - LATE <= at < until
    ]
    return max([0.0, *felt])
