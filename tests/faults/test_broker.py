"""Celery's messages lost, doubled, late or never published: the ledger's due times make up for it.

A real Redis, real messages and the real tasks, taken from the queue by this process; that worker
processes do so, too, is told in ``tests/integration/test_celery_redis.py``.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from delivery.ledger import SqlLedger
from delivery.tasks.broker.app import make_app, queue_name, task_name
from delivery.tasks.broker.registration import register
from delivery.tasks.broker.relay import Relay
from delivery.tasks.sweep import Sweeper
from tests import servers
from tests.faults.chain import Advance, Chain, executor_of, opened, policies_of
from tests.servers import wait_until
from tests.unit.tasks.fakes import FakeChannel

CHANNEL = "emergency"
POLICIES = policies_of({"channel": CHANNEL}, ttl=1e7)


class World:
    """A ledger, a relay to a broker, and what takes messages from there."""

    def __init__(self, ledger: SqlLedger, broker: servers.Server, advance: Advance) -> None:
        self.broker = broker
        self.provider = FakeChannel(CHANNEL)
        self.chain = Chain(ledger, POLICIES, advance, {CHANNEL: self.provider})
        self.app = make_app(broker.url)
        executor = executor_of(ledger, POLICIES, {CHANNEL: self.provider})
        register(self.app, lambda: executor)
        self.relay = Relay(make_app(broker.url))
        self._sweeper = Sweeper(ledger, POLICIES, self.relay)
        self._advance = advance
        self._swept = 0.0

    def sweep(self) -> None:
        """Sweep past every pause between two publishes, and turn the clock back."""
        self._swept += 61.0
        self._advance(self._swept)
        self._sweeper.sweep()
        self._advance(-self._swept)

    def publish(self) -> None:
        """Sweep until a message waits in the queue."""

        def is_there() -> bool:
            self.sweep()
            return self.waiting > 0

        wait_until(is_there, "a message is published")

    @property
    def waiting(self) -> int:
        """Messages in the channel's queue."""
        with redis.Redis.from_url(self.broker.url) as client:
            return int(client.llen(queue_name(CHANNEL)))  # type: ignore[arg-type]

    def take(self) -> list[Any]:
        """Take one message from the queue; its arguments."""
        with self.app.connection_for_read() as connection:
            queue = connection.SimpleQueue(queue_name(CHANNEL))
            message = queue.get(timeout=5.0)
            message.ack()
            queue.close()
        assert message.headers["task"] == task_name(CHANNEL)
        arguments: list[Any] = message.payload[0]
        return arguments

    def run(self, arguments: list[Any]) -> None:
        """Do what a worker does with a message."""
        self.app.tasks[task_name(CHANNEL)].apply(args=arguments, throw=True)

    @property
    def sent(self) -> list[str]:
        """Ids, as the provider took them."""
        return [event.id for message in self.provider.messages for event in message.events]


@pytest.fixture
def world(sqlite_template: Path, tmp_path: Path, advance: Advance) -> Iterator[World]:
    shutil.copy(sqlite_template, tmp_path / "ledger.db")
    with (
        servers.redis_server(persistent=True) as broker,
        opened(f"sqlite:///{tmp_path / 'ledger.db'}") as ledger,
    ):
        made = World(ledger, broker, advance)
        made.chain.contact(push=("json://example.org",))
        made.relay.start()
        made.relay.publish(CHANNEL, ["warm"])  # the first one takes long
        wait_until(lambda: made.relay.sent, "the relay is connected")
        made.take()
        yield made
        made.relay.stop()


def test_a_message_that_comes_twice_or_late_has_one_effect(world: World) -> None:
    (event_id,) = world.chain.hand_over()
    world.publish()
    arguments = world.take()
    assert arguments == [[event_id]], "ids, never payloads"
    for _ in range(3):
        world.run(arguments)
    assert world.sent == [event_id]
    assert world.chain.tries(event_id) == [(CHANNEL, "delivered")]


def test_a_message_that_comes_after_the_ack_has_no_effect(world: World) -> None:
    (event_id,) = world.chain.hand_over()
    world.publish()
    world.chain.ack(event_id)
    world.run(world.take())
    assert (world.sent, world.chain.tries(event_id)) == ([], [])


def test_a_purged_queue_is_filled_again(world: World) -> None:
    (event_id,) = world.chain.hand_over()
    world.publish()
    with world.app.connection_for_write() as connection:
        world.app.control.purge(connection)
        assert world.waiting == 0
    world.publish()
    world.run(world.take())
    assert world.sent == [event_id]


def test_a_broker_that_is_down_at_the_hand_over_gets_the_step_once_it_is_back(
    world: World,
) -> None:
    world.broker.kill()
    (event_id,) = world.chain.hand_over()
    world.sweep()
    wait_until(lambda: world.relay.failed, "the publish has failed")
    assert world.chain.tries(event_id) == [], "which is no attempt"
    world.broker.restart()
    world.publish()
    world.run(world.take())
    assert world.sent == [event_id]
