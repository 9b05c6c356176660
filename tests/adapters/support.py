"""Gateways for tests of adapters: one that takes events, a slow one, one that is not there.

Each runs beside the test, so that agents which block, and agents on an event loop, are alike.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import delivery
from delivery.adapters.agent_run import AgentRun
from delivery.adapters.recorder import Recorder
from tests.contract_server import ContractServer

USER, RUN = "u1", "r1"


@contextmanager
def gateway() -> Iterator[ContractServer]:
    """The contract's server in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = ContractServer()
    running = server.running()
    asyncio.run_coroutine_threadsafe(running.__aenter__(), loop).result(15)
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(running.__aexit__(None, None, None), loop).result(15)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(15)


@contextmanager
def stuck() -> Iterator[str]:
    """The URL of a gateway that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def dead() -> Iterator[str]:
    """The URL of a gateway that is not there."""
    with socket.socket() as holder:  # bound and not listening: the port stays ours, and refuses
        holder.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{holder.getsockname()[1]}"


AWAY = {"stuck": stuck, "dead": dead}
"""Gateways that take nothing."""


@contextmanager
def recording(url: str, *, close_timeout: float = 10.0, **options: Any) -> Iterator[Recorder]:
    """A recorder with a connection of its own; what is recorded is at the gateway afterwards."""
    remote = delivery.connect_sync(url, "t", timeout=1.0, deadline=2.0)
    recorder = Recorder(remote, **options)
    try:
        yield recorder
    finally:
        recorder.close(close_timeout)
        remote.close(0.1)


@contextmanager
def run_of(url: str, **options: Any) -> Iterator[AgentRun]:
    """One run at a gateway."""
    with recording(url, **options) as recorder:
        yield recorder.run(USER, RUN)


def events(server: ContractServer, *types: str) -> list[dict[str, Any]]:
    """What the gateway accepted, in order; only of these types if any are named."""
    found = list(server.accepted.values())
    return [one for one in found if not types or one["type"] in types]


def types(server: ContractServer) -> list[str]:
    """The types of the durable events, in order."""
    return [one["type"] for one in events(server) if one.get("class") != "ephemeral"]


def calls(server: ContractServer) -> dict[str, list[dict[str, Any]]]:
    """The data of the events of each tool call, by its id: two where it was answered."""
    found: dict[str, list[dict[str, Any]]] = {}
    for one in events(server, "tool_executing", "tool_completed"):
        found.setdefault(one["data"]["tool_call_id"], []).append(one["data"])
    return found
