"""Starts a real PgBouncer in transaction mode before a PostgreSQL, from the system's package.

Owns: finding it, its settings and port, and what happens where it is not installed: CI fails, and a
developer's machine skips with what to install, because no Python package carries it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import URL, make_url

from delivery.bench.faults.servers import unprivileged_account
from tests import databases
from tests.servers import Server, free_port, running_server, server_folder

INSTALL = "apt-get install --no-install-recommends pgbouncer"

CONFIG = """
[databases]
* = {target}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own_port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
; fewer sessions than any process opens: each transaction may get another one
default_pool_size = {pool_size}
max_client_conn = 500
server_reset_query_always = 0
server_round_robin = 1
"""


def require_pgbouncer() -> Path:
    """The program; without it CI fails and a developer's machine skips."""
    found = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        missing = f"PgBouncer is not installed: {INSTALL}"
        if os.environ.get("CI"):
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    return Path(found)


@contextlib.contextmanager
def pgbouncer(server: str, *, pool_size: int = 2, more: str = "") -> Iterator[Server]:
    """A PgBouncer of one's own before a PostgreSQL server; see ``through``.

    Args:
        more: further lines of its settings.
    """
    binary = require_pgbouncer()
    target = make_url(server)
    account = unprivileged_account()  # it refuses to run as root, too
    with server_folder("pgbouncer", account) as folder:
        own_port = free_port()
        (folder / "pgbouncer.ini").write_text(
            CONFIG.format(
                target=_target(target),
                own_port=own_port,
                pool_size=pool_size,
            )
            + more
        )
        url = target.set(host="127.0.0.1", port=own_port)
        made = Server(
            url=databases.text(url),
            version=_version(binary),
            command=[str(binary), str(folder / "pgbouncer.ini")],
            folder=folder,
            probe=lambda: _probe(url),
            popen_options={"cwd": folder, **account},
            stop_signal=signal.SIGINT,
        )
        yield from running_server(made)


def through(bouncer: Server, url: str) -> str:
    """The URL of a database, by way of the PgBouncer."""
    entry = make_url(bouncer.url)
    return databases.text(make_url(url).set(host=entry.host, port=entry.port))


def _target(server: URL) -> str:
    parts = {
        "host": server.host or "127.0.0.1",
        "port": server.port or 5432,
        "user": server.username,
        "password": server.password,
    }
    return " ".join(f"{name}={value}" for name, value in parts.items() if value)


def _version(binary: Path) -> str:
    answer = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True)
    return answer.stdout.splitlines()[0]


def _probe(url: URL) -> None:
    conninfo = databases.text(url.set(drivername="postgresql"))
    with psycopg.connect(conninfo, connect_timeout=2, prepare_threshold=None) as connection:
        connection.execute("SELECT 1")
