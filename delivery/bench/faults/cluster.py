"""A whole cluster of the run's own: PostgreSQL, Redis, gateways, workers and beat as processes.

Owns: their settings and logs, how they are wired through fault proxies, and that everything ends.
Never does: load or break anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from sqlalchemy import make_url

from delivery.bench.faults import replication
from delivery.bench.faults.proxy import FaultProxy, fault_proxy
from delivery.bench.faults.servers import (
    Server,
    any_redis,
    free_port,
    postgres,
    redis_server,
    wait_until,
)
from delivery.bench.processes import ended_by_sigterm
from delivery.errors import DeliveryError
from delivery.ledger import SqlLedger
from delivery.tokens import make_token
from delivery.transports.sinks import MailSink

READY_TIMEOUT = 60.0
STOP_TIMEOUT = 30.0


class CommandFailed(DeliveryError):
    """A command of the run ended by itself, or did not get ready."""


class Command:
    """``delivery ARGS`` as a process of its own, which may be started again."""

    def __init__(
        self, name: str, args: Sequence[str], settings: Mapping[str, str], folder: Path
    ) -> None:
        """
        Args:
            settings: ``DELIVERY_*`` without the prefix.
            folder: where it runs and logs.
        """
        self.name = name
        self._args = args
        self._settings = settings
        self._folder = folder
        self._said = 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """Its log, over all its starts."""
        return self._folder / f"{self.name}.log"

    @property
    def _output(self) -> Path:
        return self._folder / f"{self.name}.out"

    @property
    def is_running(self) -> bool:
        """Whether the process exists."""
        return self.process is not None and self.process.poll() is None

    def begin(self) -> None:
        """Start it; ``ready`` waits until it is."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("DELIVERY_")}
        ours = {f"DELIVERY_{name}": value for name, value in self._settings.items()}
        with self.log.open("ab") as log, self._output.open("ab") as output:
            self._said = output.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "delivery", *self._args],
                cwd=self._folder,
                env=kept | ours,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                start_new_session=True,  # Ctrl-C goes to the parent alone, which then stops it
            )

    def ready(self) -> None:
        """Wait until it has printed its first line.

        Raises:
            CommandFailed: it ended instead; the end of its log says why.
        """
        wait_until(self._has_spoken, f"{self.name} is ready; its log: {self.log}", READY_TIMEOUT)

    def _has_spoken(self) -> bool:
        said = self._output.read_bytes()[self._said :]
        if said.startswith(b'{"error"') or not self.is_running:
            raise CommandFailed(f"{self.name} ended:\n{self.log.read_text()[-2000:]}")
        return b"\n" in said

    def stop(self) -> int:
        """SIGTERM, and wait; its exit status."""
        process = self._started()
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        return process.wait(STOP_TIMEOUT)

    def kill(self) -> None:
        """SIGKILL for it and its children, which lead no sessions of their own."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(STOP_TIMEOUT)

    def run(self) -> None:
        """Start it and wait for its end.

        Raises:
            CommandFailed: it did not end well.
        """
        self.begin()
        if self._started().wait(READY_TIMEOUT):
            raise CommandFailed(f"{self.name} failed:\n{self.log.read_text()[-2000:]}")

    def _started(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            raise CommandFailed(f"{self.name} has not started_at")
        return self.process


# The shipped chain with the waits for people cut short; ``pace`` stretches all of it.
POLICIES = """
[class.critical]
types = ["agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_completed"]
ack_timeout = {ack}
retries = 3
backoff = {{ base = 0.1, max = 2.0, jitter = 0.3 }}
ttl = 3600
[[class.critical.chain]]
channel = "database"
[[class.critical.chain]]
channel = "queue"
[[class.critical.chain]]
channel = "direct"
after = {direct}
attempts = 3
[[class.critical.chain]]
channel = "email"
after = {email}
attempts = 4
backoff = {{ base = 0.5, max = 5.0, jitter = 0.3 }}
digest = {{ by = ["user_id"], window = {window}, min_interval = {window} }}
confirms = "accepted"
[[class.critical.chain]]
channel = "alert"
after = {alert}
attempts = 3
backoff = {{ base = 0.5, max = 5.0, jitter = 0.3 }}
"""
TOKEN_TTL = 86_400.0


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a cluster.

    Attributes:
        pace: seconds of the policies' waits are multiplied by it; 1.0 is the shipped ack timeout.
        proxied: the gateways reach PostgreSQL and Redis through fault proxies.
    """

    gateways: int = 2
    workers: int = 2
    pace: float = 1.0
    proxied: bool = False


