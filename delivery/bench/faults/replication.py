"""A primary and a standby that change places: PostgreSQL, Redis, and Redis behind Sentinel.

Owns: how a standby is made of a primary, a standby promoted, and a primary demoted. Never does:
tell clients which server is which; a proxy, a list of hosts in their URL, or Sentinel does.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import make_url

from delivery.bench.faults.servers import (
    LOOPBACK,
    Server,
    free_port,
    postgres_folder,
    redis_binary,
    redis_server,
    redis_version,
    running_server,
    server_folder,
    unprivileged_account,
    wait_until,
)

CATCH_UP_TIMEOUT = 30.0


@contextmanager
def standby_of(primary: Server) -> Iterator[Server]:
    """A running server that streams from ``primary``, which must run."""
    account = unprivileged_account()
    with server_folder("standby", account) as folder:
        data, port = folder / "data", free_port()
        source = str(port_of(primary))
        command = [str(postgres_folder() / "pg_basebackup"), "-D", str(data), "-X", "stream"]
        command += ["-h", LOOPBACK, "-p", source, "-U", "postgres", "-c", "fast", "--no-sync"]
        made = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=folder, **account
        )
        if made.returncode:
            raise RuntimeError(f"pg_basebackup failed:\n{made.stdout}{made.stderr}")
        server = _moved(primary, folder, data, port)
        follow(server, primary)
        yield from running_server(server)


def follow(server: Server, primary: Server) -> None:
    """Make a stopped server a standby of ``primary`` from its next start on."""
    data = _data_of(server)
    (data / "standby.signal").touch()
    with (data / "postgresql.auto.conf").open("a") as settings:
        address = f"host={LOOPBACK} port={port_of(primary)} user=postgres"
        settings.write(f"primary_conninfo = '{address}'\n")


def promote(standby: Server) -> None:
    """Make a standby the primary; returns when it takes writes."""
    _ask(standby, "select pg_promote(true, 30)")
    wait_until(lambda: not is_standby(standby), "the promoted server takes writes")


def is_standby(server: Server) -> bool:
    """Whether the server follows another one."""
    return bool(_ask(server, "select pg_is_in_recovery()"))


def caught_up(primary: Server, standby: Server) -> None:
    """Wait until the standby has everything that the primary has written so far.

    Raises:
        TimeoutError: it did not get there.
    """
    written = _ask(primary, "select pg_current_wal_lsn()::text")
    question = f"select pg_last_wal_replay_lsn() >= '{written}'::pg_lsn"
    wait_until(lambda: _ask(standby, question), "the standby has caught up", CATCH_UP_TIMEOUT)


def switch_over(primary: Server, standby: Server) -> None:
    """Let the two change places, without a loss: the primary ends first, which sends the standby
    all that it wrote, and comes back as the standby's standby."""
    primary.shut_down()
    promote(standby)
    follow(primary, standby)
    primary.start()


@contextmanager
def replica_of(primary: Server, kind: str = "valkey") -> Iterator[Server]:
    """A running Redis that copies ``primary``."""
    with redis_server(kind, persistent=True) as server:
        _tell(server, "REPLICAOF", LOOPBACK, str(port_of(primary)))
        wait_until(lambda: _is_synced(server), "the replica has copied the primary")
        yield server


def redis_switch_over(primary: Server, replica: Server) -> None:
    """Let the two change places: the replica first, then the old primary follows it."""
    _tell(replica, "REPLICAOF", "NO", "ONE")
    _tell(primary, "REPLICAOF", LOOPBACK, str(port_of(replica)))


@contextmanager
def sentinel_of(
    primary: Server, name: str, kind: str = "valkey", *, down_after_ms: int = 1_000
) -> Iterator[Server]:
    """One sentinel that watches ``primary`` and may act alone; ``url`` names the primary."""
    binary, port = redis_binary(kind), free_port()
    with server_folder("sentinel") as folder:
        file = folder / "sentinel.conf"
        file.write_text(
            f"port {port}\nbind {LOOPBACK}\ndir {folder}\n"
            f"sentinel monitor {name} {LOOPBACK} {port_of(primary)} 1\n"
            f"sentinel down-after-milliseconds {name} {down_after_ms}\n"
            f"sentinel failover-timeout {name} 5000\n"
        )
        server = Server(
            url=f"sentinel://{LOOPBACK}:{port}/{name}/0",
            version=redis_version(kind),
            command=[str(binary), str(file), "--sentinel"],
            folder=folder,
            probe=lambda: _tell_port(port, "PING"),
        )
        yield from running_server(server)


def sentinel_fail_over(sentinel: Server, old: Server) -> None:
    """Let Sentinel make another server the primary; returns when it is."""
    port, name = _sentinel_place(sentinel)

    def is_asked() -> bool:
        # It refuses until it has found the replica.
        try:
            _tell_port(port, "SENTINEL", "FAILOVER", name)
        except redis.ResponseError:
            return _named(sentinel) != port_of(old)
        return True

    wait_until(is_asked, "Sentinel begins a failover", CATCH_UP_TIMEOUT)
    sentinel_chose_another(sentinel, old)


def sentinel_chose_another(sentinel: Server, old: Server) -> None:
    """Wait until Sentinel names another primary than ``old``.

    Raises:
        TimeoutError: it did not.
    """
    wait_until(
        lambda: _named(sentinel) != port_of(old), "Sentinel names another primary", CATCH_UP_TIMEOUT
    )


def port_of(server: Server) -> int:
    """The port where a PostgreSQL, a Redis or a sentinel listens."""
    return urlsplit(server.url).port or 0


def _named(sentinel: Server) -> int:
    port, name = _sentinel_place(sentinel)
    found = _tell_port(port, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", name)
    return int(found[1])  # type: ignore[index]


def _sentinel_place(sentinel: Server) -> tuple[int, str]:
    parts = urlsplit(sentinel.url)
    return parts.port or 0, parts.path.split("/")[1]


def _is_synced(server: Server) -> bool:
    answer = _tell(server, "INFO", "replication")
    return isinstance(answer, dict) and answer.get("master_link_status") == "up"


def _tell(server: Server, *words: str) -> object:
    return _tell_port(port_of(server), *words)


def _tell_port(port: int, *words: str) -> object:
    with redis.Redis(port=port, socket_timeout=2, retry=Retry(NoBackoff(), 0)) as client:
        answer: object = client.execute_command(*words)
        return answer


def _moved(server: Server, folder: Path, data: Path, port: int) -> Server:
    """The same program with other data on another port."""
    url = make_url(server.url)
    old = {f"--port={url.port}": f"--port={port}", str(_data_of(server)): str(data)}
    address = f"postgresql://postgres@{LOOPBACK}:{port}/postgres"
    return replace(
        server,
        url=url.set(port=port).render_as_string(hide_password=False),
        command=[old.get(part, part) for part in server.command],
        folder=folder,
        probe=lambda: psycopg.connect(address, connect_timeout=2).close(),
        popen_options={**server.popen_options, "cwd": folder},
        process=None,
    )


def _data_of(server: Server) -> Path:
    return Path(server.command[server.command.index("-D") + 1])


def _ask(server: Server, question: str) -> object:
    conninfo = make_url(server.url).set(drivername="postgresql").render_as_string(False)
    with psycopg.connect(conninfo, autocommit=True, connect_timeout=2) as connection:
        row = connection.execute(question.encode()).fetchone()
        return row[0] if row else None
