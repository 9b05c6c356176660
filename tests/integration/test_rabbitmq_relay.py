"""Our publishers and RabbitMQ: confirms, the kind of queue, a broker that freezes and restarts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import kombu
import pytest
from amqp.exceptions import PreconditionFailed

from delivery.errors import ConfigError
from delivery.tasks.broker.app import make_app, queue_name
from delivery.tasks.broker.relay import Relay
from tests import rabbitmq
from tests.servers import Server, wait_until

pytestmark = pytest.mark.timeout(240)

QUEUE = queue_name("queue")


@pytest.fixture
def start_relay() -> Iterator[Callable[..., Relay]]:
    """Starts relays, which end with the test."""
    relays: list[Relay] = []

    def start(url: str, *, quorum_queues: bool = True) -> Relay:
        relay = Relay(make_app(url, quorum_queues=quorum_queues))
        relay.start()
        relays.append(relay)
        return relay

    yield start
    for relay in relays:
        relay.stop()


def declare(url: str, kind: str) -> None:
    """Declares our queue as the other kind; RabbitMQ refuses when it is of this one."""
    arguments = {"x-queue-type": kind} if kind == "quorum" else {}
    with kombu.Connection(url, connect_timeout=2) as connection:
        connection.channel().queue_declare(
            QUEUE, durable=True, auto_delete=False, arguments=arguments
        )


def test_what_the_relay_published_stands_in_a_replicated_queue(
    rabbitmq_url: str, start_relay: Callable[..., Relay]
) -> None:
    relay = start_relay(rabbitmq_url)
    relay.publish("queue", ["one"])
    wait_until(lambda: relay.sent == 1, "the broker confirmed it")
    assert rabbitmq.queue_depth(rabbitmq_url, QUEUE) == 1, "confirmed means: it is there"
    declare(rabbitmq_url, "quorum")
    with pytest.raises(PreconditionFailed, match="x-queue-type"):
        declare(rabbitmq_url, "classic")


def test_queues_are_plain_when_the_setting_says_so(
    rabbitmq_url: str, start_relay: Callable[..., Relay]
) -> None:
    relay = start_relay(rabbitmq_url, quorum_queues=False)
    relay.publish("queue", ["one"])
    wait_until(lambda: relay.sent == 1, "the broker confirmed it")
    declare(rabbitmq_url, "classic")


def test_replicated_queues_are_refused_for_another_broker() -> None:
    with pytest.raises(ConfigError, match="need RabbitMQ"):
        make_app("redis://127.0.0.1:1/0", quorum_queues=True)


def test_a_frozen_rabbitmq_holds_up_no_publisher_and_is_used_again(
    rabbitmq_server: Server, start_relay: Callable[..., Relay]
) -> None:
    relay = start_relay(rabbitmq_server.url)
    relay.publish("queue", ["before"])
    wait_until(lambda: relay.sent == 1, "it is up")
    rabbitmq_server.stop()
    try:
        began = time.monotonic()
        for number in range(100):
            relay.publish("queue", [f"id{number}"])
        assert time.monotonic() - began < 0.5, "publish() never waits for the broker"
        wait_until(lambda: relay.failed, "it gave up on the broker")
        assert time.monotonic() - began < 5.0
    finally:
        rabbitmq_server.cont()
    sent = relay.sent

    def again() -> bool:
        relay.publish("queue", ["after"])
        threading.Event().wait(0.1)
        return relay.sent > sent

    wait_until(again, "it publishes again", 30.0)


def test_what_was_confirmed_survives_a_restart_of_the_broker(
    rabbitmq_server: Server, start_relay: Callable[..., Relay]
) -> None:
    relay = start_relay(rabbitmq_server.url)
    for number in range(5):
        relay.publish("queue", [f"id{number}"])
        wait_until(lambda sent=number + 1: relay.sent == sent, "the broker confirmed it")
    rabbitmq_server.shut_down()
    relay.publish("queue", ["while it was away"])
    wait_until(lambda: relay.failed == 1, "a publish fails while it is away")
    rabbitmq_server.start()
    assert rabbitmq.queue_depth(rabbitmq_server.url, QUEUE) == 5
    relay.publish("queue", ["after"])
    wait_until(lambda: relay.sent == 6, "the relay found it again")
