"""The Celery app: queues, limits, beat schedule.

Owns: every Celery setting and the checks on their order. Never does: run a step, read settings,
keep results (the ledger has them).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from celery import Celery
from celery.schedules import schedule
from kombu import Exchange, Queue

from delivery.domain.channels import EXTERNAL, Channel
from delivery.domain.policy import CHANNELS
from delivery.errors import ConfigError
from delivery.tasks.broker.redis_broker import (
    Amqp,
    broker_settings,
    is_redis,
    sentinel_transport_options,
)

MAINTENANCE_QUEUE = "delivery.maintenance"
SWEEP = "delivery.sweep"
SEAL_AUDIT = "delivery.seal_audit"
RESOLVE_ALERTS = "delivery.resolve_alerts"
TRIM_MAILBOX = "delivery.trim_mailbox"
SEND_CHECKPOINT = "delivery.send_checkpoint"
SEND_WEBHOOKS = "delivery.send_webhooks"

SWEEP_INTERVAL = 1.0
SEAL_INTERVAL = 1.0
ALERT_INTERVAL = 15.0
TRIM_INTERVAL = 300.0
CHECKPOINT_INTERVAL = 60.0
WEBHOOK_INTERVAL = 60.0
"""Seconds; while an endpoint is on, each sweep publishes the task too. Where no worker serves its
queue, messages of beat would pile up there for nothing."""

EXPIRES = 5.0
"""Seconds after which an unread message of beat is dropped: the next one does its work."""


def queue_name(channel: str) -> str:
    """The queue of one channel's tasks."""
    return f"delivery.{channel}"


def task_name(channel: str) -> str:
    """The name of one channel's task, in Celery's monitors too."""
    return f"delivery.fallback.{channel}"


def verify_task_name(channel: str) -> str:
    """The name of the task that asks the owners of a channel's addresses."""
    return f"delivery.verify.{channel}"


ALL_QUEUES = (*(queue_name(channel) for channel in CHANNELS), MAINTENANCE_QUEUE)


def check_limits(
    *, soft_limit: float, hard_limit: float, visibility_timeout: float, lease: float
) -> None:
    """Refuse limits with which two workers could act for one event.

    Args:
        soft_limit / hard_limit / visibility_timeout / lease: seconds.

    Raises:
        ConfigError: not soft < hard < visibility timeout < lease.
    """
    named = (
        ("task_soft_limit", soft_limit),
        ("task_hard_limit", hard_limit),
        ("broker_visibility_timeout", visibility_timeout),
        ("claim_lease", lease),
    )
    if soft_limit <= 0:
        raise ConfigError(f"task_soft_limit must be over 0 seconds, not {soft_limit:g}")
    for (lower, less), (higher, more) in itertools.pairwise(named):
        if less >= more:
            raise ConfigError(
                f"{lower} ({less:g} s) must be below {higher} ({more:g} s): a task has to be over "
                "before its message or its claim can go to another worker"
            )


def make_app(
    broker_url: str,
    *,
    visibility_timeout: float = 40.0,
    soft_limit: float = 20.0,
    hard_limit: float = 30.0,
    lease: float = 60.0,
    quorum_queues: bool = False,
    concurrency: int = 4,
) -> Celery:
    """Make the app of publishers, workers and beat.

    Args:
        broker_url: ``redis://``, ``rediss://``, ``sentinel://host1,host2/name/db``, ``amqp://``,
            ``memory://`` or another kombu URL.
        visibility_timeout: seconds after which Redis hands an unacknowledged message out again.
        soft_limit / hard_limit: seconds of a task.
        lease: seconds of a claim in the ledger.
        quorum_queues: declare replicated queues (RabbitMQ).

    Raises:
        ConfigError: the limits are out of order, or quorum queues without RabbitMQ.
    """
    check_limits(
        soft_limit=soft_limit,
        hard_limit=hard_limit,
        visibility_timeout=visibility_timeout,
        lease=lease,
    )
    if quorum_queues and not is_rabbitmq(broker_url):
        raise ConfigError("quorum queues need RabbitMQ: use an amqp:// broker or turn them off")
    if broker_url == "memory://":
        broker_url = "memory://localhost//"  # the same place, without a warning about its host
    broker = broker_settings(broker_url) if is_redis(broker_url) else {"broker_url": broker_url}
    app = Celery("delivery", amqp=Amqp, broker=broker["broker_url"], set_as_current=False)
    app.conf.update(
        broker,
        **_task_settings(soft_limit, hard_limit),
        broker_transport_options=transport_options(broker_url, visibility_timeout),
        worker_concurrency=concurrency,
        task_queues=_queues(quorum_queues),
        task_routes=_routes(),
        beat_schedule=_beat_schedule(),
    )
    return app


def is_rabbitmq(broker_url: str) -> bool:
    """Whether a broker's URL is of RabbitMQ."""
    return broker_url.lower().startswith(("amqp://", "amqps://", "pyamqp://"))


