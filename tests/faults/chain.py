"""The fallback chain in this process, on a real ledger and real transports, without a broker.

Owns: being sweeper, broker and clock, so that minutes of a chain take no time. Faults happen in
the servers behind the transports, or in a worker process that kills itself (``dying_worker``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from delivery.domain.lifecycle import Confirmation, State
from delivery.domain.policy import Policies, parse_policies
from delivery.domain.transports import Transport
from delivery.domain.users.contact import Contact
from delivery.ledger import SqlLedger
from delivery.tasks.executor import Executor, TimeLimits
from delivery.tasks.sweep import Alerter, Sweeper
from delivery.testing import make_entry
from delivery.transports.mail.email import EmailTransport
from delivery.transports.rendering.render import Renderer
from delivery.transports.sms import SmsTransport
from tests.unit.tasks.fakes import FakeAlerts, FakeGateways, FakeLinks, FakeQueue, make_event

Advance = Callable[[float], None]
LIMITS = TimeLimits(soft=20.0, hard=25.0, lease=60.0, mail=20.0)
"""Longer than anything takes that answers at all, on a busy machine too: a run sees the outcome."""
HURRIED = TimeLimits(soft=6.0, hard=8.0, lease=30.0, mail=3.0)
"""For providers that do not answer: each call of one takes three seconds."""
MOST_ROUNDS = 400


def policies_of(*chain: Mapping[str, Any], ttl: float = 3_600.0) -> Policies:
    """Critical events with this chain; every step tries at once and gathers nothing."""
    backoff = {"base": 0.0, "max": 0.0, "jitter": 0.0}
    steps = [
        {"digest": {"window": 0.0, "min_interval": 0.0}, **step}
        if step["channel"] in ("email", "sms")
        else dict(step)
        for step in chain
    ]
    table = {"ack_timeout": 1.0, "ttl": ttl, "backoff": backoff, "chain": steps}
    return parse_policies({"class": {"critical": table}})


def email_channel(port: int) -> EmailTransport:
    """The real one, to an SMTP server on this machine."""
    return EmailTransport(f"smtp://127.0.0.1:{port}?tls=none", "d@example.org", Renderer())


def sms_channel(url: str) -> SmsTransport:
    """The real one, to a Twilio-shaped server."""
    return SmsTransport(url, "AC" + "1" * 32, "only-for-tests", "+15005550006", Renderer())


def executor_of(
    ledger: SqlLedger,
    policies: Policies,
    channels: Mapping[str, Transport],
    *,
    alerts: FakeAlerts | None = None,
    queue: FakeQueue | None = None,
    limits: TimeLimits = LIMITS,
) -> Executor:
    """An executor whose users are connected nowhere."""
    gateways = FakeGateways()
    return Executor(
        ledger=ledger,
        policies=policies,
        transports=channels,
        alerts=alerts or FakeAlerts(),
        resend=gateways,
        queue_copy=gateways.copy,
        publish=queue or FakeQueue(),
        links=FakeLinks(),
        drain_spool=lambda: None,
        jitter=lambda: 0.5,
        limits=limits,
    )


class Chain:
    """One ledger with its chain.

    Args:
        wait: seconds that messages under way have for their end before time goes on; short where a
            server holds one back.
    """

    def __init__(
        self,
        ledger: SqlLedger,
        policies: Policies,
        advance: Advance,
        channels: Mapping[str, Transport],
        limits: TimeLimits = LIMITS,
        wait: float = 30.0,
    ) -> None:
        self.ledger = ledger
        self.advance = advance
        self.alerts = FakeAlerts()
        self._policies = policies
        self._wait = wait
        self._queue = FakeQueue()
        self._sweeper = Sweeper(ledger, policies, self._queue)
        self._alerter = Alerter(ledger, self.alerts)
        self._executor = executor_of(
            ledger, policies, channels, alerts=self.alerts, queue=self._queue, limits=limits
        )

    def hand_over(self, user: str = "ada", count: int = 1, run: str = "run") -> list[str]:
        """Accept events whose user is not connected."""
        events = [make_event(user, run) for _ in range(count)]
        ttl = self._policies.of(events[0].event_class).ttl
        self.ledger.recording.commit([make_entry(e, hand_over=True, ttl=ttl) for e in events])
        return [event.id for event in events]

    def contact(self, user: str = "ada", **fields: Any) -> None:
        """How a user is reached."""
        self.ledger.contacts.put(Contact(user, **fields))

    def turn(self) -> int:
        """Sweep, and run what that and its consequences publish; how many messages ran."""
        self._sweeper.sweep()
        ran = 0
        while self._queue.published:
            channel, ids = self._queue.published.pop(0)
            self._executor.run(channel, ids)
            self._executor.close(self._wait)
            ran += 1
        return ran

    def play(self, ids: Sequence[str], until: Callable[[], object] | None = None) -> None:
        """Let time pass until the condition is true, or no event of these is on its way."""
        for _ in range(MOST_ROUNDS):
            if until() if until else not self._moving(ids):
                return
            if not self.turn():
                self.advance(1.0)
        raise AssertionError(f"not over: {[self.tries(i) for i in ids]}")

    def look_at_alerts(self) -> None:
        """What beat does every few seconds."""
        self._alerter.run()

    def ack(self, event_id: str, user: str = "ada", device: str = "phone") -> None:
        """The user's confirmation."""
        confirmation = Confirmation(event_id, user, "websocket", device, "connection")
        self.ledger.confirmations.confirm([confirmation])

    def state(self, event_id: str) -> State:
        """Where the event stands."""
        found = self.ledger.events.get(event_id)
        assert found is not None
        return found.stored.state

    def tries(self, event_id: str, channel: str | None = None) -> list[tuple[str, str]]:
        """Channel and outcome of each attempt of the chain, oldest first."""
        found = self.ledger.events.get(event_id)
        assert found is not None
        return [
            (a.channel, a.outcome.value)
            for a in found.attempts
            if a.channel == channel or (channel is None and a.channel != "websocket")
        ]

    def _moving(self, ids: Sequence[str]) -> bool:
        still = (State.ACCEPTED, State.SENT, State.FALLING_BACK)
        return any(self.state(event_id) in still for event_id in ids)


@contextmanager
def opened(url: str) -> Iterator[SqlLedger]:
    """A ledger for as long as the block lasts."""
    ledger = SqlLedger(url, pool_size=2)
    try:
        yield ledger
    finally:
        ledger.close()
