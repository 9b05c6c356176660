"""The chain for real: SQLite ledger, memory broker, embedded worker and beat, relay."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import uuid_utils
from celery import Celery

from delivery.domain.event import EventClass
from delivery.domain.lifecycle import Confirmation, State
from delivery.domain.operators.figures import AlertGroup
from delivery.domain.policy import Policies, parse_policies
from delivery.domain.records import Timeline
from delivery.domain.transports import Message, Taken
from delivery.domain.users.contact import Contact
from delivery.errors import ChannelUnavailable
from delivery.ledger import SqlLedger, migrate
from delivery.tasks.broker.app import make_app
from delivery.tasks.broker.embedded import EmbeddedWorker
from delivery.tasks.broker.registration import Maintenance, register, register_maintenance
from delivery.tasks.broker.relay import Relay
from delivery.tasks.executor import Executor, TimeLimits
from delivery.tasks.sweep import Alerter, Sweeper
from delivery.testing import make_entry, make_event
from tests.waiting import until_blocking

pytestmark = pytest.mark.timeout(120)

QUICK = {"base": 0.05, "max": 0.05, "jitter": 0.0}
DIGEST = {"by": ["user_id", "run_id"], "window": 0.2, "min_interval": 0.0}
CHAIN: list[dict[str, Any]] = [
    {"channel": "database"},
    {"channel": "queue"},
    {"channel": "direct", "attempts": 2},
    {"channel": "emergency"},
    {"channel": "email", "digest": DIGEST},
    {"channel": "sms", "digest": DIGEST},
    {"channel": "alert"},
]


def policies_of(chain: Sequence[dict[str, Any]]) -> Policies:
    critical = {"ack_timeout": 0.2, "backoff": QUICK, "chain": list(chain)}
    return parse_policies({"class": {"critical": critical}}, source="test")


class Outbox:
    """A last-mile channel whose messages can be read."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.messages: list[Message] = []
        self.faults: list[Exception] = []

    def unreachable(self, contact: Contact) -> str | None:
        return None

    def deliver(self, message: Message, timeout: float) -> Taken:
        self.messages.append(message)
        if self.faults:
            raise self.faults.pop(0)
        return Taken(uuid.uuid4().hex)


class World:
    """Everything `bootstrap` would wire for one process, on a chain without long waits."""

    def __init__(self, directory: Path, chain: Sequence[dict[str, Any]] = CHAIN) -> None:
        url = f"sqlite:///{directory / 'ledger.db'}"
        migrate.upgrade(url)
        self.ledger = SqlLedger(url)
        self.policies = policies_of(chain)
        self.app: Celery = make_app("memory://")
        self.relay = Relay(self.app)
        self.boxes = {name: Outbox(name) for name in ("emergency", "email", "sms")}
        self.alerts: list[tuple[AlertGroup, bool]] = []
        self.resolved: list[str] = []
        executor = Executor(
            ledger=self.ledger,
            policies=self.policies,
            transports=self.boxes,
            alerts=self,
            resend=self,
            queue_copy=self.ledger.queue_copies.put,
            publish=self.relay,
            links=self,
            drain_spool=lambda: None,
            jitter=lambda: 0.5,
            limits=TimeLimits(),
        )
        maintenance = Maintenance(
            Sweeper(self.ledger, self.policies, self.relay),
            Alerter(self.ledger, self),
            self.ledger.audit.seal,
            self.ledger.queue_copies.trim,
        )
        register(self.app, lambda: executor)
        register_maintenance(self.app, lambda: maintenance)
        self.worker = EmbeddedWorker(self.app)

    def start(self) -> None:
        self.relay.start()
        self.worker.start()

    def stop(self) -> None:
        self.worker.stop()
        self.relay.stop()
        self.ledger.close()

    def accept(
        self, count: int = 1, *, user_id: str = "u", event_class: str = "critical"
    ) -> list[str]:
        """Record events that are not acknowledged."""
        events = [
            make_event(
                id=str(uuid_utils.uuid7()),
                type="agent_completed" if event_class == "critical" else "report_ready",
                user_id=user_id,
                run_id="r",
                seq=None,
                at=datetime.now(UTC),
                event_class=EventClass(event_class),
            )
            for _ in range(count)
        ]
        self.ledger.contacts.put(Contact(user_id, email="u@example.org", phone="+491701234567"))
        self.ledger.recording.commit(
            [make_entry(e, ack_timeout=0.1, ttl=3600.0, sent=True) for e in events]
        )
        return [event.id for event in events]

    def timeline(self, event_id: str) -> Timeline:
        found = self.ledger.events.get(event_id)
        assert found is not None
        return found

    def all_are(self, ids: Sequence[str], state: State) -> bool:
        return all(self.timeline(event_id).stored.state is state for event_id in ids)

    # The gateways, the operators and the links:

    def resend(self, user_id: str, event_ids: Sequence[str], timeout: float) -> int:
        return 0

    def wake(self, user_ids: Sequence[str]) -> None:
        pass

    has_receiver = True

    def fire(self, group: AlertGroup, *, first: bool, timeout: float) -> Taken:
        self.alerts.append((group, first))
        return Taken()

    def resolve(self, group: AlertGroup, timeout: float, *, ended_at: datetime) -> None:
        self.resolved.append(group.id)

    def short_url(self, digest_id: str) -> str:
        return f"https://x/c/{digest_id}"

    def confirm_url(self, digest_id: str) -> str:
        return f"https://x/confirm/{digest_id}"

    def unsubscribe_url(self, user_id: str, channel: str) -> str:
        return f"https://x/unsubscribe/{user_id}/{channel}"

    def verify_url(self, user_id: str, channel: str, address: str) -> str:
        return f"https://x/verify/{user_id}/{channel}"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def test_an_unconfirmed_event_goes_down_the_chain_to_the_operators(world: World) -> None:
    [event_id] = world.accept()
    until_blocking(lambda: world.all_are([event_id], State.DEAD))
    tried = [
        (a.channel, a.number, a.outcome.value)
        for a in world.timeline(event_id).attempts
        if a.channel != "websocket"
    ]
    assert tried == [
        ("database", 1, "delivered"),
        ("queue", 1, "delivered"),
        ("direct", 1, "failed"),
        ("direct", 2, "failed"),
        ("emergency", 1, "delivered"),
        ("email", 1, "delivered"),
        ("sms", 1, "delivered"),
        ("alert", 1, "delivered"),
    ]
    assert [event.id for event in world.ledger.queue_copies.read("u")] == [event_id]


