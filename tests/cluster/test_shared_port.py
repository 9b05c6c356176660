"""``--workers N``: processes that share a port, one dying, all ending."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import psutil
import pytest

from tests.cluster.conftest import Cluster, Gateway
from tests.servers import wait_until
from tests.waiting import WORKER_TIMEOUT
from tests.wire import Listener, eventually, listening

pytestmark = pytest.mark.timeout(180)
ENOUGH = 30  # connections, after which the kernel has chosen each of two processes


@pytest.fixture(scope="module")
def supervised(cluster: Cluster) -> Iterator[Gateway]:
    """Two processes on one port, in the cluster."""
    with cluster.extra("shared", "--workers", "2") as gateway:
        yield gateway


@pytest.fixture
def shared(supervised: Gateway) -> Gateway:
    """The same, begun anew if the test before ended it."""
    if supervised.running.process.poll() is not None:
        supervised.running.kill()
        supervised.begin().ready()
    wait_until(lambda: len(serving(supervised)) == 2, "both serve", WORKER_TIMEOUT)
    return supervised


def children(gateway: Gateway) -> list[psutil.Process]:
    return psutil.Process(gateway.running.process.pid).children()


def serving(gateway: Gateway) -> set[int]:
    """The processes that listen on the port; one that was just made has much to read first."""
    return {
        child.pid
        for child in children(gateway)
        for connection in connections_of(child)
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == gateway.port
    }


def connections_of(process: psutil.Process) -> list[Any]:
    """Its TCP sockets; none once it has ended."""
    try:
        return list(process.net_connections("tcp"))
    except psutil.NoSuchProcess:
        return []


async def one_on_each(
    cluster: Cluster, gateway: Gateway, stack: AsyncExitStack
) -> dict[str, tuple[str, Listener]]:
    """A user and its connection on each of the two processes, by the process's name."""
    found: dict[str, tuple[str, Listener]] = {}
    for number in range(ENOUGH):
        user = f"shared-{number}"
        page = await stack.enter_async_context(listening(gateway.url, cluster.token(user)))
        found.setdefault(page.welcome["node"], (user, page))
        if len(found) == 2:
            return found
    raise AssertionError(f"{ENOUGH} connections all went to {list(found)}")


async def pid_of(cluster: Cluster, gateway: Gateway, page: Listener) -> int:
    """The process at the other end of a connection."""
    port = page.local_port

    def look() -> list[int]:
        return [
            child.pid
            for child in children(gateway)
            for connection in connections_of(child)
            if connection.raddr and connection.raddr.port == port
        ]

    pids = await eventually(look, len)
    return int(pids[0])


def test_sighup_to_the_parent_has_each_of_them_read_its_settings(shared: Gateway) -> None:
    def reloads() -> int:
        return shared.running.log.read_text().count("settings reloaded")

    both, before = serving(shared), reloads()
    os.kill(shared.running.process.pid, signal.SIGHUP)
    wait_until(lambda: reloads() == before + 2, "both have read them", WORKER_TIMEOUT)
    assert serving(shared) == both


async def test_killing_one_leaves_the_other_serving_and_brings_a_new_one(
    cluster: Cluster, shared: Gateway
) -> None:
    async with AsyncExitStack() as stack:
        found = await one_on_each(cluster, shared, stack)
        (_, doomed), (user, page) = found.values()
        victim = await pid_of(cluster, shared, doomed)
        os.kill(victim, signal.SIGKILL)
        await eventually(lambda: doomed.is_over, bool)
        assert not page.is_over
        for _ in range(5):  # the kernel gives newcomers to the one that is left
            async with listening(shared.url, cluster.token("newcomer")) as newcomer:
                assert newcomer.welcome["node"] in found
        (event_id,) = await asyncio.to_thread(cluster.emit, user, "run", ("agent_thinking",))
        await page.until(lambda: event_id in page.ids)
        await eventually(
            lambda: serving(shared),
            lambda pids: len(pids) == 2 and victim not in pids,
            timeout=WORKER_TIMEOUT,
        )
        await one_on_each(cluster, shared, stack)


async def test_sigterm_drains_all_of_them(cluster: Cluster, shared: Gateway) -> None:
    async with AsyncExitStack() as stack:
        found = await one_on_each(cluster, shared, stack)
        both = children(shared)
        assert await asyncio.to_thread(shared.running.stop) == 0
        for _, page in found.values():
            await eventually(lambda page=page: page.is_over, bool)
            assert page.frames[-1]["type"] == "reconnect"
            assert page.close_code == 3001
    assert not any(child.is_running() for child in both)


async def test_ctrl_c_reaches_parent_and_children_and_still_drains(
    cluster: Cluster, shared: Gateway
) -> None:
    async with AsyncExitStack() as stack:
        found = await one_on_each(cluster, shared, stack)
        os.killpg(shared.running.process.pid, signal.SIGINT)  # as a terminal does
        assert await asyncio.to_thread(shared.running.process.wait, 20) == 0
        for _, page in found.values():
            await eventually(lambda page=page: page.is_over, bool)
            assert page.close_code == 3001


def test_children_do_not_outlive_their_parent(shared: Gateway) -> None:
    both = children(shared)
    os.kill(shared.running.process.pid, signal.SIGKILL)
    wait_until(
        lambda: (
            not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in both)
        ),
        "they have drained and ended",
        20.0,
    )
