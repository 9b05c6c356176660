"""Stores about users: addresses, receipts, suppressions, the compliance log, revocations."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

from delivery.domain.audit import Checkpoint, Verified
from delivery.domain.records import (
    Erased,
    InboxFilter,
    InboxItem,
    RecordedReceipt,
)
from delivery.domain.users.contact import Contact
from delivery.domain.users.receipts import ProviderReceipt, Suppress, Suppression
from delivery.domain.users.revocation import Revocation, RevocationKind
from delivery.domain.users.verification import Verification
from delivery.domain.users.web_push import WebPush


class ContactStore(Protocol):
    """Keeps contacts, by user."""

    def get(self, user_id: str) -> Contact | None: ...
    def put(self, contact: Contact, *, actor: str = "", keeps_verified: bool = False) -> Contact:
        """Replace the user's contact. The compliance log gets the names of what changed.

        Effect: each unverified address gets one message that asks for its owner's agreement, within
            the limits of ``domain.verification``.

        Args:
            actor: who did it, for the log; also of ``delete``.
            keeps_verified: addresses of before that were verified stay so, beside ``verified``.

        Returns:
            The contact as it is stored.
        """

    def verify(self, user_id: str, channel: str, name: str) -> Contact | None:
        """Note that an address's owner agreed to messages; safe to repeat.

        Args:
            name: the address's ``fingerprint``.

        Returns:
            The contact; ``None`` if it has no such address any more.
        """

    def delete(self, user_id: str, *, actor: str = "") -> bool: ...
    def add_web_push(self, user_id: str, new: WebPush, *, actor: str = "") -> Contact:
        """Keep a browser's subscription. It replaces the one of the same endpoint or device; of too
        many the oldest ends. Safe to repeat.

        Returns:
            The contact.
        """

    def forget_web_push(self, user_id: str, endpoint: str, *, actor: str = "") -> bool:
        """Forget a browser's subscription; ``False`` if there was none. Safe to repeat."""

    def opt_out(self, user_id: str, channel: str) -> None: ...
    def choose(self, user_id: str, channel: str, refused: Sequence[str]) -> tuple[str, ...]:
        """Replace what the user refuses of one channel: the channel, or classes on it.

        Returns:
            What was refused before.
        """


class VerificationStore(Protocol):
    """Keeps messages to unverified addresses until they are sent."""

    def due(self) -> tuple[str, ...]:
        """The channels on which messages wait; they are due again some seconds later."""

    def claim(self, channel: str) -> Verification | None:
        """Take one message to send; ``None`` if none waits.

        A message whose worker dies is never taken again: it may have been sent.
        """

    def end(self, verification: Verification, *, is_sent: bool, retry_in: float | None) -> None:
        """Record how the attempt ended.

        Args:
            retry_in: seconds until the next one; ``None``: there is none.
        """


class InboxStore(Protocol):
    """Keeps what users read and archived. Each call looks at a window of the newest events."""

    def page(
        self, user_id: str, which: InboxFilter, *, after: str | None = None, limit: int = 50
    ) -> tuple[list[InboxItem], str | None]:
        """Messages, newest first; a page may hold fewer than ``limit``, or none, before the last.

        Args:
            after: the ``next`` of the page before, or an event's id.

        Raises:
            ValueError: ``after`` is neither.
        """

    def unread(self, user_id: str, types: Collection[str] = ()) -> int:
        """How many messages are neither read nor archived; counts to 100."""

    def mark(
        self, user_id: str, ids: Sequence[str], *, read: bool | None, archived: bool | None
    ) -> list[str]:
        """Set (``True``) or take off (``False``) marks. Safe to repeat: the first time stays.

        Returns:
            The ids that are this user's; others are left alone.
        """

    def read_up_to(self, user_id: str, up_to: str | None, types: Collection[str]) -> list[str]:
        """Mark up to 100 unread messages as read, up to and with an event, the newest first.

        Returns:
            Their ids.

        Raises:
            ValueError: ``up_to`` is no event's id.
        """


class ReceiptStore(Protocol):
    """Keeps what providers report about messages."""

    def record(self, found: Sequence[ProviderReceipt]) -> list[RecordedReceipt | None]:
        """Record receipts, each in a transaction; ``None`` for one about an unknown message.

        Effect: the first receipt of a status adds a row. By a failure the attempts of all events in
        the message become ``failed`` for good, the next step of those on the chain is due now, and
        the address may be suppressed; by a delivery an attempt whose outcome was unknown becomes
        ``delivered``, and is not repeated. A confirmed event stays confirmed. Safe to repeat, in
        any order.
        """

    def use_token(self, token: str, body: str) -> bool:
        """Note a callback's token with the hash of its body; ``False`` if the token came with
        another body before. Both are hexadecimal hashes of 64 characters."""


