"""Ports of the last mile: transports with what they are given and answer, alerts, links, sinks.

Owns: the Protocols that vendors' adapters implement, and their values. Never does: render, send.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, runtime_checkable

from delivery.domain.event import Event
from delivery.domain.operators.figures import AlertGroup
from delivery.domain.records import Rendered
from delivery.domain.users.contact import Contact


@dataclass(frozen=True, slots=True)
class Message:
    """A message for a transport to deliver.

    Attributes:
        key: the same on every attempt; idempotency key, left part of ``Message-ID``.
        events: at least one, in order; none with ``verify_url``.
        run_id: ``None`` when the message spans runs.
        confirm_url / unsubscribe_url: signed links, ``None`` where the step has none.
        number: of the attempt, from 1.
        callback_url: where the provider posts its status; ``None`` for nowhere.
        verify_url: a signed link by which an address's owner agrees to messages. The message asks
            for that and says nothing else.
        on_rendered: called with what goes out, before it does; must not raise.
    """

    key: str
    user_id: str
    run_id: str | None
    events: tuple[Event, ...]
    contact: Contact
    number: int = 1
    confirm_url: str | None = None
    unsubscribe_url: str | None = None
    callback_url: str | None = None
    verify_url: str | None = None
    on_rendered: Callable[[Rendered], None] | None = None

    def rendered(self, subject: str, text: str, html: str | None = None) -> None:
        """Tell what goes out. A transport of mails or texts must call it before it hands the
        message over."""
        if self.on_rendered is not None:
            self.on_rendered(Rendered(subject, text, html))


@dataclass(frozen=True, slots=True)
class Taken:
    """The answer of a provider that took a message.

    Attributes:
        provider_id: the provider's id of the message.
        note: further facts, for logs.
        fault: what of the message is not as wished, recorded with the attempt.
    """

    provider_id: str | None = None
    note: str | None = None
    fault: str | None = None


class Transport(Protocol):
    """The adapter of one vendor or protocol: emergency, email, sms. Synchronous, in workers."""

    @property
    def name(self) -> str: ...

    def unreachable(self, contact: Contact) -> str | None:
        """Why this transport cannot reach the contact ("no address"), ``None`` if it can."""

    def deliver(self, message: Message, timeout: float) -> Taken:
        """Give one message to the provider.

        Args:
            timeout: seconds for everything.

        Raises:
            ChannelUnavailable: try again.
            ChannelRejected: refused for good.
            OutcomeUnknown: the provider may have taken it.
        """


@runtime_checkable
class Checked(Protocol):
    """A transport whose provider can be checked without a message."""

    def check(self, timeout: float) -> None:
        """Check the provider without giving it a message.

        Raises:
            ChannelUnavailable: the provider does not work now.
        """


class Alerts(Protocol):
    """Receivers of alerts to operators (Alertmanager, Apprise)."""

    @property
    def has_receiver(self) -> bool:
        """Whether any is configured; without one an alert is logged, and operators are not told."""

    def fire(self, group: AlertGroup, *, first: bool, timeout: float) -> Taken:
        """Send an alert; ``first`` also notifies receivers that do not group by themselves."""

    def resolve(self, group: AlertGroup, timeout: float, *, ended_at: datetime) -> None:
        """End an alert; ``ended_at`` is by the same clock as ``group.since``."""


class Links(Protocol):
    """Signed links for mails."""

    def confirm_url(self, digest_id: str) -> str: ...
    def short_url(self, digest_id: str) -> str:
        """Another address of the same page, for messages that are paid by their length."""

    def unsubscribe_url(self, user_id: str, channel: str) -> str: ...
    def verify_url(self, user_id: str, channel: str, address: str) -> str: ...


@dataclass(frozen=True, slots=True)
class SinkMessage:
    """A message that a local sink took; ``body`` is raw RFC 5322 for mail, text for SMS."""

    kind: str
    to: str
    subject: str
    body: str
    at: datetime
    id: str


class Inbox(Protocol):
    """Messages of the embedded sinks, newest first, bounded."""

    def messages(self) -> list[SinkMessage]: ...
    def forget(self, addresses: Collection[str]) -> None:
        """Drop the messages to these addresses."""
