"""A RabbitMQ that answers and takes no task: operators read why, until it takes one again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import kombu
import pytest

from delivery.domain.operators.outages import OutageKind
from delivery.tasks.broker.app import ALL_QUEUES, make_app, queue_name
from delivery.tasks.broker.relay import Relay
from tests import rabbitmq
from tests.servers import Server
from tests.waiting import until_blocking

pytestmark = pytest.mark.timeout(240)

QUEUE = queue_name("queue")
Control = Callable[..., None]


@pytest.fixture
def control(rabbitmq_server: Server) -> Iterator[Control]:
    """Runs ``rabbitmqctl``; the server is as it was afterwards."""

    def run(*words: str) -> None:
        rabbitmq.control(rabbitmq_server, *words)

    yield run
    for words in (
        ("set_vm_memory_high_watermark", "0.9"),
        ("set_disk_free_limit", "1MB"),
        ("change_password", "guest", "guest"),
        ("clear_user_limits", "guest", "all"),
        ("set_permissions", "-p", "/", "guest", ".*", ".*", ".*"),
    ):
        run(*words)


@pytest.fixture
def relay(rabbitmq_server: Server) -> Iterator[Relay]:
    made = Relay(make_app(rabbitmq_server.url, quorum_queues=True))
    made.start()
    yield made
    made.stop()


def sends(relay: Relay) -> None:
    sent = relay.sent

    def again() -> bool:
        if relay.backlog == 0:
            relay.publish("queue", ["id"])
        return relay.sent > sent

    until_blocking(again)


def says(relay: Relay) -> str:
    """The one outage of a broker that answers."""
    found = relay.outages()
    kinds = [one.kind for one in found]
    return found[0].text if kinds == [OutageKind.BROKER_REFUSES] else ""


CUT = ("close_all_connections", "a test")
RIGHTS = ("set_permissions", "-p", "/", "guest", "^$", "^$", "^$")


@pytest.mark.parametrize(
    ("breaks", "mends", "words"),
    [
        (
            [("set_vm_memory_high_watermark", "absolute", "1")],
            [("set_vm_memory_high_watermark", "0.9")],
            "its memory or its disk is nearly full",
        ),
        (
            [("set_disk_free_limit", "900000GB")],
            [("set_disk_free_limit", "1MB")],
            "its memory or its disk is nearly full",
        ),
        (
            [RIGHTS, CUT],  # a channel remembers a right while it is in use
            [("set_permissions", "-p", "/", "guest", ".*", ".*", ".*")],
            "does not permit this user",
        ),
        (
            [("clear_permissions", "-p", "/", "guest"), CUT],
            [("set_permissions", "-p", "/", "guest", ".*", ".*", ".*")],
            "does not permit this user",
        ),
        (
            [("change_password", "guest", "other"), CUT],
            [("change_password", "guest", "guest")],
            "refuses the user or the password",
        ),
        (
            [
                ("set_user_limits", "guest", '{"max-connections": 0}'),
                CUT,
            ],
            [("clear_user_limits", "guest", "max-connections")],
            "takes no more connections",
        ),
        (
            [("delete_vhost", "/")],
            [
                ("add_vhost", "/"),
                ("set_permissions", "-p", "/", "guest", ".*", ".*", ".*"),
            ],
            "does not have the virtual host",
        ),
    ],
    ids=["memory", "disk", "rights", "host's rights", "password", "connections", "virtual host"],
)
def test_a_refusal_is_named_until_it_is_mended(
    relay: Relay,
    control: Control,
    breaks: list[tuple[str, ...]],
    mends: list[tuple[str, ...]],
    words: str,
) -> None:
    sends(relay)
    for one in breaks:
        control(*one)

    def is_named() -> bool:
        if relay.backlog == 0 and not relay.outages():
            relay.publish("queue", ["id"])
        return words in says(relay)

    until_blocking(is_named)
    [since] = {one.since for one in relay.outages()}
    failed = relay.failed

    def is_tried_again() -> bool:
        if relay.backlog == 0:
            relay.publish("queue", ["id"])
        return relay.failed > failed

    until_blocking(is_tried_again)
    assert {one.since for one in relay.outages()} == {since}, "while it answers each question"
    for one in mends:
        control(*one)
    until_blocking(lambda: not relay.outages())
    sends(relay)


def test_a_queue_with_other_arguments_is_named(rabbitmq_server: Server) -> None:
    with kombu.Connection(rabbitmq_server.url, connect_timeout=2) as connection:
        connection.channel().queue_declare(QUEUE, durable=True, auto_delete=False)
    relay = Relay(make_app(rabbitmq_server.url, quorum_queues=True))
    relay.start()
    relay.publish("queue", ["id"])
    until_blocking(lambda: "DELIVERY_BROKER_QUORUM_QUEUES" in says(relay))
    rabbitmq.delete_queues(rabbitmq_server.url, ALL_QUEUES)
    until_blocking(lambda: not relay.outages())
    relay.stop()


def test_a_queue_that_is_full_is_named(rabbitmq_server: Server, control: Control) -> None:
    limits = '{"max-length": 1, "overflow": "reject-publish"}'
    control("set_policy", "full", "^delivery", limits, "--apply-to", "queues")
    relay = Relay(make_app(rabbitmq_server.url))
    relay.start()

    def is_named() -> bool:
        if relay.backlog == 0 and not relay.outages():
            relay.publish("queue", ["id"])
        return "a queue is full" in says(relay)

    until_blocking(is_named)
    control("clear_policy", "full")
    until_blocking(lambda: not relay.outages())
    relay.stop()


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("127.0.0.1:1", "nothing listens at its address"),
        ("no-such-host.invalid:5672", "its host's name is not found"),
    ],
)
@pytest.mark.parametrize("scheme", ["amqp", "redis"])
def test_a_broker_that_is_not_reached_says_why(scheme: str, place: str, words: str) -> None:
    relay = Relay(make_app(f"{scheme}://{place}/"))
    relay.start()
    until_blocking(relay.outages)
    [outage] = relay.outages()
    assert outage.kind is OutageKind.BROKER_AWAY
    assert words in outage.text
    assert place.partition(":")[0] not in outage.text, "everybody may read it"
    relay.stop()