class Spare(StrEnum):
    """Which server has a second one that can take over."""

    NONE = "none"
    POSTGRES = "postgres"
    REDIS = "redis"
    SENTINEL = "sentinel"


@dataclass(frozen=True, slots=True)
class Servers:
    """The two servers beneath a cluster; Redis is bus, queue and broker at once.

    Attributes:
        standby / replica: what can take over from ``postgres`` and ``redis``.
        sentinel: what watches ``redis`` and its replica.
    """

    postgres: Server
    redis: Server
    standby: Server | None = None
    replica: Server | None = None
    sentinel: Server | None = None


@contextmanager
def two_servers(spare: Spare = Spare.NONE) -> Iterator[Servers]:
    """A PostgreSQL and a Redis that keeps its data, and a spare one.

    Raises:
        ServerMissing: one of them is not on this machine.
    """
    with ExitStack() as stack:
        stack.enter_context(ended_by_sigterm())
        kind = any_redis()
        database = stack.enter_context(postgres())
        cache = stack.enter_context(redis_server(kind, persistent=True))
        standby = replica = sentinel = None
        if spare is Spare.POSTGRES:
            standby = stack.enter_context(replication.standby_of(database))
        if spare in (Spare.REDIS, Spare.SENTINEL):
            replica = stack.enter_context(replication.replica_of(cache, kind))
        if spare is Spare.SENTINEL:
            sentinel = stack.enter_context(replication.sentinel_of(cache, "delivery", kind))
        yield Servers(database, cache, standby, replica, sentinel)


