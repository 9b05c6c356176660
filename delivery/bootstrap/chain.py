"""The fallback chain of one process: executor, sweeper, upkeep.

Owns: the wiring of ``tasks`` with ledger, transports and bus. Never does: start a worker.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from delivery.bootstrap.audit import checkpoint_stores
from delivery.bootstrap.links import make_links
from delivery.bootstrap.transports import (
    make_alerts,
    make_elsewhere,
    make_providers,
    make_renderer,
    make_transports,
    sms_callback,
    verifying,
)
from delivery.config import Settings, load_policies, load_thresholds, load_webhooks, secret
from delivery.domain.event import Event
from delivery.domain.lifecycle import Confirmation
from delivery.domain.policy import Policies
from delivery.domain.ports import Resend
from delivery.domain.records import Entry
from delivery.domain.stores.ledger import Ledger
from delivery.domain.webhooks.endpoints import Endpoint
from delivery.errors import LedgerError
from delivery.ledger.journal.division import Division
from delivery.ledger.journal.spool import adopt_orphans
from delivery.process.sealing import CheckpointSender, Sealer
from delivery.tasks.broker.app import check_limits
from delivery.tasks.broker.registration import (
    INTERRUPTIONS,
    Maintenance,
    register,
    register_maintenance,
    register_verification,
    register_webhooks,
)
from delivery.tasks.broker.relay import Relay
from delivery.tasks.dead_mans_switch import DeadMansSwitch, WatchedSweeper
from delivery.tasks.executor import Executor, TimeLimits
from delivery.tasks.history import HistoryRecorder
from delivery.tasks.sweep import Alerter, ThresholdWatch
from delivery.tasks.verifying import Verifier
from delivery.tasks.webhooks import WebhookSender
from delivery.transports.webhook import WebhookPoster

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger(__name__)

CLOSE_TIMEOUT = 5.0
"""Seconds that a process which stops waits for messages that a provider is taking."""

QueueCopy = Callable[[Sequence[Event]], None]


@dataclass(frozen=True, slots=True)
class ChainParts:
    """Executor, verifier of addresses, sender of webhooks and upkeep of one process."""

    executor: Executor
    verifier: Verifier
    webhooks: WebhookSender
    maintenance: Maintenance


def attach(app: Celery, get_parts: Callable[[], ChainParts]) -> None:
    """Register all tasks; ``get_parts`` is asked inside the process that runs them."""
    register(app, lambda: get_parts().executor)
    register_verification(app, lambda: get_parts().verifier)
    register_webhooks(app, lambda: get_parts().webhooks)
    register_maintenance(app, lambda: get_parts().maintenance)


def make_chain(
    settings: Settings,
    ledger: Ledger,
    relay: Relay,
    *,
    resend: Resend,
    queue_copy: QueueCopy,
    trim: Callable[[float], int],
    policies: Policies | None = None,
    sends_webhooks: bool = True,
) -> ChainParts:
    """Wire executor and upkeep.

    Args:
        resend: pushes for the ``direct`` channel.
        queue_copy / trim: puts second copies, and deletes old ones.
        sends_webhooks: whether this process reads the webhooks file, and sends to its endpoints.
    """
    if policies is None:
        policies = load_policies(settings)
    renderer = make_renderer(settings)
    alerts = make_alerts(settings, renderer)
    transports = make_transports(settings, renderer, ledger.push_targets)
    named = make_providers(settings, renderer)
    links = make_links(settings)
    limits = _time_limits(settings)
    executor = Executor(
        ledger=ledger,
        policies=policies,
        transports=transports,
        elsewhere=make_elsewhere(settings),
        named=named,
        alerts=alerts,
        resend=resend,
        queue_copy=queue_copy,
        publish=relay,
        links=links,
        drain_spool=lambda: drain_orphans(settings, ledger),
        jitter=random.random,
        limits=limits,
        callback_url=sms_callback(settings),
        keeps_messages=settings.keep_messages > 0,
        interruptions=INTERRUPTIONS,
    )
    switch = DeadMansSwitch(secret(settings.heartbeat_url))
    sweeper = WatchedSweeper(ledger, policies, relay, switch, resend.wake)
    history = HistoryRecorder(ledger)
    thresholds = ThresholdWatch(ledger, load_thresholds(settings))

    def watch() -> None:
        history.look()
        thresholds.look()

    alerter = Alerter(ledger, alerts, watch)

    def trim_all(age: float) -> int:
        while ledger.sent_messages.trim(settings.keep_messages):
            pass
        trimmed = trim(age)
        ledger.partitions.make_ahead()
        return trimmed

    return ChainParts(
        executor,
        Verifier(ledger, verifying(transports, named), links, timeout=limits.attempt),
        make_webhook_sender(settings, ledger, load_webhooks(settings) if sends_webhooks else ()),
        Maintenance(
            sweeper,
            alerter,
            Sealer(ledger, settings.data_dir),
            trim_all,
            CheckpointSender(ledger, checkpoint_stores(settings)),
        ),
    )


def make_known(ledger: Ledger, endpoints: Sequence[Endpoint]) -> None:
    """Make endpoints known to the ledger; the sender does it again where the ledger is away."""
    try:
        if endpoints:
            ledger.webhooks.register([one.name for one in endpoints])
            ledger.webhooks.describe(endpoints)
    except LedgerError as error:
        logger.warning("webhooks are made known when the ledger is back: %s", error)


def make_webhook_sender(
    settings: Settings, ledger: Ledger, endpoints: Sequence[Endpoint]
) -> WebhookSender:
    """The sender to these endpoints.

    Effect: makes them known to the ledger, so that they are told what happens from now on.
    """
    make_known(ledger, endpoints)
    return WebhookSender(
        ledger.webhooks,
        {endpoint: WebhookPoster(endpoint).post for endpoint in endpoints},
        source=settings.base_url,
        limits=_time_limits(settings),
        jitter=random.random,
    )


def _time_limits(settings: Settings) -> TimeLimits:
    return TimeLimits(
        soft=settings.task_soft_limit, hard=settings.task_hard_limit, lease=settings.claim_lease
    )


def drain_orphans(settings: Settings, ledger: Ledger) -> None:
    """Commit the spools that dead processes of this machine left."""

    division = Division(ledger)

    def commit(entries: Sequence[Entry], confirmations: Sequence[Confirmation]) -> Sequence[Entry]:
        refused, _ = division.drain(entries, confirmations)
        return refused

    directory = settings.data_dir / "spool"
    if directory.is_dir():
        adopt_orphans(directory, commit)


def check_order(settings: Settings) -> str:
    """The time limits in force, for ``delivery check``.

    Raises:
        ConfigError: they are out of order.
    """
    soft, hard = settings.task_soft_limit, settings.task_hard_limit
    visibility, lease = settings.broker_visibility_timeout, settings.claim_lease
    check_limits(soft_limit=soft, hard_limit=hard, visibility_timeout=visibility, lease=lease)
    return f"{soft:g} < {hard:g} < {visibility:g} < {lease:g} s"
