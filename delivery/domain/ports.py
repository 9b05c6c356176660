"""Where the parts meet: Protocols that ``bootstrap`` wires to implementations.

The ledger's are in ``stores``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeVar, runtime_checkable

import msgspec

from delivery.domain.contact import Contact
from delivery.domain.event import Event
from delivery.domain.lifecycle import Confirmation
from delivery.domain.records import (
    AlertGroup,
    Entry,
    Receipted,
)

T = TypeVar("T")


Answered = Callable[[Entry, Receipted | Exception], None]
"""Told what became of an entry that was submitted."""


class Journal(Protocol):
    """The loop's side of the ledger: never waits, commits whatever has gathered in one thread."""

    def submit(self, entry: Entry, answered: Answered) -> None:
        """Queue an entry; ``answered`` runs on the loop after the commit (or the spool's fsync).
        An entry that is ``awaited`` may wait a few milliseconds for its proof, to be inserted with
        it.

        Raises:
            Overloaded: the bounded buffer is full; nothing was queued.
        """

    def confirm(self, proofs: Sequence[Confirmation]) -> None:
        """Queue proofs; merged into the insert when the event has not been committed yet."""

    def hand_over(self, event_id: str, reason: str) -> None:
        """Start the chain for this event after its insert."""

    async def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run a read (or a rare write) of the ledger in a thread, with a deadline."""

    async def flush(self, timeout: float = 10.0) -> None:
        """Wait until everything queued so far is durable; not for what is queued meanwhile."""

    @property
    def backlog(self) -> int: ...


class Pushed(msgspec.Struct, frozen=True, gc=False):
    """Where a push went. ``reason`` says why nobody was reached; ``failed`` that a send was tried
    and failed, so that another one may reach somebody (nobody connected: ``False``); ``is_here``
    that a connection of this node has it."""

    connections: int
    reason: str | None = None
    failed: bool = False
    is_here: bool = True


class Push(Protocol):
    """The fast path, on the loop's thread; never waits."""

    def push(self, event: Event, encoded: bytes) -> Pushed:
        """Queue one event, encoded once, on each of its user's connections, here and elsewhere."""

    def health(self, user_id: str) -> int:
        """Score of the user's best connection here, 0-100; 100 for whoever has none."""


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """The answer for one accepted event; ``durable`` is true for all but ephemeral ones."""

    id: str
    seq: int | None
    duplicate: bool
    durable: bool


class Intake(Protocol):
    """The emitter's door for events that came as JSON objects (HTTP). On the loop."""

    async def accept(self, items: Sequence[Any]) -> list[Accepted | Exception]:
        """Validate and record a batch, in order; one answer per item when durable.

        An ``InvalidEvent`` (or ``IdConflict``, ``PayloadTooLarge``, ``InvalidContext``) is the
        caller's, ``Overloaded`` and ``LedgerError`` ours. What was accepted is pushed afterwards.
        """


@dataclass(frozen=True, slots=True)
class SinkMessage:
    """What a local sink took; ``body`` is raw RFC 5322 for mail, text for SMS."""

    kind: str
    to: str
    subject: str
    body: str
    at: datetime
    id: str


class Inbox(Protocol):
    """Messages of the embedded sinks, newest first, bounded."""

    def messages(self) -> list[SinkMessage]: ...


class Resend(Protocol):
    """The ``direct`` channel's way to the sockets; synchronous, for workers."""

    def resend(self, user_id: str, event_ids: Sequence[str], timeout: float) -> int:
        """Probe the user's sockets, drop stale ones, resend; the number of live connections
        that took the events."""

    def wake(self, user_ids: Sequence[str]) -> None:
        """Tell gateways that these users have copies waiting; a hint."""


@dataclass(frozen=True, slots=True)
class Message:
    """What a last-mile channel is asked to deliver.

    Attributes:
        key: stable over retries: idempotency key, ``Message-ID``'s left part.
        events: at least one, in order.
        run_id: ``None`` when the message spans runs.
        confirm_url / unsubscribe_url: signed links, ``None`` where the step has none.
        callback_url: where the provider posts its status, ``None`` if it has nowhere to.
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


@dataclass(frozen=True, slots=True)
class Taken:
    """The provider took the message; ``provider_id`` is its name for it."""

    provider_id: str | None = None
    note: str | None = None


class Channel(Protocol):
    """A last-mile transport: emergency, email, sms. Synchronous, in workers."""

    @property
    def name(self) -> str: ...

    def unreachable(self, contact: Contact) -> str | None:
        """Why this contact cannot be reached here ("no address"), ``None`` if it can."""

    def deliver(self, message: Message, timeout: float) -> Taken:
        """Hand one message to the provider.

        Raises:
            ChannelUnavailable: transient; ``ChannelRejected``: permanent; ``OutcomeUnknown``: it
            may have been taken.
        """


@runtime_checkable
class Checked(Protocol):
    """A channel whose provider can be asked by itself whether it works."""

    def check(self, timeout: float) -> None:
        """Speak to the provider without giving it a message.

        Raises:
            ChannelUnavailable: it does not work now.
        """


class Alerts(Protocol):
    """The operators' receivers (Alertmanager, Apprise)."""

    def fire(self, group: AlertGroup, *, first: bool, timeout: float) -> Taken:
        """Tell operators; ``first`` also notifies receivers that do not group by themselves."""

    def resolve(self, group: AlertGroup, timeout: float, *, ended_at: datetime) -> None:
        """Tell them that it is over, ``ended_at`` by the clock that dates the group, too."""


class TaskQueue(Protocol):
    """Publishing of chain steps. A publish is a hint: losing it loses nothing."""

    def publish(self, channel: str, ids: Sequence[str]) -> None:
        """Queue ids for a channel's task; never blocks (a relay thread sends)."""


class Bus(Protocol):
    """Messages between nodes: small JSON objects, at most once."""

    async def start(self, on_message: Callable[[dict[str, Any]], None]) -> None: ...
    def publish(self, message: dict[str, Any], to: Collection[str] = ()) -> None:
        """Send to the nodes of these names, or to every other node; never waits, drops when
        overloaded. Others may hear what is addressed, too."""

    async def stop(self) -> None: ...


class Links(Protocol):
    """Signed links for mails."""

    def confirm_url(self, digest_id: str) -> str: ...
    def unsubscribe_url(self, user_id: str, channel: str) -> str: ...


Dice = Callable[[], float]