def test_forty_events_are_one_mail_one_sms_and_one_notice_to_operators(world: World) -> None:
    ids = world.accept(40)
    until_blocking(lambda: world.all_are(ids, State.DEAD))
    for name in ("email", "sms"):
        [message] = world.boxes[name].messages
        assert {event.id for event in message.events} == set(ids)
    assert [first for _, first in world.alerts].count(True) == 1


def test_a_mail_server_that_fails_once_gets_the_same_message_again(world: World) -> None:
    world.boxes["email"].faults = [ChannelUnavailable("421 later")]
    [event_id] = world.accept()
    until_blocking(lambda: world.all_are([event_id], State.DEAD))
    first, second = world.boxes["email"].messages
    assert first.key == second.key
    assert (first.number, second.number) == (1, 2)


def test_a_class_without_a_chain_parks(world: World) -> None:
    ids = world.accept(event_class="standard")
    until_blocking(lambda: world.all_are(ids, State.PARKED))


def test_an_ack_cancels_the_pending_email(tmp_path: Path) -> None:
    waiting = {**CHAIN[4], "digest": {**DIGEST, "window": 3.0}}
    world = World(tmp_path, [CHAIN[0], waiting])
    try:
        world.start()
        [event_id] = world.accept()
        until_blocking(lambda: world.timeline(event_id).stored.digest_id)
        world.ledger.confirmations.confirm([Confirmation(event_id, "u", "websocket", "u", "c1")])
        other = world.accept(user_id="other")  # its mail is due later than the cancelled one
        until_blocking(lambda: world.boxes["email"].messages)
        assert {m.user_id for m in world.boxes["email"].messages} == {"other"}
        until_blocking(lambda: world.all_are(other, State.PARKED))
        assert world.timeline(event_id).stored.state is State.CONFIRMED
    finally:
        world.stop()


def test_what_the_broker_lost_is_published_again(tmp_path: Path) -> None:
    world = World(tmp_path, CHAIN[:2])
    published: list[str] = []
    send = world.relay._send_task

    def lose_the_first(channel: str, ids: Sequence[str], priority: object = None) -> None:
        published.append(channel)
        if len(published) > 1:
            send(channel, ids)

    world.relay._send_task = lose_the_first  # type: ignore[method-assign]
    try:
        world.start()
        ids = world.accept()
        until_blocking(lambda: world.all_are(ids, State.PARKED))
        assert published[:2] == ["database", "database"]
    finally:
        world.stop()


def test_an_alert_is_resolved_when_its_event_is_confirmed_after_all(world: World) -> None:
    [event_id] = world.accept()
    until_blocking(lambda: world.all_are([event_id], State.DEAD))
    world.ledger.confirmations.confirm([Confirmation(event_id, "u", "websocket", "u", "c1")])
    until_blocking(lambda: not world.ledger.alerts.firing())
    assert len(world.resolved) == 1


def test_the_worker_can_be_stopped_and_started_again(world: World) -> None:
    world.worker.stop()
    assert not world.worker.is_running
    world.worker.start()
    ids = world.accept()
    until_blocking(lambda: world.all_are(ids, State.DEAD))


def test_the_worker_starts_once(world: World) -> None:
    with pytest.raises(RuntimeError, match="already"):
        world.worker.start()
