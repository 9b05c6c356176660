"""A process that holds sockets: its parts, made, opened and closed in order.

Owns: the wiring of gateway, emitter, ledger and relay. Never does: serve a port, or run
the chain itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from delivery.api.address_pages import AddressPages
from delivery.api.contacts import Contacts, ContactsApi
from delivery.api.demo import DemoApi
from delivery.api.demo_agent import DemoAgent
from delivery.api.events import EventsApi
from delivery.api.inbox import InboxApi
from delivery.api.look import Look
from delivery.api.operators.access import AccessApi
from delivery.api.operators.erasure import ErasureApi
from delivery.api.operators.history import HistoryApi
from delivery.api.operators.messages import MessagesApi
from delivery.api.operators.node_figures import NodeFigures
from delivery.api.operators.operations import OperationsApi
from delivery.api.operators.sessions import Place, Sessions
from delivery.api.operators.suppressions import SuppressionsApi
from delivery.api.operators.users import UsersApi
from delivery.api.operators.webhooks import WebhooksApi
from delivery.api.origins import Origins
from delivery.api.pages import Pages
from delivery.api.providers.callbacks import Callbacks
from delivery.api.providers.receipt_intake import ReceiptIntake
from delivery.api.routes import Handlers
from delivery.api.serving.admission import Admission, room_for_clients
from delivery.api.serving.server import Gateway
from delivery.api.tickets import Tickets
from delivery.api.web_push import WebPushApi
from delivery.bootstrap.audit import audit_keys
from delivery.bootstrap.broker import make_celery
from delivery.bootstrap.bus import make_bus, make_copies, make_one_time
from delivery.bootstrap.callbacks import make_callback_keys
from delivery.bootstrap.callers import (
    longest_ttl,
    make_authenticator,
    make_leases,
    make_rates,
    session_keys,
)
from delivery.bootstrap.ledger import database_url
from delivery.bootstrap.links import make_brand, make_links, push_public_key
from delivery.callers.revocations import RevocationReader
from delivery.callers.service_use import ServiceUse
from delivery.config import Settings, load_policies, load_thresholds, secret
from delivery.domain.event import Event
from delivery.domain.lifecycle import State
from delivery.domain.node_messages import Wake
from delivery.domain.transports import Inbox
from delivery.emitter.emitter import Emitter, EmitterCore
from delivery.emitter.intake import HttpIntake
from delivery.emitter.queue_copies import AttemptThread, QueueCopyThread
from delivery.emitter.receipts import Receipts
from delivery.emitter.traced import TracedCore
from delivery.gateway.fast_path import FastPath
from delivery.gateway.feed import FeedReader
from delivery.gateway.listeners import ConfirmationListeners, OnConfirmed, TracedConfirmations
from delivery.gateway.outcomes import Outcomes
from delivery.gateway.registry import Registry
from delivery.ledger import SqlLedger
from delivery.ledger.access import LedgerAccess
from delivery.ledger.counting import show_from_the_start
from delivery.ledger.journal.journal import JournalThread
from delivery.ledger.journal.spool import Spool
from delivery.process.data_directory import make_data_dir
from delivery.process.heartbeat import Heartbeat, node_name
from delivery.process.reloading import Loaded, Reloader
from delivery.protocol import Limits
from delivery.tasks.broker.relay import Relay
from delivery.tasks.hinted_sweep import HintedSweep
from delivery.tasks.sweep import Sweeper
from delivery.telemetry import tracing

if TYPE_CHECKING:
    from celery import Celery

    from delivery.bootstrap.outbox import GatewayRelay

logger = logging.getLogger(__name__)

MAX_PENDING = 20_000


class Node:
    """All parts of one process that holds sockets; makes emitters in it.

    Args:
        settings: with a secret that may be used here, and the final port.
        kind: kind of this process in the nodes table.
        index: which of several processes on one port this is.
        inbox: the embedded sinks' messages.
        demo_agent: makes the demonstration's agent, which emits through this node.
    """

    def __init__(
        self,
        settings: Settings,
        kind: str,
        *,
        index: int | None = None,
        inbox: Inbox | None = None,
        demo_agent: Callable[[Node], DemoAgent] | None = None,
    ) -> None:
        show_from_the_start()
        self.settings = settings
        self.name = node_name(settings, kind, index)
        self.kind = kind
        self.policies = load_policies(settings)
        self.reloader = Reloader(settings)
        self._links = make_links(settings)
        self._tracing = tracing.active()
        self._closing = AsyncExitStack()
        self._make_ledger(settings)
        self._make_live_path(settings)
        self._make_emitter(settings)
        self._make_gateway(settings, demo_agent, inbox)

    def _make_ledger(self, settings: Settings) -> None:
        self.ledger = SqlLedger(database_url(settings), audit_keys=audit_keys(settings))
        self.copies = make_copies(settings, self.ledger)
        self.celery: Celery = make_celery(settings)
        self.relay = Relay(self.celery)
        spool = Spool(make_data_dir(settings.data_dir) / "spool", self.name, settings.spool_bytes)
        self.journal = JournalThread(self.ledger, spool=spool, max_pending=MAX_PENDING)
        sweeper = Sweeper(self.ledger, self.policies, self.relay, wake=self._wake)
        self._sweep = HintedSweep(sweeper.sweep)
        self._spool = spool
        self._access = LedgerAccess(self.ledger)
        self.contacts = Contacts(
            reads=self._access, writes=self._access, on_unverified=self._sweep.hint
        )
        self._side_attempts = AttemptThread(self.ledger.recording.add_attempts)
        self._copy_thread = QueueCopyThread(self.copies.put, self._side_attempts.add)

    def _make_live_path(self, settings: Settings) -> None:
        self._bus = make_bus(settings, self.name)
        self._registry = Registry(
            self.name, self._bus, max_per_user=settings.max_connections_per_user
        )
        self._leases = make_leases(settings)
        self._rates = make_rates(settings, self._leases)
        self._auth = make_authenticator(settings)
        self._service_use = ServiceUse(self._access.record_act, self.name)
        self._auth.on_service = self._service_use
        self._receipts = Receipts(self._is_confirmed)
        traced = None if self._tracing is None else TracedConfirmations(self._tracing, self._access)
        self._listeners = ConfirmationListeners(self._receipts.confirmed, traced)
        self._path = self._live_path()
        self._auth.watch(self._path.check_principals)

    def _make_emitter(self, settings: Settings) -> None:
        make_core = (
            EmitterCore if self._tracing is None else partial(TracedCore, tracing=self._tracing)
        )
        self._core = make_core(
            self.policies,
            self.journal,
            self._registry,
            utcnow=lambda: datetime.now(UTC),
            receipts=self._receipts,
            on_hand_over=self._sweep.hint,
            on_auth=self._copy_thread.put,
            on_auth_pushed=self._side_attempts.pushed,
            max_backlog=MAX_PENDING,
        )
        self._intake = HttpIntake(self._core)
        self._outbox = _outbox(settings, self._intake, self.name)

    def _make_gateway(
        self,
        settings: Settings,
        demo_agent: Callable[[Node], DemoAgent] | None,
        inbox: Inbox | None,
    ) -> None:
        self._operations_api = operations = self._operations(inbox)
        self._once = make_one_time(settings)
        self._tickets = Tickets(self._auth, self._once)
        self._callbacks = self._make_callbacks()
        self.sessions = Sessions(
            self._auth,
            writes=self._access,
            once=self._once,
            revoke=self._path.revoke,
            keys=session_keys(settings),
            place=Place(settings.base_url, settings.trusted_proxies),
        )
        self.gateway = Gateway(
            self._path,
            self.journal,
            self._handlers(operations, demo_agent(self) if demo_agent is not None else None, inbox),
            operations.background,
            operations.count_malformed,
            operations.drain,
            Admission(
                settings.max_connections_per_address,
                settings.trusted_proxies,
                room_for_clients(),
            ),
            self._tickets.caller,
            Origins(settings.allowed_origins, settings.base_url, settings.trusted_proxies),
            settings.trusted_proxies,
            self.sessions.admit,
        )

    def _live_path(self) -> FastPath:
        async def queue_copies(user_id: str) -> list[Event]:
            return await self._access.call(self.copies.read, user_id)

        outcomes = Outcomes(
            self.journal,
            self._access,
            self._registry,
            on_confirmed=self._listeners.tell,
            wake_chain=self._sweep.hint,
        )
        outcomes.on_acked = self._listeners.traced("socket")
        return FastPath(
            self.name,
            auth=self._auth,
            bus=self._bus,
            limits=Limits(max_in_flight=self.settings.max_in_flight),
            rates=self._rates,
            outcomes=outcomes,
            reads=self._access,
            registry=self._registry,
            feed_reader=FeedReader(self._access, self.journal, queue_copies),
            revocations=self._auth.revocations,
            check=self._auth.check,
        )

    def _operations(self, inbox: Inbox | None) -> OperationsApi:
        return OperationsApi(
            self._auth,
            node=self.name,
            journal=self.journal,
            reads=self._access,
            registry=self._registry,
            thresholds=load_thresholds(self.settings),
            inbox=inbox,
            outages=(
                self.journal.outages,
                self._bus.outages,
                self.relay.outages,
                self.reloader.outages,
            ),
            figures=NodeFigures(
                node=self.name,
                journal=self.journal,
                registry=self._registry,
                spool_bytes=lambda: self._spool.pending_bytes,
                in_flight=lambda: self._path.in_flight,
            ),
        )

    async def _forget_copies(self, user_id: str) -> None:
        await self._access.call(self.copies.forget, user_id)

    def _handlers(
        self, operations: OperationsApi, demo_agent: DemoAgent | None, inbox: Inbox | None
    ) -> tuple[Handlers, ...]:
        settings, ledger, links = self.settings, self._access, self._links
        look = Look(make_brand(settings))
        return (
            EventsApi(
                self._auth,
                intake=self._intake,
                journal=self.journal,
                reads=ledger,
                writes=ledger,
                registry=self._registry,
                policies=self.policies,
                on_confirmed=self._listeners.of("http"),
                trace_url=settings.trace_url,
            ),
            ContactsApi(self._auth, self.contacts),
            WebPushApi(
                self._auth, reads=ledger, writes=ledger, public_key=push_public_key(settings)
            ),
            MessagesApi(self._auth, reads=ledger),
            HistoryApi(self._auth, reads=ledger),
            UsersApi(
                self._auth,
                reads=ledger,
                contact_of=self.contacts.get,
                of_user=self._path.reports.of_user,
                page=self._path.reports.page,
                total=operations.total,
            ),
            InboxApi(self._auth, inbox=ledger, tell=self._path.tell_inbox),
            ErasureApi(
                self._auth,
                reads=ledger,
                writes=ledger,
                disconnect=self._path.disconnect,
                forget_copies=self._forget_copies,
                forget_messages=None if inbox is None else inbox.forget,
            ),
            AccessApi(
                self._auth,
                writes=ledger,
                revoke=self._path.revoke,
                disconnect=self._path.disconnect,
                max_token_life=longest_ttl(settings) + settings.jwt_leeway,
            ),
            self._tickets,
            self.sessions,
            operations,
            DemoApi(self._auth, demo_agent),
            SuppressionsApi(self._auth, reads=ledger, writes=ledger),
            WebhooksApi(self._auth, webhooks=ledger),
            self._callbacks,
            Pages(
                reads=ledger,
                writes=ledger,
                links=links,
                on_confirmed=self._listeners.of("link"),
                trusted_proxies=settings.trusted_proxies,
                look=look,
            ),
            AddressPages(
                reads=ledger, writes=ledger, links=links, policies=self.policies, look=look
            ),
        )

    def _make_callbacks(self) -> Callbacks:
        intake = ReceiptIntake(
            reads=self._access,
            writes=self._access,
            policies=self.policies,
            on_confirmed=self._listeners.of("receipt"),
            wake_chain=self._sweep.hint,
        )
        return Callbacks(
            intake,
            self._access,
            make_callback_keys(self.settings),
            public_url=self.settings.base_url,
            trusted_proxies=self.settings.trusted_proxies,
        )

    async def open(self) -> None:
        """Start threads and the emitter on this loop; the gateway is started by its owner."""
        loop = self._loop = asyncio.get_running_loop()
        close = self._closing
        close.callback(self.ledger.close)
        close.callback(self.copies.close)
        close.callback(self._spool.close)
        close.push_async_callback(self._once.close)
        self.journal.start(loop)
        close.callback(self._access.close)
        close.push_async_callback(self.journal.stop)
        heartbeat = Heartbeat(
            self.ledger,
            self.name,
            self.kind,
            connections=lambda: self.connections,
            info=self._info,
        )
        # Stopped in reverse order: the attempts that the last copies make are recorded.
        parts = (self.relay, self._sweep, self._side_attempts, self._copy_thread, heartbeat)
        for part in parts:
            part.start()
            _stop_in_thread_on_close(close, part.stop)
        revoked = RevocationReader(self._auth.revocations, self._access, self._access)
        await revoked.start()
        close.push_async_callback(revoked.stop)
        self._core.start(loop)
        close.callback(self._core.close)
        if self._outbox is not None:
            self._outbox.start()
            _stop_in_thread_on_close(close, self._outbox.stop)
        self._auth.start()
        close.push_async_callback(self._auth.close)
        close.push_async_callback(self._service_use.close)
        if self._leases is not None:
            close.push_async_callback(self._leases.close)

    def _wake(self, users: Sequence[str]) -> None:
        """Let these users' connections on all gateways read the ledger; from the sweep's thread."""
        try:
            self._loop.call_soon_threadsafe(self._wake_all, list(users))
        except RuntimeError as error:
            logger.info("wake-up not sent, the gateway is shutting down: %s", error)

    def _wake_all(self, users: list[str]) -> None:
        self._path.wake(users)
        self._registry.peers.publish(Wake(node=self.name, users=users))

    @property
    def connections(self) -> int:
        """Clients connected to this process."""
        return self._registry.connections

    @property
    def live(self) -> int:
        """Connected clients that have caught up with the ledger."""
        return self.gateway.path.live

    def acked(self, user_id: str) -> int:
        """See ``Registry.acked``."""
        return self._registry.acked(user_id)

    def on_confirmed(self, callback: OnConfirmed) -> None:
        """Add a callback for events that are confirmed here."""
        self._listeners.add(callback)

    def _info(self) -> dict[str, Any]:
        return {
            "url": self.settings.base_url,
            "backlog": self.journal.backlog,
            "set_aside": self.journal.set_aside,
            "performance_s": self._core.performance_age(),
        }

    def use(self, loaded: Loaded) -> None:
        """Go on with settings, policies and limits that were read anew; on the loop's thread.

        Raises:
            ConfigError: nothing has changed.
        """
        settings = loaded.settings
        tokens = secret(settings.jwt_secret), secret(settings.jwt_secret_previous)
        self._auth.check_secrets(*tokens)
        keys = make_callback_keys(settings)
        if "jwt_secret" in loaded.changed or "jwt_secret_previous" in loaded.changed:
            self._auth.use_secrets(*tokens)
            self.sessions.use_keys(session_keys(settings))
        link, previous = settings.link_secrets
        if link is not None:
            self._links.use_secrets(link, previous)
        self._callbacks.use_keys(keys)
        self._operations_api.use_thresholds(loaded.thresholds)
        if "policies" in loaded.changed:
            self.policies.adopt(loaded.policies)
            self._core.kinds.forget()
        self.settings = settings

    async def close(self) -> None:
        """Stop in reverse order; what was accepted is in the ledger or the spool afterwards."""
        await self._closing.aclose()

    def emitter(
        self,
        user_id: str,
        run_id: str,
        thread_id: str | None = None,
        performance: bool = False,
    ) -> Emitter:
        """An emitter in this process.

        Raises:
            InvalidContext: an id is not valid; ``Overloaded``: not started yet.
        """
        return self._core.emitter(user_id, run_id, thread_id, performance)

    async def _is_confirmed(self, event_id: str) -> bool:
        found = await self._access.events([event_id])
        return bool(found) and found[0].state is State.CONFIRMED


def _outbox(settings: Settings, intake: HttpIntake, node: str) -> GatewayRelay | None:
    url = secret(settings.outbox_source)
    if url is None:
        return None
    # Its parts are loaded by gateways that carry an outbox, and by no other.
    from delivery.bootstrap.outbox import GatewayRelay

    return GatewayRelay(url, intake, node)


def _stop_in_thread_on_close(stack: AsyncExitStack, stop: Callable[[], None]) -> None:
    """Join a thread off the loop, for which that thread may be waiting."""
    stack.push_async_callback(asyncio.to_thread, stop)
