"""Celery over a real Redis: worker processes that hang and die, a broker that stops answering."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import uuid_utils

from delivery.domain.event import EventClass
from delivery.domain.lifecycle import State
from delivery.domain.policy import Priority, parse_policies
from delivery.ledger import SqlLedger, migrate
from delivery.tasks.broker.app import ALL_QUEUES, make_app, queue_name
from delivery.tasks.broker.queue_depths import depths
from delivery.tasks.broker.relay import Relay
from delivery.tasks.sweep import Sweeper
from delivery.testing import make_entry, make_event
from tests import servers
from tests.waiting import until_blocking

pytestmark = pytest.mark.timeout(120)

ROOT = Path(__file__).parents[2]
POLICIES = parse_policies({"class": {"critical": {"chain": [{"channel": "emergency"}]}}})


class Chain:
    """A ledger and a relay here, worker processes there, Redis between them."""

    def __init__(self, folder: Path, broker: str) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "CHAIN_BROKER": broker,
            "CHAIN_LEDGER": f"sqlite:///{folder / 'ledger.db'}",
            "CHAIN_FOLDER": str(folder),
        }
        migrate.upgrade(self.environment["CHAIN_LEDGER"])
        self.ledger = SqlLedger(self.environment["CHAIN_LEDGER"])
        self.relay = Relay(make_app(broker))
        self.sweeper = Sweeper(self.ledger, POLICIES, self.relay)
        self.be("kind")

    def be(self, temper: str) -> None:
        (self.folder / "temper").write_text(temper)

    @property
    def messages(self) -> list[str]:
        """Ids, as the provider took them."""
        file = self.folder / "messages"
        return file.read_text().split() if file.exists() else []

    @contextmanager
    def worker(self, pool: str = "prefork") -> Iterator[subprocess.Popen[bytes]]:
        command = [sys.executable, "-m", "celery", "-A", "tests.integration.celery_chain_app"]
        log = (self.folder / "worker.log").open("ab")
        process = subprocess.Popen(
            [*command, "worker", f"--pool={pool}", "-c", "1", "-Q", ",".join(ALL_QUEUES), "-E"],
            env=self.environment,
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5.0)
            log.close()

    def hand_over(self) -> str:
        event = make_event(
            id=str(uuid_utils.uuid7()),
            type="agent_completed",
            user_id="u",
            run_id="r",
            seq=None,
            at=datetime.now(UTC),
            event_class=EventClass.CRITICAL,
        )
        entry = make_entry(event, ack_timeout=5.0, ttl=3600.0, hand_over=True)
        self.ledger.recording.commit([entry])
        return event.id

    def tries(self, event_id: str) -> list[tuple[int, str]]:
        found = self.ledger.events.get(event_id)
        assert found is not None
        return [(a.number, a.outcome.value) for a in found.attempts if a.channel == "emergency"]

    def sweep_until_over(self, event_id: str) -> None:
        """Be the beat."""

        def over() -> bool:
            self.sweeper.sweep()
            found = self.ledger.events.get(event_id)
            assert found is not None
            return found.stored.state is State.PARKED

        until_blocking(over)

    def close(self) -> None:
        self.relay.stop()
        self.ledger.close()


@pytest.fixture
def chain(tmp_path: Path, redis_url: str) -> Iterator[Chain]:
    made = Chain(tmp_path, redis_url)
    made.relay.start()
    yield made
    made.close()


def test_a_worker_process_serves_what_the_relay_publishes(chain: Chain) -> None:
    with chain.worker():
        event_id = chain.hand_over()
        chain.sweep_until_over(event_id)
    assert chain.messages == [event_id]
    assert chain.tries(event_id) == [(1, "delivered")]


def test_the_soft_time_limit_ends_an_attempt_as_unknown(chain: Chain) -> None:
    chain.environment["CHAIN_ON_UNKNOWN"] = "skip"
    chain.be("hang")
    with chain.worker():
        event_id = chain.hand_over()
        chain.sweep_until_over(event_id)
    assert chain.messages == [event_id]
    assert chain.tries(event_id) == [(1, "unknown")]


def test_an_event_that_kills_its_worker_is_capped(chain: Chain) -> None:
    chain.be("die")
    with chain.worker() as process:
        event_id = chain.hand_over()
        chain.sweep_until_over(event_id)
        assert process.poll() is None, "the worker outlives its children"
    assert chain.messages == [event_id] * 2
    assert chain.tries(event_id) == [(1, "unknown"), (2, "unknown")]


def test_a_killed_worker_loses_nothing_and_sends_nothing_twice(chain: Chain) -> None:
    chain.environment["CHAIN_ON_UNKNOWN"] = "skip"
    chain.be("hang")
    with chain.worker() as process:
        caught = chain.hand_over()
        chain.sweeper.sweep()
        until_blocking(lambda: chain.messages == [caught])
        process.send_signal(signal.SIGKILL)
        process.wait(5.0)
    waiting = chain.hand_over()
    chain.be("kind")
    with chain.worker():
        chain.sweep_until_over(waiting)
        chain.sweep_until_over(caught)
    assert sorted(chain.messages) == sorted([caught, waiting])
    assert chain.tries(caught) == [(1, "unknown")]
    assert chain.tries(waiting) == [(1, "delivered")]


def test_losing_the_whole_broker_loses_nothing(tmp_path: Path) -> None:
    with servers.redis_server() as first:
        chain = Chain(tmp_path, first.url)
        chain.relay.start()
        event_id = chain.hand_over()
        chain.sweeper.sweep()
        until_blocking(lambda: chain.relay.sent == 1)
        chain.close()
    with servers.redis_server() as second:
        chain = Chain(tmp_path, second.url)
        chain.relay.start()
        with chain.worker():
            chain.sweep_until_over(event_id)
        chain.close()
    assert chain.messages == [event_id]


def test_a_broker_that_stops_answering_holds_up_no_publisher() -> None:
    with servers.redis_server() as server:
        relay = Relay(make_app(server.url))
        relay.start()
        relay.publish("queue", ["before"])
        until_blocking(lambda: relay.sent == 1)
        server.stop()
        began = time.monotonic()
        for number in range(100):
            relay.publish("queue", [f"id{number}"])
        assert time.monotonic() - began < 0.5
        until_blocking(lambda: relay.failed, 10.0)
        server.cont()

        def again() -> bool:
            relay.publish("queue", ["after"])
            return relay.sent > 1

        until_blocking(again, 20.0)
        relay.stop()


def test_stopping_does_not_wait_for_a_broker_that_is_away() -> None:
    relay = Relay(make_app(f"redis://127.0.0.1:{servers.free_port()}/0"))
    relay.start()
    for _ in range(50):
        relay.publish("queue", ["a"])
    began = time.monotonic()
    relay.stop(5.0)
    assert time.monotonic() - began < 4.0
    assert relay.sent == 0


def test_messages_of_high_priority_are_taken_first(redis_url: str) -> None:
    app = make_app(redis_url)
    relay = Relay(app)
    relay.start()
    queue = queue_name("email")
    try:
        for priority in (Priority.LOW, Priority.NORMAL, Priority.HIGH):
            relay.publish("email", [priority.value], priority)
            until_blocking(lambda: relay.sent == relay.published)
    finally:
        relay.stop()
    assert depths(app)[queue] == 3
    taken = []
    with app.connection_for_read() as connection:
        waiting = connection.SimpleQueue(queue)
        for _ in range(3):
            message = waiting.get(timeout=30.0)
            message.ack()
            taken += message.payload[0][0]
        waiting.close()
    assert taken == ["high", "normal", "low"]
