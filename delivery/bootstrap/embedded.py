"""Everything in one process: ``delivery up``, and what ``embed`` runs without a cluster.

Owns: the stand-ins for services that are not set (SQLite, memory broker, mail and SMS sinks, a
development secret), and the lock that keeps a second process off them.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from delivery import resources
from delivery.api.demo_agent import DemoAgent
from delivery.api.operators.sessions import LINK_LIFETIME, MAX_LIFETIME
from delivery.api.problems import Problem
from delivery.bootstrap.chain import CLOSE_TIMEOUT, attach, make_chain
from delivery.bootstrap.gateway import reload_node, serve_node, with_port
from delivery.bootstrap.ledger import owner_url
from delivery.bootstrap.node import Node
from delivery.bootstrap.tokens import issue
from delivery.bus.resend import LoopResend
from delivery.callers.principal import Principal
from delivery.config import Settings, secret
from delivery.domain.users.contact import Contact
from delivery.ledger import migrate
from delivery.process.data_directory import (
    audit_secret,
    development_secret,
    locked,
    make_data_dir,
)
from delivery.process.event_loop import StopSignal
from delivery.process.reloading import Loaded
from delivery.tasks.broker.embedded import EmbeddedWorker
from delivery.tokens import SCOPES
from delivery.transports.sinks import MailSink, SinkInbox, SmsSink

logger = logging.getLogger(__name__)

USER = "demo"
SERVICE = "demo-service"
TOKEN_TTL = 30 * 86_400.0
DEMO_TOKEN_TTL = 3_600.0
DRAIN = 2.0
_SINK_NUMBER = "+15005550006"
_SINK_ACCOUNT = "AC" + "0" * 32


@dataclass(frozen=True, slots=True)
class Address:
    """Addresses of a running ``delivery up``, and tokens for it.

    Attributes:
        page: the dashboard, with a code in its fragment that opens one session.
        services: names and places of the services in use, for display.
        client_token / service_token: ``None`` where an identity provider makes the tokens.
    """

    url: str
    page: str
    user: str
    client_token: str | None
    service_token: str | None
    services: tuple[tuple[str, str], ...]


class Embedded:
    """A node with its chain in the same process."""

    def __init__(self, settings: Settings) -> None:
        """Lock the data directory and make the stand-ins.

        Raises:
            ConfigError: another process holds the directory, or a setting is wrong.
        """
        self.given = settings
        self.inbox = SinkInbox()
        make_data_dir(settings.data_dir)
        with ExitStack() as held:
            held.enter_context(locked(settings.data_dir))
            self.settings = self._with_stand_ins(settings, held)
            self.node = Node(
                self.settings, "up", inbox=self.inbox, demo_agent=self._make_demo_agent
            )
            self._worker = EmbeddedWorker(self.node.celery)
            self._closing = AsyncExitStack()
            self._closing.callback(held.pop_all().close)

    def _make_demo_agent(self, node: Node) -> DemoAgent:
        settings = self.settings
        demo_ttl = min(DEMO_TOKEN_TTL, settings.max_secret_token_ttl)
        self._demo_agent = DemoAgent(
            USER,
            lambda: issue(settings, USER, scopes=None, ttl=demo_ttl),
            node.emitter,
            is_quick=settings.policies == demo_policies(),
        )
        return self._demo_agent

    def _with_stand_ins(self, settings: Settings, held: ExitStack) -> Settings:
        found: dict[str, Any] = {}
        if settings.jwt_secret is None and settings.jwks_url is None:
            found["jwt_secret"] = SecretStr(development_secret(settings.data_dir))
        elif settings.link_secrets[0] is None:
            found["link_secret"] = SecretStr(development_secret(settings.data_dir))
        if settings.audit_secret is None:
            found["audit_secret"] = SecretStr(audit_secret(settings.data_dir))
        if settings.smtp_url is None:
            mail = MailSink(inbox=self.inbox)
            mail.start()
            held.callback(mail.stop)
            found["smtp_url"] = SecretStr(mail.url)
        if settings.sms_url is None:
            token = secrets.token_hex(16)
            sms = SmsSink(token=token, account=_SINK_ACCOUNT, inbox=self.inbox)
            sms.start()
            held.callback(sms.stop)
            found |= {
                "sms_url": sms.url,
                "sms_account": _SINK_ACCOUNT,
                "sms_from": _SINK_NUMBER,
                "sms_token": SecretStr(token),
            }
        return settings.model_copy(update=found)

    async def open(self) -> None:
        """Migrate, start the node, then worker and beat. The gateway is started by its owner."""
        node = self.node
        await asyncio.to_thread(migrate.upgrade, owner_url(self.settings))
        if self.given.smtp_url is None and self.given.sms_url is None:
            await asyncio.to_thread(self._add_demo_contact)
        self._closing.push_async_callback(node.close)
        await node.open()
        resend = LoopResend(asyncio.get_running_loop(), node.gateway.resend, node.gateway.wake)
        self._make_chain = partial(
            make_chain,
            ledger=node.ledger,
            relay=node.relay,
            resend=resend,
            queue_copy=node.copies.put,
            trim=node.copies.trim,
        )
        self._parts = self._make_chain(self.settings, policies=node.policies)
        attach(node.celery, lambda: self._parts)
        self._closing.push_async_callback(asyncio.to_thread, self._close_chain)
        self._closing.push_async_callback(asyncio.to_thread, self._worker.stop)
        await asyncio.to_thread(self._worker.start)
        self._closing.push_async_callback(self._demo_agent.close)

    def _close_chain(self) -> None:
        self._parts.executor.close(CLOSE_TIMEOUT)

    def use(self, loaded: Loaded) -> None:
        """Go on with settings, policies and limits that were read anew. Tasks in progress end with
        those of before.

        Raises:
            ConfigError: nothing has changed.
        """
        parts = self._make_chain(loaded.settings, policies=loaded.policies)
        self.node.use(loaded)
        self._parts = parts
        self.settings = loaded.settings

    async def close(self) -> None:
        """Let tasks end, then stop everything in reverse order and give the directory back."""
        await self._closing.aclose()

    async def address(self) -> Address:
        """Addresses and tokens, once the node listens."""
        settings, url = self.settings, self.settings.base_url
        client = service = None
        if settings.jwt_secret is not None:
            ttl = min(TOKEN_TTL, settings.max_secret_token_ttl)
            client = issue(settings, USER, scopes=None, ttl=ttl)
            service = issue(settings, SERVICE, scopes=("emit", "read", "operate"), ttl=ttl)
        ends_at = datetime.now(UTC) + timedelta(seconds=LINK_LIFETIME + MAX_LIFETIME)
        operator = Principal(SERVICE, frozenset(SCOPES), False, ends_at, issued_at=time.time())
        try:
            page = await self.node.sessions.link(operator)
        except Problem as error:
            # Redis, which keeps links, may be away now: that is no reason not to serve.
            logger.warning("no link that opens the dashboard: %s; sign in with a token", error)
            page = f"{url}/"
        return Address(url, page, USER, client, service, self._services())

    def _add_demo_contact(self) -> None:
        """Give the demonstration's user contacts that only the sinks deliver to."""
        contacts = self.node.ledger.contacts
        if contacts.get(USER) is None:
            contacts.put(Contact(USER, email="demo@example.org", phone="+15005550010"))

    def _services(self) -> tuple[tuple[str, str], ...]:
        given = self.given
        return (
            ("Ledger", _place(given.database_url, f"SQLite in {given.data_dir}/")),
            ("Bus", _place(given.redis_url, "in memory")),
            ("Broker", _place(given.broker_url or given.redis_url, "in memory")),
            ("Mail", _place(given.smtp_url, "kept here, shown on the page")),
            ("SMS", given.sms_url or "kept here, shown on the page"),
        )


def _place(url: SecretStr | None, otherwise: str) -> str:
    """Scheme and host of a service, without its credentials."""
    plain = secret(url)
    if plain is None:
        return otherwise
    scheme, _, rest = plain.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"


def demo_policies() -> Path:
    """The policy file of the demonstration, whose chain takes seconds.

    Raises:
        ConfigError: the package lacks it.
    """
    return resources.file("config", "policies-demo.toml")


async def run_up(settings: Settings, *, ready: Callable[[Address], None]) -> None:
    """Run everything until a signal stops it.

    Args:
        ready: called with the addresses once the node listens.

    Raises:
        ConfigError: a setting is wrong, the address is taken, or another process holds the data
            directory.
    """
    embedded = Embedded(with_port(settings))
    stop_signal = StopSignal(on_reload=lambda: reload_node(embedded.node, embedded.use))
    try:
        await embedded.open()
        await serve_node(embedded.node)
        try:
            ready(await embedded.address())
            await stop_signal.wait()
        finally:
            await embedded.node.gateway.stop(DRAIN)
    finally:
        await embedded.close()