class SuppressionStore(Protocol):
    """Keeps the addresses that get no message."""

    def page(
        self, *, after: str | None = None, limit: int = 50
    ) -> tuple[list[Suppression], str | None]:
        """Those in force, newest first; ``after`` is the opaque ``next`` of the page before.

        Raises:
            ValueError: ``after`` is not the end of a page.
        """

    def of(self, contact: Contact) -> dict[str, Suppression]:
        """Channel -> the suppression of the contact's address there."""

    def add(
        self,
        channel: str,
        address: str,
        reason: Suppress,
        *,
        provider: str,
        code: str | None,
        user_id: str = "",
    ) -> None:
        """Suppress an address, or prolong a soft suppression; a permanent one stays as it is.

        Args:
            user_id: whose address it is.
        """

    def remove(self, address: str, *, actor: str = "") -> bool:
        """Take an address off the list, on every channel; ``False`` if it was not on it."""


class PushTargets(Protocol):
    """Notes what push services answered about users' targets that are gone (404, 410)."""

    def gone(self, urls: Sequence[str]) -> frozenset[str]:
        """Those that were gone for a week: they are not called any more. None while the ledger is
        away."""

    def report(self, gone: Mapping[str, str], alive: Sequence[str]) -> None:
        """Note the answers to one notice; nothing while the ledger is away.

        Args:
            gone: URL -> the status that says so.
            alive: URLs that took it.
        """

    def forget_web_push(self, user_id: str, endpoint: str) -> None:
        """Forget a browser's subscription that ended; nothing while the ledger is away."""


class AuditStore(Protocol):
    """Keeps the compliance log: numbered, append-only rows, chained under a key by one sealer."""

    def append(
        self, kind: str, event_id: str | None, user_id: str, facts: Mapping[str, Any]
    ) -> None:
        """Append a row.

        Args:
            user_id: whom it is about; empty for no user. The log has a pseudonym.
        """

    def seal(self, limit: int = 1_000) -> int: ...
    def head(self) -> Checkpoint | None:
        """A signed checkpoint of the last seal; ``None`` before the first."""

    def follows(self, checkpoint: Checkpoint) -> bool:
        """Whether the log goes on from a checkpoint, as far as its seals tell."""

    def verify(self, checkpoints: Sequence[Checkpoint] = ()) -> Verified:
        """Check the log, and that it goes on from each checkpoint; no finding when it is whole."""

    def export(self, after: int = 0) -> Iterator[dict[str, Any]]:
        """Every row after this number as a document, in order."""

    def prune(self, before: datetime, *, dry_run: bool = False) -> int:
        """Delete rows older than ``before`` from the log's beginning; returns their number."""


class RevocationStore(Protocol):
    """Keeps revocations of tokens until the tokens have expired."""

    def add(
        self,
        kind: RevocationKind,
        subject: str,
        *,
        before: datetime | None = None,
        lifetime: timedelta,
        actor: str = "",
    ) -> Revocation:
        """Revoke one token, or all that a user was issued before an instant.

        Args:
            before: of a user; ``None`` is now.
            lifetime: the longest time for which a token is valid after it was issued.

        Returns:
            The revocation that counts now: of two of one user the later instant.

        Raises:
            Overloaded: ``MAX_REVOCATIONS`` count already.

        Effect: one row. Safe to repeat.
        """

    def page(
        self, since: datetime | None, after: Revocation | None = None, limit: int = 1_000
    ) -> list[Revocation]:
        """Revocations that still count, recorded from ``since`` on (``None``: all), after the last
        one of the page before."""

    def purge(self) -> int:
        """Delete revocations of tokens that have expired. Returns how many."""


class ErasureStore(Protocol):
    """Erases users. Safe to repeat; events that come meanwhile are a new user's."""

    def erase_events(self, user_id: str, limit: int = 500) -> int:
        """Delete one page of the user's events with their attempts, confirmations and copies.

        Returns:
            Their number; fewer than ``limit`` when none is left.
        """

    def erase_rest(self, user_id: str, *, events: int, actor: str = "") -> Erased:
        """Delete contact, digests, runs and receipts, and the user's name in the compliance log.

        Args:
            events: how many were deleted before, for the log.
            actor: who did it, for the log.

        Effect: a row of the log; its earlier rows go on under the user's pseudonym.
        """
