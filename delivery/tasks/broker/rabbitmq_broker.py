"""What RabbitMQ's answers mean to an operator.

Owns: its refusals in fixed words, and the notice that it takes no messages for want of memory or
disk. Never does: publish, or retry.
"""

from __future__ import annotations

from typing import Any

from amqp.exceptions import (
    AccessRefused,
    AMQPError,
    InternalError,
    MessageNacked,
    NotAllowed,
    NotFound,
    PreconditionFailed,
    ResourceError,
    ResourceLocked,
)
from kombu import Connection

from delivery.redis_servers.unreachable import chain_of

FULL = "RabbitMQ takes no messages: its memory or its disk is nearly full"
LOGIN = "RabbitMQ refuses the user or the password"
NO_ROOM = "RabbitMQ takes no more connections of this user or in this virtual host"
RIGHTS = "RabbitMQ does not permit this user the virtual host, a queue or an exchange"

_WORDS: tuple[tuple[type[Exception], str], ...] = (
    (AccessRefused, RIGHTS),
    (
        NotFound,
        "RabbitMQ does not find a queue or an exchange, or the node that holds it is down",
    ),
    (
        PreconditionFailed,
        "RabbitMQ has a queue with other arguments: see DELIVERY_BROKER_QUORUM_QUEUES",
    ),
    (ResourceLocked, "RabbitMQ has a queue that belongs to one other connection"),
    (ResourceError, "RabbitMQ is short of a resource"),
    (InternalError, "RabbitMQ has an internal error"),
    (MessageNacked, "RabbitMQ rejects messages: a queue is full, or could not store one"),
)
"""Source: rabbitmq.com/docs/channels, "Error Codes", and rabbitmq.com/docs/access-control."""


class Alarm:
    """Whether RabbitMQ told a connection that it takes no messages now.

    Source: rabbitmq.com/docs/connection-blocked.
    """

    def __init__(self) -> None:
        self.is_on = False

    def watch(self, connection: Connection) -> None:
        """Take notice of what an open connection is told; another broker tells nothing."""
        self.is_on = False
        if connection.transport.driver_type == "amqp":
            wire: Any = connection.connection
            wire.on_blocked = self._on_blocked
            wire.on_unblocked = self._on_unblocked

    def _on_blocked(self, _reason: str) -> None:
        self.is_on = True

    def _on_unblocked(self) -> None:
        self.is_on = False


def refusal(error: BaseException) -> str | None:
    """Why a RabbitMQ that answers takes no task, if that is behind an error."""
    return next((known for one in chain_of(error) if (known := _refusal(one)) is not None), None)


def _refusal(error: BaseException) -> str | None:
    if not isinstance(error, AMQPError | MessageNacked):
        return None
    text = str(error)
    if isinstance(error, AccessRefused) and "Login was refused" in text:
        return LOGIN
    if isinstance(error, NotAllowed):
        return _not_allowed(text)
    return next((words for kind, words in _WORDS if isinstance(error, kind)), None)


def _not_allowed(text: str) -> str:
    if "connection limit" in text:
        return NO_ROOM
    if "vhost" in text and "not found" in text:
        return "RabbitMQ does not have the virtual host of the URL"
    return RIGHTS
