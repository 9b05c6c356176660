"""The ledger for the event loop: a few threads, a bounded queue, a timeout for each call.

Owns: the threads and the bounds. Never does: group commit, whose order matters: see the journal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any, TypeVar

from delivery.domain.lifecycle import Confirmation
from delivery.domain.operators.figures import Snapshot
from delivery.domain.operators.history import Point
from delivery.domain.policy import Policies
from delivery.domain.records import (
    Confirmed,
    Digest,
    Erased,
    EventFilter,
    FeedMark,
    InboxFilter,
    InboxItem,
    Matches,
    Owed,
    RecordedReceipt,
    SentMessage,
    Stored,
    Timeline,
)
from delivery.domain.run_tokens import RunRow
from delivery.domain.stores.ledger import Ledger
from delivery.domain.users.contact import Contact
from delivery.domain.users.receipts import ProviderReceipt, Suppression
from delivery.domain.users.revocation import Revocation, RevocationKind
from delivery.domain.users.web_push import WebPush
from delivery.domain.webhooks.endpoints import Endpoint
from delivery.domain.webhooks.messages import EndpointState, Replayed, WebhookRow
from delivery.errors import LedgerUnavailable

T = TypeVar("T")

CALL_TIMEOUT = 12.0
MAX_CALLS = 256


class LedgerAccess:
    """Implements the ``Reads`` and ``Writes`` ports: each call of the ledger in a thread."""

    def __init__(self, ledger: Ledger, threads: int = 4) -> None:
        self._ledger = ledger
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="delivery-ledger")
        self._calls = 0

    async def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run a blocking function in one of the threads.

        Raises:
            LedgerUnavailable: no answer within 12 s, or too many calls wait already.
        """
        if self._calls >= MAX_CALLS:
            raise LedgerUnavailable("too many ledger reads wait already; try again")
        self._calls += 1
        try:
            async with asyncio.timeout(CALL_TIMEOUT):
                return await asyncio.get_running_loop().run_in_executor(
                    self._pool, lambda: function(*args, **kwargs)
                )
        except TimeoutError:
            raise LedgerUnavailable(
                f"the ledger did not answer within {CALL_TIMEOUT:g} s"
            ) from None
        finally:
            self._calls -= 1

    def close(self) -> None:
        """Take no more calls; calls in progress end by themselves."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    # Reads

    async def event(self, event_id: str) -> Timeline | None:
        """See ``Reads``."""
        return await self.call(self._ledger.events.get, event_id)

    async def events(self, event_ids: Sequence[str]) -> list[Stored]:
        """See ``Reads``."""
        return await self.call(self._ledger.events.read, event_ids)

    async def find(
        self, which: EventFilter, *, after: str | None = None, limit: int = 50
    ) -> tuple[list[Stored], str | None]:
        """See ``Reads``."""
        return await self.call(self._ledger.events.find, which, after=after, limit=limit)

    async def count(self, which: EventFilter) -> Matches:
        """See ``Reads``."""
        return await self.call(self._ledger.events.count, which)

    async def open_events(self, user_id: str) -> dict[str, int]:
        """See ``Reads``."""
        return await self.call(self._ledger.events.open_of, user_id)

    async def feed(
        self,
        user_id: str,
        start: FeedMark | timedelta | None,
        *,
        by: str,
        after: int,
        limit: int,
    ) -> tuple[list[Owed], FeedMark | None]:
        """See ``Reads``."""
        return await self.call(
            self._ledger.feed.page, user_id, start, by=by, after=after, limit=limit
        )

    async def first_feed(
        self, user_id: str, cursor: str | None, *, by: str, runs_of: int, limit: int
    ) -> tuple[dict[str, int], list[Owed], FeedMark | None]:
        """See ``Reads``."""
        first_page = self._ledger.feed.first_page
        return await self.call(first_page, user_id, cursor, by=by, runs_of=runs_of, limit=limit)

    async def run(self, user_id: str, run_id: str) -> RunRow | None:
        """See ``Reads``."""
        return await self.call(self._ledger.runs.get, user_id, run_id)

    async def digest(self, digest_id: str) -> tuple[Digest, tuple[str, ...]] | None:
        """See ``Reads``."""
        return await self.call(self._ledger.digests.get, digest_id)

    async def contact(self, user_id: str) -> Contact | None:
        """See ``Reads``."""
        return await self.call(self._ledger.contacts.get, user_id)

    async def inbox(
        self, user_id: str, which: InboxFilter, *, after: str | None, limit: int
    ) -> tuple[list[InboxItem], str | None, int]:
        """See ``UserInbox``."""
        return await self.call(self._inbox, user_id, which, after, limit)

    def _inbox(
        self, user_id: str, which: InboxFilter, after: str | None, limit: int
    ) -> tuple[list[InboxItem], str | None, int]:
        # Counted first: what arrives in between is on the page, and is counted the next time.
        unread = self._ledger.inbox.unread(user_id, which.types)
        return *self._ledger.inbox.page(user_id, which, after=after, limit=limit), unread

    async def mark_inbox(
        self, user_id: str, ids: Sequence[str], *, read: bool | None, archived: bool | None
    ) -> list[str]:
        """See ``UserInbox``."""
        mark = self._ledger.inbox.mark
        return await self.call(mark, user_id, ids, read=read, archived=archived)

    async def read_inbox(
        self, user_id: str, up_to: str | None, types: Collection[str]
    ) -> list[str]:
        """See ``UserInbox``."""
        return await self.call(self._ledger.inbox.read_up_to, user_id, up_to, types)

    async def suppressed(self, contact: Contact) -> dict[str, Suppression]:
        """See ``Reads``."""
        return await self.call(self._ledger.suppressions.of, contact)

    async def suppressions(
        self, *, after: str | None = None, limit: int = 50
    ) -> tuple[list[Suppression], str | None]:
        """See ``Reads``."""
        return await self.call(self._ledger.suppressions.page, after=after, limit=limit)

    async def snapshot(self) -> Snapshot:
        """See ``Reads``."""
        return await self.call(self._snapshot)

    def _snapshot(self) -> Snapshot:
        ledger = self._ledger
        return Snapshot(ledger.statistics.stats(), ledger.alerts.firing(), ledger.nodes.all())

    async def sent_messages(self, event_id: str) -> list[SentMessage]:
        """See ``Reads``."""
        return await self.call(self._ledger.sent_messages.of_event, event_id)

    async def sent_message(self, message_id: int) -> SentMessage | None:
        """See ``Reads``."""
        return await self.call(self._ledger.sent_messages.get, message_id)

    async def history(self, step: int, since: datetime, until: datetime) -> list[Point]:
        """See ``Reads``."""
        return await self.call(self._ledger.history.read, step, since, until)

    async def now(self) -> datetime:
        """See ``Reads``."""
        return await self.call(self._ledger.now)

    async def revocations(
        self, since: datetime | None, after: Revocation | None, limit: int
    ) -> list[Revocation]:
        """See ``Reads``."""
        return await self.call(self._ledger.revocations.page, since, after, limit)

    async def ping(self) -> None:
        """See ``Reads``."""
        await self.call(self._ledger.ping)

    # Writes

    async def confirm(
        self, confirmations: Sequence[Confirmation], *, digest_id: str | None = None
    ) -> Confirmed:
        """See ``Writes``."""
        return await self.call(
            self._ledger.confirmations.confirm, confirmations, digest_id=digest_id
        )

    async def cloud_event_ids(self, keys: Sequence[tuple[str, str]]) -> list[str]:
        """See ``Writes``."""
        return await self.call(self._ledger.cloud_events.ids, keys)

    async def expedite(self, event_ids: Sequence[str]) -> None:
        """See ``Writes``."""
        await self.call(self._ledger.operations.expedite, event_ids)

    async def replay(
        self,
        which: EventFilter | Sequence[str],
        *,
        policies: Policies,
        dry_run: bool = False,
        after: str | None = None,
        limit: int | None = None,
        actor: str = "",
    ) -> list[str]:
        """See ``Writes``."""
        return await self.call(
            self._ledger.operations.replay,
            which,
            policies=policies,
            dry_run=dry_run,
            after=after,
            limit=limit,
            actor=actor,
        )

    async def record_receipts(
        self, found: Sequence[ProviderReceipt]
    ) -> list[RecordedReceipt | None]:
        """See ``Writes``."""
        return await self.call(self._ledger.receipts.record, found)

    async def use_token(self, token: str, body: str) -> bool:
        """See ``Writes``."""
        return await self.call(self._ledger.receipts.use_token, token, body)

    async def unsuppress(self, address: str, *, actor: str = "") -> bool:
        """See ``Writes``."""
        return await self.call(self._ledger.suppressions.remove, address, actor=actor)

    async def put_contact(
        self, contact: Contact, *, actor: str = "", keeps_verified: bool = False
    ) -> Contact:
        """See ``Writes``."""
        return await self.call(
            self._ledger.contacts.put, contact, actor=actor, keeps_verified=keeps_verified
        )

    async def verify(self, user_id: str, channel: str, name: str) -> Contact | None:
        """See ``Writes``."""
        return await self.call(self._ledger.contacts.verify, user_id, channel, name)

    async def delete_contact(self, user_id: str, *, actor: str = "") -> bool:
        """See ``Writes``."""
        return await self.call(self._ledger.contacts.delete, user_id, actor=actor)

    async def add_web_push(self, user_id: str, new: WebPush, *, actor: str = "") -> Contact:
        """See ``Writes``."""
        return await self.call(self._ledger.contacts.add_web_push, user_id, new, actor=actor)

    async def forget_web_push(self, user_id: str, endpoint: str, *, actor: str = "") -> bool:
        """See ``Writes``."""
        return await self.call(
            self._ledger.contacts.forget_web_push, user_id, endpoint, actor=actor
        )

    async def erase_events(self, user_id: str, limit: int) -> int:
        """See ``Writes``."""
        return await self.call(self._ledger.erasure.erase_events, user_id, limit)

    async def erase_rest(self, user_id: str, *, events: int, actor: str) -> Erased:
        """See ``Writes``."""
        return await self.call(self._ledger.erasure.erase_rest, user_id, events=events, actor=actor)

    async def record_act(self, kind: str, user_id: str, facts: Mapping[str, Any]) -> None:
        """See ``Writes``."""
        await self.call(self._ledger.audit.append, kind, None, user_id, facts)

    async def opt_out(self, user_id: str, channel: str) -> None:
        """See ``Writes``."""
        await self.call(self._ledger.contacts.opt_out, user_id, channel)

    async def choose(self, user_id: str, channel: str, refused: Sequence[str]) -> tuple[str, ...]:
        """See ``Writes``."""
        return await self.call(self._ledger.contacts.choose, user_id, channel, refused)

    async def revoke(
        self,
        kind: RevocationKind,
        subject: str,
        *,
        before: datetime | None = None,
        lifetime: timedelta,
        actor: str = "",
    ) -> Revocation:
        """See ``Writes``."""
        return await self.call(
            self._ledger.revocations.add,
            kind,
            subject,
            before=before,
            lifetime=lifetime,
            actor=actor,
        )

    async def purge_revocations(self) -> int:
        """See ``Writes``."""
        return await self.call(self._ledger.revocations.purge)

    # Webhooks

    async def webhooks(self) -> list[EndpointState]:
        """See ``Webhooks``."""
        return await self.call(self._ledger.webhooks.states)

    async def webhook_messages(self, name: str, limit: int) -> list[WebhookRow]:
        """See ``Webhooks``."""
        return await self.call(self._ledger.webhooks.messages, name, limit=limit)

    async def enable_webhook(self, name: str) -> EndpointState | None:
        """See ``Webhooks``."""
        return await self.call(self._ledger.webhooks.enable, name)

    async def disable_webhook(self, name: str, reason: str) -> bool:
        """See ``Webhooks``."""
        return await self.call(self._ledger.webhooks.disable, name, reason)

    async def replay_webhook(self, endpoint: Endpoint, since: datetime, seconds: float) -> Replayed:
        """See ``Webhooks``."""
        return await self.call(self._ledger.webhooks.replay_for, endpoint, since, seconds)
