"""The store of webhooks out: endpoints' states, their messages and attempts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Protocol

from delivery.domain.webhooks.endpoints import Endpoint
from delivery.domain.webhooks.messages import (
    EndpointLease,
    EndpointState,
    Followed,
    Replayed,
    WebhookAnswer,
    WebhookMessage,
    WebhookRow,
)


class Webhooks(Protocol):
    """Endpoints, for the event loop; see ``WebhookStore``."""

    async def webhooks(self) -> list[EndpointState]:
        """How every endpoint stands."""

    async def webhook_messages(self, name: str, limit: int) -> list[WebhookRow]:
        """An endpoint's latest messages."""

    async def enable_webhook(self, name: str) -> EndpointState | None:
        """Switch one on; how it stood before."""

    async def disable_webhook(self, name: str, reason: str) -> bool:
        """Switch one off."""

    async def replay_webhook(self, endpoint: Endpoint, since: datetime, seconds: float) -> Replayed:
        """Have outcomes told again; see ``WebhookStore.replay_for``."""


class WebhookStore(Protocol):
    """Keeps endpoints, and the messages that tell them what became of events."""

    def register(self, names: Sequence[str]) -> None:
        """Make endpoints known; one that is new is told what is confirmed since a minute ago,
        and all that happens from now on. Safe to repeat.

        Effect: endpoints that have failed for long are switched off.
        """

    def describe(self, endpoints: Sequence[Endpoint]) -> None:
        """Keep what processes without the file show of endpoints that are known. Safe to
        repeat."""

    def follow(self, endpoint: Endpoint, span: timedelta, limit: int = 1_000) -> Followed:
        """Write messages about the next outcomes, at most ``span`` further, about ``limit``.

        Effect: one message for each outcome and generation that the endpoint wants, however often
        it is called and wherever it was interrupted. Nothing while the endpoint is off, while
        another process follows for it, or while too many of its messages wait.
        """

    def lease(self, name: str, seconds: float) -> EndpointLease | None:
        """Take an endpoint that is on and has due messages; ``None`` if another process has it, it
        is paused, or nothing is due.

        Effect: attempts of a sender that was lost become ``unknown``.
        """

    def due(self, lease: EndpointLease, limit: int) -> list[WebhookMessage]:
        """Messages that are due, the longest due first, with their content."""

    def begin(self, lease: EndpointLease, messages: Sequence[WebhookMessage]) -> bool:
        """Write ``started`` attempts before their side effect; ``False`` if the lease was lost."""

    def end(
        self, lease: EndpointLease, message: WebhookMessage, answer: WebhookAnswer, jitter: float
    ) -> str | None:
        """Record how an attempt ended, and when the next one is due.

        Args:
            message: as it was before the attempt.
            jitter: a random number from 0 to 1.

        Returns:
            Why the endpoint was switched off by it; else ``None``.
        """

    def drop(self, lease: EndpointLease, messages: Sequence[WebhookMessage]) -> None:
        """End messages without an attempt: the events that they are about were deleted."""

    def release(self, lease: EndpointLease) -> None:
        """Let other processes have the endpoint."""

    def enable(self, name: str) -> EndpointState | None:
        """Switch an endpoint on; what waits is due now. It is not told what happened while it was
        off, unless by a replay.

        Returns:
            How it stood before; ``None`` if it is not known.
        """

    def disable(self, name: str, reason: str) -> bool:
        """Switch an endpoint off; ``False`` if it is not known."""

    def replay(self, endpoint: Endpoint, since: datetime) -> int:
        """Have all outcomes since an instant told again, sent ones too; returns their number."""

    def replay_for(self, endpoint: Endpoint, since: datetime, seconds: float) -> Replayed:
        """As ``replay``, for about this time."""

    def states(self) -> list[EndpointState]:
        """How every endpoint stands, by name."""

    def off(self) -> list[str]:
        """Names of endpoints that are off."""

    def has_any_on(self) -> bool:
        """Whether an endpoint is on."""

    def messages(self, name: str, *, limit: int = 20) -> list[WebhookRow]:
        """An endpoint's latest messages, newest first, with their attempts."""

    def trim(self, limit: int = 1_000) -> int:
        """Delete what is old: messages, outcomes, endpoints that no worker knows any more; returns
        the number of rows, at most ``limit`` of each kind."""
