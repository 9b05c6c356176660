"""Starts a real MariaDB of one's own, from the system's package.

Owns: finding it, its folder and port, and what happens where it is not installed: CI fails, and a
developer's machine skips with what to install, because no Python package carries this server.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pymysql
import pytest
import sqlalchemy as sa

from delivery.bench.faults.servers import unprivileged_account
from tests import databases
from tests.servers import Server, free_port, running_server, server_folder

INSTALL = "apt-get install --no-install-recommends mariadb-server"
PLACES = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/libexec"
LOOPBACK = "127.0.0.1"


def require_mariadb() -> tuple[Path, Path]:
    """The server and the program that fills its folder; without them CI fails and a developer's
    machine skips."""
    server = shutil.which("mariadbd", path=PLACES)
    install = shutil.which("mariadb-install-db", path=PLACES)
    if server is None or install is None:
        missing = f"MariaDB is not installed: {INSTALL}"
        if os.environ.get("CI"):
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    return Path(server), Path(install)


@contextlib.contextmanager
def mariadb() -> Iterator[Server]:
    """A MariaDB of the run's own; ``url`` is a SQLAlchemy URL of the account that may do all."""
    binary, install = require_mariadb()
    account = unprivileged_account()
    with server_folder("mariadb", account) as folder:
        data = folder / "data"
        made = subprocess.run(
            [
                install,
                "--no-defaults",
                f"--datadir={data}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--skip-name-resolve",
            ],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            **account,
        )
        assert made.returncode == 0, f"{made.stdout}{made.stderr}"
        port = free_port()
        server = Server(
            url=f"mysql+pymysql://root@{LOOPBACK}:{port}",
            version="MariaDB",
            command=[
                str(binary),
                "--no-defaults",
                f"--datadir={data}",
                f"--port={port}",
                f"--bind-address={LOOPBACK}",
                f"--socket={folder / 'socket'}",
                f"--pid-file={folder / 'pid'}",
                "--innodb-flush-log-at-trx-commit=0",
                "--innodb-buffer-pool-size=16M",
                "--performance-schema=OFF",
                "--skip-log-bin",
            ],
            folder=folder,
            probe=lambda: _probe(port),
            popen_options={"cwd": folder, **account},
            stop_signal=signal.SIGTERM,
        )
        yield from running_server(server)


def _probe(port: int) -> None:
    try:
        pymysql.connect(host=LOOPBACK, port=port, user="root", connect_timeout=5).close()
    except pymysql.err.OperationalError as error:
        raise ConnectionError(str(error)) from error


@contextlib.contextmanager
def created(server: str) -> Iterator[str]:
    """The URL of a new database on ``server``, dropped at the end."""
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    name = f"test_{uuid.uuid4().hex}"
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        yield databases.text(sa.make_url(server).set(database=name))
        with engine.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name}")
    finally:
        engine.dispose()