def publisher_options(options: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    """The options of an app's transport for a publisher that gives up after ``timeout`` seconds."""
    waits = ("socket_timeout", "socket_connect_timeout", "read_timeout", "write_timeout")
    return {
        name: min(value, timeout) if name in waits else value for name, value in options.items()
    }


def transport_options(
    broker_url: str, visibility_timeout: float, *, socket_timeout: float = 5.0
) -> dict[str, Any]:
    """Options of the broker's transport, with a timeout for every wait.

    Args:
        socket_timeout: seconds; a worker's must exceed the second of its blocking read, a
            publisher's may be shorter.
    """
    if is_redis(broker_url):
        limits = {
            "socket_timeout": min(1.0, socket_timeout),
            "socket_connect_timeout": min(1.0, socket_timeout),
        }
        return {
            **sentinel_transport_options(broker_url, limits),
            **limits,
            "visibility_timeout": visibility_timeout,
            "socket_timeout": socket_timeout,
            "socket_keepalive": True,
            "health_check_interval": 10,
            "retry_on_timeout": False,
        }
    if is_rabbitmq(broker_url):
        return {
            "confirm_publish": True,
            "read_timeout": socket_timeout,
            "write_timeout": socket_timeout,
        }
    if broker_url.startswith("memory"):
        # At the default of one second the worker handles under twenty messages per second.
        return {"polling_interval": 0.02}
    return {}


def _task_settings(soft_limit: float, hard_limit: float) -> dict[str, Any]:
    return {
        # The broker keeps a message until its task is done, also when the child is killed. A task
        # that kills its worker is redelivered; the ledger limits that: attempts count when begun.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "task_acks_on_failure_or_timeout": True,
        "worker_prefetch_multiplier": 1,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "task_soft_time_limit": soft_limit,
        "task_time_limit": hard_limit,
        # Results are in the ledger.
        "task_ignore_result": True,
        "result_backend": None,
        "task_store_errors_even_if_ignored": False,
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_default_queue": MAINTENANCE_QUEUE,
        "task_create_missing_queues": False,
        "task_publish_retry": False,
        "broker_connection_timeout": 2.0,
        "broker_connection_retry": True,
        "broker_connection_retry_on_startup": True,
        "broker_channel_error_retry": True,  # a queue that was deleted, an acknowledgement too late
        "broker_connection_max_retries": None,
        "broker_pool_acquire_timeout": 5.0,
        "worker_soft_shutdown_timeout": 5.0,
        "worker_enable_soft_shutdown_on_idle": True,
        "worker_send_task_events": True,
        "task_send_sent_event": True,
        "event_queue_expires": 60.0,
        "worker_consumer": "delivery.tasks.broker.consumer:Consumer",
        "worker_hijack_root_logger": False,
        "enable_utc": True,
        "timezone": "UTC",
        # All intervals are short: a schedule file would have no use.
        "beat_scheduler": "celery.beat:Scheduler",
        "beat_max_loop_interval": 1.0,
    }


def _queues(quorum: bool) -> tuple[Queue, ...]:
    arguments = {"x-queue-type": "quorum"} if quorum else None
    return tuple(
        Queue(
            name,
            Exchange(name, type="direct"),
            routing_key=name,
            queue_arguments=arguments,
        )
        for name in ALL_QUEUES
    )


def _routes() -> dict[str, dict[str, str]]:
    routes = {task_name(channel): {"queue": queue_name(channel)} for channel in CHANNELS}
    routes |= {verify_task_name(name): {"queue": queue_name(name)} for name in EXTERNAL}
    for name in (SWEEP, SEAL_AUDIT, TRIM_MAILBOX, SEND_CHECKPOINT):
        routes[name] = {"queue": MAINTENANCE_QUEUE}
    # Only the worker of alerts knows the operators' receivers.
    routes[RESOLVE_ALERTS] = {"queue": queue_name(Channel.ALERT)}
    # The worker that talks to hosts that others name, and holds no secret but those of endpoints.
    routes[SEND_WEBHOOKS] = {"queue": queue_name(Channel.EMERGENCY)}
    return routes


def _beat_schedule() -> dict[str, dict[str, Any]]:
    intervals = {
        SWEEP: SWEEP_INTERVAL,
        SEAL_AUDIT: SEAL_INTERVAL,
        RESOLVE_ALERTS: ALERT_INTERVAL,
        TRIM_MAILBOX: TRIM_INTERVAL,
        SEND_CHECKPOINT: CHECKPOINT_INTERVAL,
        SEND_WEBHOOKS: WEBHOOK_INTERVAL,
    }
    queues = _routes()
    return {
        name: {
            "task": name,
            "schedule": schedule(run_every=seconds),
            # Messages must not pile up while no worker runs. Beat's connection recovers after an
            # outage of RabbitMQ only where a publish may be retried.
            "options": {
                "expires": max(EXPIRES, seconds),
                "queue": queues[name]["queue"],
                "retry": True,
                "retry_policy": {"max_retries": 1, "interval_start": 0.0},
            },
        }
        for name, seconds in intervals.items()
    }
