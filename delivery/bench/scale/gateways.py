"""Gateway processes of the production shape, seen from the benchmark: their cost, their servers'.

Owns: their start and end, and what they used. Never does: put load on them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import redis

from delivery.bench.faults.cluster import Command, Servers, two_servers
from delivery.bench.faults.servers import Server, free_port
from delivery.bench.processes import new_folder, processor_s

with contextlib.suppress(ModuleNotFoundError):  # of the test extra; its servers say it is missing
    import psutil


@dataclass(frozen=True, slots=True)
class Gateways:
    """Running gateways, each a process with a port of its own."""

    servers: Servers
    commands: list[Command]
    urls: list[str]
    secret: str

    def cpu_s(self) -> float:
        """Processor time of all gateways so far."""
        return sum(processor_s(pid) for pid in self._pids())

    def memory(self) -> int:
        """Resident bytes of all gateways."""
        return sum(int(psutil.Process(pid).memory_info().rss) for pid in self._pids())

    def _pids(self) -> list[int]:
        return [one.process.pid for one in self.commands if one.process is not None]

    def redis_commands(self) -> dict[str, int]:
        """How often each command was called so far."""
        with redis.Redis.from_url(self.servers.redis.url) as client:
            found: Any = client.info("commandstats")
        return {name.removeprefix("cmdstat_"): int(one["calls"]) for name, one in found.items()}


def server_cpu_s(server: Server) -> float:
    """Processor time of a server's processes so far, those that have ended included."""
    if server.process is None:
        return 0.0
    leader = psutil.Process(server.process.pid)
    ended = leader.cpu_times()
    total = float(ended.children_user + ended.children_system)
    for one in (leader, *leader.children()):
        try:
            spent = one.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += float(spent.user + spent.system)
    return total


@contextmanager
def running(count: int) -> Iterator[Gateways]:
    """So many gateways on a PostgreSQL and a Redis of their own.

    Raises:
        CommandFailed: one did not start. ConfigError: a server is missing.
    """
    secret = os.urandom(32).hex()
    with two_servers() as servers, new_folder() as folder, ExitStack() as stack:
        settings = {
            "DATABASE_URL": servers.postgres.url,
            "REDIS_URL": servers.redis.url,
            "JWT_SECRET": secret,
            "AUDIT_SECRET": os.urandom(32).hex(),
            "LOG_LEVEL": "WARNING",
            # Every client of a run comes from this machine.
            "MAX_CONNECTIONS_PER_ADDRESS": "0",
            "RATE_CONNECT_ADDRESS": "0",
        }
        Command("migrate", ["migrate"], settings, folder).run()
        commands, urls = [], []
        for number in range(count):
            port = free_port()
            own = settings | {
                "DATA_DIR": str(folder / f"data-{number}"),
                "NODE": f"gateway-{number}",
            }
            args = ["gateway", "--json", "--port", str(port)]
            command = Command(f"gateway-{number}", args, own, folder)
            stack.callback(command.kill)
            command.begin()
            commands.append(command)
            urls.append(f"http://127.0.0.1:{port}")
        for command in commands:
            command.ready()
        yield Gateways(servers, commands, urls, secret)
