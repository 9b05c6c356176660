"""The Celery tasks: one per channel, and the maintenance that beat schedules.

Owns: the registration of tasks and what happens when one is interrupted. Never does: the work
itself; a task's message carries ids, never payloads.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded

from delivery.domain.channels import EXTERNAL
from delivery.domain.limits import QUEUE_COPY_AGE
from delivery.domain.policy import CHANNELS
from delivery.errors import LedgerError
from delivery.tasks.broker.app import (
    RESOLVE_ALERTS,
    SEAL_AUDIT,
    SEND_CHECKPOINT,
    SEND_WEBHOOKS,
    SWEEP,
    TRIM_MAILBOX,
    task_name,
    verify_task_name,
)
from delivery.tasks.executor import Executor
from delivery.tasks.sweep import Alerter, Sweeper
from delivery.tasks.verifying import Verifier
from delivery.tasks.webhooks import WebhookSender
from delivery.telemetry import metrics

logger = logging.getLogger(__name__)

INTERRUPTIONS = (SoftTimeLimitExceeded,)
"""Errors that a worker raises inside a task over its soft time limit."""

SEAL_PAGE = 1_000
MAX_SEAL_PAGES = 50


@dataclass(frozen=True, slots=True)
class Maintenance:
    """The work of the maintenance tasks.

    Attributes:
        seal: chains up to this many rows of the audit log; returns the number.
        trim: deletes queue copies older than this many seconds; returns the number.
        send_checkpoint: sends the compliance log's head to where it is kept.
    """

    sweeper: Sweeper
    alerter: Alerter
    seal: Callable[[int], int]
    trim: Callable[[float], int]
    send_checkpoint: Callable[[], None] = lambda: None


def register(app: Celery, get_executor: Callable[[], Executor]) -> None:
    """Register one task per channel.

    Args:
        get_executor: called inside the worker's child, whose connections it may open.
    """
    for channel in CHANNELS:
        _add(app, task_name(channel), _channel_task(channel, get_executor))


def register_verification(app: Celery, get_verifier: Callable[[], Verifier]) -> None:
    """Register a task per external channel that asks the owners of unverified addresses."""
    for channel in EXTERNAL:
        name = verify_task_name(channel)
        _add(app, name, _guarded(name, _verify_task(channel, get_verifier)))


def _verify_task(channel: str, get_verifier: Callable[[], Verifier]) -> Callable[[], None]:
    def work() -> None:
        get_verifier().run(channel)

    return work


def register_webhooks(app: Celery, get_sender: Callable[[], WebhookSender]) -> None:
    """Register the task that tells the application's endpoints what became of events."""

    def send_webhooks() -> None:
        get_sender().run()

    _add(app, SEND_WEBHOOKS, _guarded(SEND_WEBHOOKS, send_webhooks))


def register_maintenance(app: Celery, get_maintenance: Callable[[], Maintenance]) -> None:
    """Register the maintenance tasks, which beat publishes."""

    def sweep() -> None:
        get_maintenance().sweeper.sweep()

    def seal_audit() -> None:
        seal = get_maintenance().seal
        for _ in range(MAX_SEAL_PAGES):
            if seal(SEAL_PAGE) < SEAL_PAGE:
                return

    def resolve_alerts() -> None:
        get_maintenance().alerter.run()

    def trim_mailbox() -> None:
        get_maintenance().trim(QUEUE_COPY_AGE)

    def send_checkpoint() -> None:
        get_maintenance().send_checkpoint()

    for name, work in (
        (SWEEP, sweep),
        (SEAL_AUDIT, seal_audit),
        (RESOLVE_ALERTS, resolve_alerts),
        (TRIM_MAILBOX, trim_mailbox),
        (SEND_CHECKPOINT, send_checkpoint),
    ):
        _add(app, name, _guarded(name, work))


def _channel_task(
    channel: str, get_executor: Callable[[], Executor]
) -> Callable[[list[str]], None]:
    name = task_name(channel)

    def work(ids: list[str]) -> None:
        report = get_executor().run(channel, ids)
        logger.debug("%s: %s", name, report, extra={"event": "task_done"})

    return _guarded(name, work)


def _guarded(name: str, work: Callable[..., None]) -> Callable[..., None]:
    def task(*args: Any) -> None:
        begun = time.perf_counter()
        try:
            work(*args)
        except LedgerError as error:
            metrics.tasks_failed.inc(1.0, name, "ledger_away")
            # Nothing is lost: due events stay due in the ledger and are published again.
            logger.warning("%s: ledger unavailable: %s", name, error)
        except SoftTimeLimitExceeded:
            # The interrupted attempt is recorded as unknown already, or becomes unknown with the
            # next claim; this task's claims end with their lease.
            metrics.tasks_failed.inc(1.0, name, "time_limit")
            logger.warning("%s: stopped at the soft time limit", name)
        except Exception:
            metrics.tasks_failed.inc(1.0, name, "error")
            raise
        finally:
            metrics.task_duration.observe(time.perf_counter() - begun, name)

    task.__name__ = name.rpartition(".")[2]
    task.__doc__ = work.__doc__
    return task


def _add(app: Celery, name: str, function: Callable[..., Any]) -> None:
    # An async task would report success without running.
    if inspect.iscoroutinefunction(function):
        raise TypeError(f"task {name} is a coroutine function; write it synchronously")
    # Not shared: another app in this process has its own executor.
    app.task(name=name, ignore_result=True, shared=False)(function)
