"""The Celery tasks: one thin task per channel, and the maintenance that beat asks for.

Owns: the tasks' names and what happens when one is interrupted. Never does: any of the work; a
message carries ids, never payloads.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded

from delivery.domain.limits import QUEUE_COPY_AGE
from delivery.domain.policy import CHANNELS
from delivery.errors import LedgerError
from delivery.tasks.app import RESOLVE_ALERTS, SEAL_AUDIT, SWEEP, TRIM_MAILBOX, task_name
from delivery.tasks.executor import Executor
from delivery.tasks.sweep import Alerter, Sweeper

logger = logging.getLogger(__name__)

INTERRUPTIONS = (SoftTimeLimitExceeded,)
"""What a worker raises inside a task that takes too long."""

SEAL_PAGE = 1_000
MAX_SEAL_PAGES = 50
"""Seconds that a second copy is worth keeping: the longest default time to live."""


@dataclass(frozen=True, slots=True)
class Maintenance:
    """What beat's tasks do.

    Attributes:
        seal: chains up to so many rows of the compliance log; the number that it chained.
        trim: deletes second copies older than so many seconds; the number that it deleted.
    """

    sweeper: Sweeper
    alerter: Alerter
    seal: Callable[[int], int]
    trim: Callable[[float], int]


def register(app: Celery, get_executor: Callable[[], Executor]) -> None:
    """Register one task per channel.

    Args:
        get_executor: called inside the worker's child, whose connections it may open.
    """
    for channel in CHANNELS:
        _add(app, task_name(channel), _channel_task(channel, get_executor))


def register_maintenance(app: Celery, get_maintenance: Callable[[], Maintenance]) -> None:
    """Register the tasks that beat sends."""

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

    for name, work in (
        (SWEEP, sweep),
        (SEAL_AUDIT, seal_audit),
        (RESOLVE_ALERTS, resolve_alerts),
        (TRIM_MAILBOX, trim_mailbox),
    ):
        _add(app, name, _guarded(name, work))


def _channel_task(
    channel: str, get_executor: Callable[[], Executor]
) -> Callable[[list[str]], None]:
    name = task_name(channel)

    def work(ids: list[str]) -> None:
        report = get_executor().run(channel, ids)
        logger.debug("%s: %s", name, report)

    return _guarded(name, work)


def _guarded(name: str, work: Callable[..., None]) -> Callable[..., None]:
    def task(*args: Any) -> None:
        try:
            work(*args)
        except LedgerError as error:
            # Nothing is lost: what was due stays due in the ledger and is published again.
            logger.warning("%s: the ledger could not be used: %s", name, error)
        except SoftTimeLimitExceeded:
            # An attempt that it interrupted is recorded as unknown already, or becomes so with
            # the next claim; the claims of this task end with their lease.
            logger.warning("%s: stopped at the soft time limit", name)

    task.__name__ = name.rpartition(".")[2]
    task.__doc__ = work.__doc__
    return task


def _add(app: Celery, name: str, function: Callable[..., Any]) -> None:
    # An async task would report success without running.
    if inspect.iscoroutinefunction(function):
        raise TypeError(f"task {name} is a coroutine function; write it synchronously")
    # Not shared: another app of this process has an executor of its own.
    app.task(name=name, ignore_result=True, shared=False)(function)
