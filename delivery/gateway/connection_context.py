"""What the connections of a gateway share, and how their ends and refusals are told.

Owns: the shared parts with their defaults, counts of ends by close code, lines of refusals. Never
does: know one connection.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from delivery.callers.refusals import refusals
from delivery.gateway.feed import FeedReader
from delivery.gateway.waiting import WaitingBytes
from delivery.protocol import Error, may_reconnect
from delivery.telemetry import metrics

if TYPE_CHECKING:
    from delivery.callers.principal import Principal
    from delivery.gateway.outcomes import Outcomes
    from delivery.gateway.registry import Registry


SEND_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class ConnectionContext:
    """The parts that all connections of a gateway share.

    Attributes:
        node: this process's name, as in ``connected`` frames.
        send_timeout: seconds a client may leave its socket full.
        clock: monotonic seconds; ``wall``: epoch seconds, for the expiry of tokens.
        jitter: uniform in [0, 1), spreads reads of the ledger.
        check: raises ``Unauthenticated`` for a principal whose token is not accepted any more.
        waiting: bytes in the queues of all connections.
    """

    node: str
    feed_reader: FeedReader
    registry: Registry
    outcomes: Outcomes
    send_timeout: float = SEND_TIMEOUT
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    jitter: Callable[[], float] = random.random
    check: Callable[[Principal], None] = lambda principal: None
    waiting: WaitingBytes = field(default_factory=WaitingBytes)


def count_end(code: int | None) -> None:
    """Count the end of a connection; ``None`` for a client that left."""
    if code is None:
        metrics.connections_closed.inc(1.0, "client")
        return
    name = str(int(code))
    metrics.connections_closed.inc(1.0, name)
    if may_reconnect(code):
        metrics.reconnects.inc(1.0, name)


def log_refusal(frame: Error, user_id: str | None) -> None:
    """Note why a client was refused, once for many of the same."""
    by = f"user {user_id}" if user_id is not None else "a client without a good token"
    if frame.code == "unknown_ack":
        # Common after a reconnect, and the same as an acknowledgement of another user's event.
        refusals.note(f"socket: {frame.code}", by, logging.INFO)
    elif frame.code == "unauthorized":
        refusals.note(f"socket: {frame.message}", by)
