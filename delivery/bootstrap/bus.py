"""The bus, resends of workers to the gateways, and second copies: over Redis, or without it.

Owns: the choice between Redis and the stand-ins. Never does: connect before the first use.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from delivery.bus.envelope import SKIPPED, Skipped
from delivery.bus.in_process import LocalBus
from delivery.bus.one_time import LocalOneTime, RedisOneTime
from delivery.bus.redis_bus import RedisBus
from delivery.bus.resend import BusResend, NoResend
from delivery.bus.user_streams import RedisStreams
from delivery.config import Settings, secret
from delivery.domain.event import Event
from delivery.domain.limits import QUEUE_COPY_AGE
from delivery.domain.ports import OneTime, Resend
from delivery.domain.stores.ledger import Ledger
from delivery.errors import ChannelUnavailable
from delivery.telemetry import metrics

logger = logging.getLogger(__name__)


def make_bus(settings: Settings, node: str) -> LocalBus | RedisBus:
    """A gateway's bus: on Redis for all nodes, or in this process without it."""
    url = secret(settings.redis_url)
    if url is None:
        return LocalBus()
    for reason in SKIPPED:
        metrics.bus_skipped.start(reason)
    latency = metrics.bus_latency.observe
    return RedisBus(url, node, on_latency=latency, on_skipped=_count_skipped)


def _count_skipped(reason: Skipped) -> None:
    metrics.bus_skipped.inc(1.0, reason)


def make_one_time(settings: Settings) -> OneTime:
    """Tickets and links of one use: on Redis for all nodes, or in this process without it."""
    url = secret(settings.redis_url)
    return LocalOneTime() if url is None else RedisOneTime(url)


@dataclass(frozen=True, slots=True)
class Copies:
    """The second copies: on Redis, or in the ledger where there is none."""

    put: Callable[[Sequence[Event]], None]
    read: Callable[[str], list[Event]]
    trim: Callable[[float], int]
    close: Callable[[], None]
    forget: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Remote:
    """A worker's resends and second copies."""

    resend: Resend
    queue_copy: Callable[[Sequence[Event]], None]
    trim: Callable[[float], int]
    close: Callable[[], None]


def make_copies(settings: Settings, ledger: Ledger) -> Copies:
    """Second copies on Redis, or in the ledger without it."""
    url = secret(settings.redis_url)
    if url is None:
        copies = ledger.queue_copies
        return Copies(copies.put, copies.read, copies.trim, lambda: None, copies.forget)
    streams = RedisStreams(url, QUEUE_COPY_AGE)

    def trim(max_age: float) -> int:
        try:
            return streams.trim(max_age)
        except ChannelUnavailable as error:
            logger.warning("%s; the next trim makes up for it", error)
            return 0

    return Copies(streams.put, streams.read, trim, streams.close, streams.forget)


def make_remote(settings: Settings, ledger: Ledger) -> Remote:
    """A worker's resends over the bus, and second copies."""
    copies = make_copies(settings, ledger)
    url = secret(settings.redis_url)
    if url is None:
        return Remote(NoResend(), copies.put, copies.trim, copies.close)
    resend = BusResend(url, on_skipped=_count_skipped)

    def close() -> None:
        resend.close()
        copies.close()

    return Remote(resend, copies.put, copies.trim, close)
