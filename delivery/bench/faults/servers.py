"""Starts real PostgreSQL, Redis and Valkey servers of one's own.

Owns: their settings, ports and data folders, which vanish with them. What they cannot do is what
production's can: survive the loss of the machine.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psycopg
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from delivery.bench.faults.binaries import (
    postgres_folder,
    postgres_version,
    redis_binary,
    redis_version,
    unprivileged_account,
)
from delivery.bench.faults.server import Server

LOOPBACK = "127.0.0.1"


@contextlib.contextmanager
def postgres() -> Iterator[Server]:
    """A PostgreSQL server of one's own; ``url`` is a SQLAlchemy URL of a superuser's database.

    No fsync, so a crash of the machine may lose data; a killed process, as here, loses none.
    """
    installed = postgres_folder()
    account = unprivileged_account()
    with server_folder("postgres", account) as folder:
        options = {"cwd": folder, **account}
        data = folder / "data"
        _initialise(installed, data, options)
        port = free_port()
        address = f"postgres@{LOOPBACK}:{port}/postgres"
        settings = {
            "listen_addresses": LOOPBACK,
            "unix_socket_directories": "",
            "port": port,
            "fsync": "off",
            "full_page_writes": "off",
            "max_connections": 200,
        }
        command = [str(installed / "postgres"), "-D", str(data)]
        server = Server(
            url=f"postgresql+psycopg://{address}",
            version=postgres_version(),
            command=command + [f"--{name}={value}" for name, value in settings.items()],
            folder=folder,
            probe=lambda: psycopg.connect(f"postgresql://{address}", connect_timeout=2).close(),
            popen_options=options,
        )
        yield from running_server(server)


def _initialise(installed: Path, data: Path, options: Mapping[str, Any]) -> None:
    command = [str(installed / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust",
               "-E", "UTF8", "--no-locale", "-N"]  # fmt: skip
    made = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if made.returncode:
        raise RuntimeError(f"initdb failed:\n{made.stdout}{made.stderr}")


@contextlib.contextmanager
def redis_server(
    kind: str = "valkey", *, persistent: bool = False, cluster: bool = False
) -> Iterator[Server]:
    """A Redis-compatible server of one's own; ``url`` is ``redis://127.0.0.1:<port>/0``.

    Args:
        kind: ``redis`` or ``valkey``.
        persistent: keep data over ``kill`` and ``restart``; otherwise it comes back empty.
        cluster: in cluster mode, without slots.
    """
    binary = redis_binary(kind)
    with server_folder(kind) as folder:
        port = free_port()
        settings = {
            "port": port,
            "bind": LOOPBACK,
            "dir": folder,
            "save": "",
            "appendonly": "yes" if persistent else "no",
            "maxmemory-policy": "noeviction",
        }
        if cluster:
            settings |= {"cluster-enabled": "yes", "cluster-port": free_port()}
        parts = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
        server = Server(
            url=f"redis://{LOOPBACK}:{port}/0",
            version=redis_version(kind),
            command=[str(binary), *parts],
            folder=folder,
            probe=lambda: _ping(port),
        )
        yield from running_server(server)


def _ping(port: int) -> None:
    with redis.Redis(port=port, socket_timeout=2, retry=Retry(NoBackoff(), 0)) as client:
        client.ping()


def running_server(server: Server) -> Iterator[Server]:
    """Starts the server, and ends it with whoever uses it."""
    try:
        server.start()
        yield server
    finally:
        server.shut_down()


def free_port() -> int:
    """A port nobody listens on, and which stays free while a server restarts.

    It lies below the range that the system gives to outgoing connections.
    """
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((LOOPBACK, port))
            return port
    raise RuntimeError("found no free port between 20000 and 32000")


@contextlib.contextmanager
def server_folder(name: str, account: Mapping[str, Any] = MappingProxyType({})) -> Iterator[Path]:
    """A private folder for a server's data, removed afterwards."""
    with tempfile.TemporaryDirectory(
        prefix=f"delivery-test-{name}-", ignore_cleanup_errors=True
    ) as made:
        if account:
            os.chown(made, account["user"], account["group"])
        yield Path(made)