class Cluster:
    """The servers and processes of a run.

    Attributes:
        clients_proxy: the clients' way to the gateways; ``producers_proxy`` the producers'.
        database_proxy, redis_proxy: the gateways' ways, if the shape says so; every process's way
            where a server has a spare one.
        postgres: the server that is the primary now.
        mails: the mail server.
    """

    def __init__(self, shape: Shape, servers: Servers, folder: Path) -> None:
        self.shape = shape
        self.servers = servers
        self.postgres = servers.postgres
        self.folder = folder
        self.mails = MailSink()
        self.gateways: list[Command] = []
        self.ports = [free_port() for _ in range(shape.gateways)]
        self.workers: list[Command] = []
        self.clients_proxy: FaultProxy = FaultProxy()
        self.producers_proxy: FaultProxy = FaultProxy()
        self.database_proxy: FaultProxy | None = None
        self.redis_proxy: FaultProxy | None = None
        self._secret = os.urandom(32).hex()
        self._audit_secret = os.urandom(32).hex()

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"http://127.0.0.1:{self.clients_proxy.port}"

    @property
    def producers_url(self) -> str:
        """Where producers post."""
        return f"http://127.0.0.1:{self.producers_proxy.port}"

    def route(self, *, apart: bool) -> None:
        """New connections of clients and producers go to the same gateways, or to others."""
        apart = apart and len(self.ports) > 1
        self.producers_proxy.targets = self.ports[:1] if apart else self.ports
        self.clients_proxy.targets = self.ports[1:] if apart else self.ports

    def token(self, user_id: str, scope: str | None = None) -> str:
        """A client's token, or with ``scope`` a service's."""
        return make_token(self._secret, user_id, scope=scope, ttl=TOKEN_TTL)

    def ledger(self) -> SqlLedger:
        """A handle on the ledger, not through a proxy."""
        return SqlLedger(self.postgres.url, pool_size=4)

    async def start(self, stack: AsyncExitStack) -> None:
        """Migrate, and start everything side by side."""
        await self._start_proxies(stack)
        self.mails.start()
        stack.callback(self.mails.stop)
        settings = self._settings()
        await asyncio.to_thread(self._command("migrate", ["migrate"], settings).run)
        for number in range(self.shape.workers):
            args = ["worker", "--json", "--concurrency", "4"]
            self.workers.append(self._command(f"worker-{number}", args, settings))
        beat = self._command("beat", ["beat", "--json"], settings)
        for number, port in enumerate(self.ports):
            args = ["gateway", "--json", "--port", str(port)]
            own = settings | self._proxied_urls() | {"NODE": f"gateway-{number}"}
            self.gateways.append(self._command(f"gateway-{number}", args, own))
        commands = [*self.gateways, *self.workers, beat]
        for command in commands:
            stack.callback(command.kill)
            command.begin()
        await asyncio.gather(*(asyncio.to_thread(command.ready) for command in commands))

    async def _start_proxies(self, stack: AsyncExitStack) -> None:
        self.clients_proxy = await stack.enter_async_context(fault_proxy(*self.ports))
        self.producers_proxy = await stack.enter_async_context(fault_proxy(*self.ports))
        if self.shape.proxied or self._has_spare:
            database, cache = (
                _port(server.url) for server in (self.servers.postgres, self.servers.redis)
            )
            self.database_proxy = await stack.enter_async_context(fault_proxy(database))
            self.redis_proxy = await stack.enter_async_context(fault_proxy(cache))

    def _settings(self) -> dict[str, str]:
        policies = self.folder / "policies.toml"
        waits = {"ack": 5.0, "direct": 1.0, "email": 5.0, "window": 1.0, "alert": 5.0}
        policies.write_text(
            POLICIES.format(**{name: wait * self.shape.pace for name, wait in waits.items()})
        )
        return {
            **self._urls(),
            "JWT_SECRET": self._secret,
            "AUDIT_SECRET": self._audit_secret,
            "MAX_CONNECTIONS_PER_ADDRESS": "0",
            "RATE_CONNECT_ADDRESS": "0",
            "POLICIES": str(policies),
            "DATA_DIR": str(self.folder / "data"),
            "SMTP_URL": self.mails.url,
            "MAIL_FROM": "delivery@example.org",
            "PUBLIC_URL": self.producers_url,
            "LOG_LEVEL": "WARNING",
        }

    @property
    def _has_spare(self) -> bool:
        return self.servers.standby is not None or self.servers.replica is not None

    def _urls(self) -> dict[str, str]:
        """Every process's addresses of the servers."""
        if self.servers.sentinel is not None:
            return {
                "DATABASE_URL": self.servers.postgres.url,
                "REDIS_URL": self.servers.sentinel.url,
            }
        if self._has_spare:
            return self._through_proxies()
        return {"DATABASE_URL": self.servers.postgres.url, "REDIS_URL": self.servers.redis.url}

    def _proxied_urls(self) -> dict[str, str]:
        """The gateways' own addresses of the servers."""
        if self._has_spare or not self.shape.proxied:
            return {}
        return self._through_proxies() | {"BROKER_URL": self.servers.redis.url}

    def _through_proxies(self) -> dict[str, str]:
        if self.database_proxy is None or self.redis_proxy is None:
            raise CommandFailed("the proxies have not started")
        database = make_url(self.servers.postgres.url).set(port=self.database_proxy.port)
        return {
            "DATABASE_URL": database.render_as_string(hide_password=False),
            "REDIS_URL": _with_port(self.servers.redis.url, self.redis_proxy.port),
        }

    def _command(self, name: str, args: list[str], settings: dict[str, str]) -> Command:
        return Command(name, args, settings, self.folder)


@asynccontextmanager
async def running(shape: Shape, servers: Servers, folder: Path) -> AsyncIterator[Cluster]:
    """A cluster that serves, on servers whose database is new or this version's."""
    async with AsyncExitStack() as stack:
        cluster = Cluster(shape, servers, folder)
        await cluster.start(stack)
        yield cluster


def _port(url: str) -> int:
    return urlsplit(url).port or 0


def _with_port(url: str, port: int) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{parts.hostname}:{port}"))
