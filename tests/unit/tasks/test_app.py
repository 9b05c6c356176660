"""The Celery app: its limits, queues and schedule."""

from __future__ import annotations

from typing import Any

import pytest
from celery.worker.consumer import Consumer as CeleryConsumer
from kombu.utils.imports import symbol_by_name

from delivery.domain.policy import CHANNELS
from delivery.errors import ConfigError
from delivery.tasks.broker.app import (
    ALL_QUEUES,
    MAINTENANCE_QUEUE,
    check_limits,
    is_rabbitmq,
    make_app,
    queue_name,
    task_name,
    transport_options,
)
from delivery.tasks.broker.consumer import DELAYED_DELIVERY

GOOD: dict[str, Any] = {
    "soft_limit": 1.0,
    "hard_limit": 2.0,
    "visibility_timeout": 3.0,
    "lease": 4.0,
}


def test_limits_in_order_are_accepted() -> None:
    check_limits(**GOOD)


@pytest.mark.parametrize(
    ("changes", "lower", "higher"),
    [
        ({"soft_limit": 2.0}, "task_soft_limit", "task_hard_limit"),
        ({"hard_limit": 3.5}, "task_hard_limit", "broker_visibility_timeout"),
        ({"visibility_timeout": 4.0}, "broker_visibility_timeout", "claim_lease"),
    ],
)
def test_limits_out_of_order_are_refused(
    changes: dict[str, float], lower: str, higher: str
) -> None:
    with pytest.raises(ConfigError, match=rf"{lower} .* must be below {higher}"):
        make_app("memory://", **{**GOOD, **changes})


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="soft_limit must be over 0"):
        check_limits(**{**GOOD, "soft_limit": 0.0})


def test_a_message_stays_with_the_broker_until_the_work_is_done() -> None:
    conf = make_app("memory://").conf
    assert conf.task_acks_late
    assert conf.task_reject_on_worker_lost
    assert conf.worker_prefetch_multiplier == 1


def test_results_are_kept_nowhere_but_in_the_ledger() -> None:
    conf = make_app("memory://").conf
    assert conf.task_ignore_result
    assert conf.result_backend is None


def test_nothing_waits_for_a_broker_without_an_end() -> None:
    conf = make_app("redis://h").conf
    assert conf.broker_pool_acquire_timeout
    assert conf.task_publish_retry is False
    options = conf.broker_transport_options
    assert options["socket_connect_timeout"] <= 1.0
    # A worker's blocking read takes a second: a shorter timeout would break every idle read.
    assert 1.0 < options["socket_timeout"] <= 10.0


def test_a_publisher_gives_up_sooner_than_a_worker() -> None:
    assert transport_options("rediss://h", 9.0, socket_timeout=1.0)["socket_timeout"] == 1.0


def test_the_visibility_timeout_reaches_redis() -> None:
    app = make_app("redis://h", **GOOD)
    assert app.conf.broker_transport_options["visibility_timeout"] == 3.0


def test_rabbitmq_confirms_what_is_published() -> None:
    assert make_app("amqp://h").conf.broker_transport_options["confirm_publish"] is True


def test_the_embedded_broker_is_polled_often_enough() -> None:
    options = make_app("memory://").conf.broker_transport_options
    assert options["polling_interval"] == 0.02


def test_every_channel_has_a_queue_and_maintenance_has_one() -> None:
    app = make_app("memory://")
    assert {queue.name for queue in app.conf.task_queues} == set(ALL_QUEUES)
    assert len(ALL_QUEUES) == len(CHANNELS) + 1


def test_a_channels_task_goes_to_its_own_queue() -> None:
    router = make_app("memory://").amqp.router
    for channel in CHANNELS:
        assert router.route({}, task_name(channel))["queue"].name == queue_name(channel)


def test_quorum_queues_are_declared_when_asked_for() -> None:
    queues = make_app("amqp://h", quorum_queues=True).conf.task_queues
    assert {queue.queue_arguments["x-queue-type"] for queue in queues} == {"quorum"}
    assert all(queue.queue_arguments is None for queue in make_app("amqp://h").conf.task_queues)


def test_quorum_queues_need_rabbitmq() -> None:
    with pytest.raises(ConfigError, match="RabbitMQ"):
        make_app("redis://h", quorum_queues=True)


def test_beats_messages_do_not_pile_up_and_go_where_their_secrets_are() -> None:
    entries: dict[str, Any] = make_app("memory://").conf.beat_schedule
    every = {name: entry["schedule"].run_every.total_seconds() for name, entry in entries.items()}
    assert every["delivery.sweep"] == 1.0
    assert every["delivery.seal_audit"] == 1.0
    assert every["delivery.resolve_alerts"] == 15.0
    for name, entry in entries.items():
        # Their workers know the operators' receivers, and reach the application's endpoints.
        elsewhere = {
            "delivery.resolve_alerts": "delivery.alert",
            "delivery.send_webhooks": "delivery.emergency",
        }
        assert entry["options"]["queue"] == elsewhere.get(name, MAINTENANCE_QUEUE)
        assert every[name] <= entry["options"]["expires"]


def test_monitors_see_the_tasks() -> None:
    conf = make_app("memory://").conf
    assert conf.worker_send_task_events
    assert conf.task_send_sent_event


def test_workers_declare_no_queues_for_delayed_messages() -> None:
    app = make_app("amqp://h", quorum_queues=True)
    consumer = symbol_by_name(app.conf.worker_consumer)
    steps = consumer.Blueprint.default_steps
    celerys = CeleryConsumer.Blueprint.default_steps
    assert [step for step in celerys if step not in steps] == [DELAYED_DELIVERY]


def test_a_beat_message_may_be_tried_again() -> None:
    # Beat's one connection to RabbitMQ is renewed only inside a retry.
    for entry in make_app("amqp://h").conf.beat_schedule.values():
        assert entry["options"]["retry"] is True
        assert entry["options"]["retry_policy"]["max_retries"] == 1


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("amqp://h", True),
        ("AMQPS://h", True),
        ("pyamqp://h", True),
        ("redis://h", False),
        ("memory://", False),
    ],
)
def test_rabbitmq_is_known_by_its_url(url: str, expected: bool) -> None:
    assert is_rabbitmq(url) is expected
