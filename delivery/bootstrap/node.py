"""A process that holds sockets: its parts, made, opened and closed in order.

Owns: how gateway, emitter, ledger and the way to the chain meet. Never does: serve a port, or run
the chain itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from delivery.api.server import Gateway
from delivery.bootstrap.chain import HintedSweep, make_celery
from delivery.bootstrap.settings_parts import make_links
from delivery.bootstrap.sockets import make_copies
from delivery.bootstrap.store import database_url
from delivery.bus.redis_bus import LocalBus, RedisBus
from delivery.config import Settings, load_policies, load_thresholds, secret
from delivery.domain.lifecycle import State
from delivery.domain.ports import Accepted, Bus, Inbox
from delivery.emitter.emitter import Emitter, EmitterCore
from delivery.emitter.intake import HttpIntake
from delivery.emitter.receipts import Receipts
from delivery.emitter.second_copies import CopyThread
from delivery.errors import Overloaded
from delivery.gateway.auth import Authenticator
from delivery.gateway.parts import GatewayParts
from delivery.gateway.registry import Registry
from delivery.gateway.stage import Stage
from delivery.ledger import SqlLedger
from delivery.ledger.journal.journal import JournalThread
from delivery.ledger.journal.spool import Spool
from delivery.process.data_directory import make_data_dir
from delivery.process.heartbeat import Heart, node_name
from delivery.protocol import Limits
from delivery.tasks.relay import Relay
from delivery.tasks.sweep import Sweeper

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger(__name__)

MAX_PENDING = 20_000


class Node:
    """Everything of one process that holds sockets, and the door for emitters in it.

    Args:
        settings: with a secret that may be used here, and the final port.
        kind: what the nodes table calls this process.
        index: which of several processes on one port this is.
        inbox: the embedded sinks' messages.
    """

    def __init__(
        self,
        settings: Settings,
        kind: str,
        *,
        index: int | None = None,
        inbox: Inbox | None = None,
    ) -> None:
        self.settings = settings
        self.name = node_name(settings, kind, index)
        self.kind = kind
        self.policies = load_policies(settings)
        self.ledger = SqlLedger(database_url(settings))
        self.copies = make_copies(settings, self.ledger)
        self.celery: Celery = make_celery(settings)
        self.relay = Relay(self.celery)
        spool = Spool(make_data_dir(settings.data_dir) / "spool", self.name, settings.spool_bytes)
        self.journal = JournalThread(self.ledger, spool=spool, max_pending=MAX_PENDING)
        sweeper = Sweeper(self.ledger, self.policies, self.relay)
        self._sweep = HintedSweep(sweeper.sweep)
        self._spool = spool
        self._parts = self._make_parts(settings, inbox)
        self.gateway = Gateway(self._parts, self.copies.read)
        self._core: EmitterCore | None = None
        self._closing = AsyncExitStack()

    def _make_parts(self, settings: Settings, inbox: Inbox | None) -> GatewayParts:
        bus = _bus(settings, self.name)
        return GatewayParts(
            node=self.name,
            ledger=self.ledger,
            journal=self.journal,
            intake=_NotYet(),
            registry=Registry(self.name, bus),
            auth=_authenticator(settings),
            links=make_links(settings),
            policies=self.policies,
            bus=bus,
            tasks=self.relay,
            limits=Limits(max_in_flight=settings.max_in_flight),
            public_url=settings.base_url,
            wake_chain=self._sweep.hint,
            sms_token=secret(settings.sms_token),
            email_callback_secret=secret(settings.email_callback_secret),
            trusted_proxies=settings.trusted_proxies,
            thresholds=load_thresholds(settings),
            inbox=inbox,
        )

    async def open(self) -> None:
        """Start threads and the emitter on this loop; the gateway is started by its owner."""
        loop = asyncio.get_running_loop()
        close = self._closing
        close.callback(self.ledger.close)
        close.callback(self.copies.close)
        close.callback(self._spool.close)
        self.journal.start(loop)
        close.push_async_callback(self.journal.stop)
        copies = CopyThread(self.copies.put)
        heart = Heart(
            self.ledger, self.name, self.kind,
            connections=lambda: self.connections,
            info=self._info,
        )  # fmt: skip
        for part in (self.relay, self._sweep, copies, heart):
            part.start()
            _closes_beside_the_loop(close, part.stop)
        receipts = Receipts(loop, self._is_confirmed)
        self._core = EmitterCore(
            self.policies,
            self.journal,
            self._parts.registry,
            utcnow=lambda: datetime.now(UTC),
            receipts=receipts,
            loop=loop,
            on_hand_over=self._sweep.hint,
            on_auth=copies.put,
            max_backlog=MAX_PENDING,
        )
        close.callback(self._core.close)
        close.push_async_callback(self._parts.auth.close)
        self._parts.intake = HttpIntake(self._core)
        self._parts.on_confirmed = receipts.confirmed

    def put_on_stage(self, stage: Stage) -> None:
        """Let the demonstration's page find its agent here; before the gateway starts."""
        self._parts.stage = stage

    @property
    def connections(self) -> int:
        """Clients connected to this process."""
        return self._parts.registry.connections

    @property
    def live(self) -> int:
        """Those of them that have caught up with the ledger."""
        return self.gateway.path.live

    def acked(self, user_id: str) -> int:
        """See ``Registry.acked``."""
        return self._parts.registry.acked(user_id)

    def on_confirmed(self, told: Callable[[Sequence[str]], None]) -> None:
        """Also tell somebody else which events were just confirmed here; on the loop's thread."""
        receipts = self._parts.on_confirmed

        def both(ids: Sequence[str]) -> None:
            receipts(ids)
            told(ids)

        self._parts.on_confirmed = both

    def _info(self) -> dict[str, Any]:
        core = self._core
        return {
            "url": self.settings.base_url,
            "backlog": self.journal.backlog,
            "performance_s": None if core is None else core.performance_age(),
        }

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
            InvalidContext: an id cannot address anybody; ``Overloaded``: not started yet.
        """
        if self._core is None:
            raise Overloaded("the gateway has not started yet; emit after the app's start-up")
        return self._core.emitter(user_id, run_id, thread_id, performance)

    async def _is_confirmed(self, event_id: str) -> bool:
        found = await self.journal.call(self.ledger.events.read, [event_id])
        return bool(found) and found[0].state is State.CONFIRMED


class _NotYet:
    """The intake before the loop runs."""

    async def accept(self, items: Sequence[Any]) -> list[Accepted | Exception]:
        return [Overloaded("the gateway is starting")] * len(items)


def _bus(settings: Settings, name: str) -> Bus:
    url = secret(settings.redis_url)
    return LocalBus() if url is None else RedisBus(url, name)


def _authenticator(settings: Settings) -> Authenticator:
    return Authenticator(
        secret(settings.jwt_secret),
        secret(settings.jwt_secret_previous),
        settings.jwks_url,
        settings.jwt_audience,
        settings.jwt_issuer,
    )


def _closes_beside_the_loop(stack: AsyncExitStack, stop: Callable[[], None]) -> None:
    """Joining a thread must not stop the loop that the thread may be waiting for."""
    stack.push_async_callback(asyncio.to_thread, stop)
