"""Celery's app, made from settings: of publishers, workers and beat.

Owns: which broker it is. Never does: register a task, or connect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from delivery.config import Settings, secret
from delivery.tasks.broker.app import is_rabbitmq, make_app

if TYPE_CHECKING:
    from celery import Celery


def broker_url(settings: Settings) -> str:
    """Celery's broker: the one that is set, else Redis, else memory (one process only)."""
    return secret(settings.broker_url) or secret(settings.redis_url) or "memory://"


def make_celery(settings: Settings, *, concurrency: int = 4) -> Celery:
    """The Celery app of publishers, workers and beat; tasks are registered by ``attach``."""
    url = broker_url(settings)
    return make_app(
        url,
        soft_limit=settings.task_soft_limit,
        hard_limit=settings.task_hard_limit,
        visibility_timeout=settings.broker_visibility_timeout,
        lease=settings.claim_lease,
        quorum_queues=settings.broker_quorum_queues and is_rabbitmq(url),
        concurrency=concurrency,
    )
