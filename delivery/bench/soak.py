"""A soak: malformed clients beside good ones, and what is left of them afterwards.

Owns: the phases (alone, beside, after), the good clients and the verdict. Never does: know the
shapes of the malformed ones (``hostile``).
"""

from __future__ import annotations

import asyncio
import re
import resource
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import delivery
from delivery.bench.hostile import Hostile
from delivery.bench.load import percentiles
from delivery.bench.processes import TOKEN_TTL, embedded_service
from delivery.tokens import make_token

SECRET = "a secret of the soak, of 32 bytes or more"  # noqa: S105 - of a server that ends with it
USERS = 4
RATE = 20.0
"""Events per second of the good producer."""
HOSTILE = 8
CALM = 12.0
"""Seconds after the malformed clients; half requests are cut after ten."""
MOST_RATIO = 2.0
GRACE = 0.5
"""Seconds under which the good clients' p99 is fine in any case: a shared machine is not quiet."""
MORE_MEMORY = 1.25
MORE_KIB = 32 * 1024
MORE_TASKS, MORE_DESCRIPTORS = 5, 10


def run_soak(seconds: float) -> dict[str, Any]:
    """Run all phases; ``seconds`` together without the calm at the end.

    Returns:
        Waits of the good clients in milliseconds, the malformed clients' answers, memory, tasks and
        descriptors before and after, and ``faults``: what is not as it must be.

    Raises:
        BenchFailed: the gateway did not start, or ended.
    """
    settings = {"JWT_SECRET": SECRET, "LOG_LEVEL": "CRITICAL"}  # malformed requests fill the log
    with embedded_service(settings) as (url, pid):
        return asyncio.run(_soak(url, pid, seconds))


async def _soak(url: str, pid: int, seconds: float) -> dict[str, Any]:
    good = _Good(url)
    async with good.connected():
        await good.work(3.0)  # warms up
        good.take()
        await good.work(seconds / 4)
        alone, before = good.take(), await asyncio.to_thread(_standing, url, pid)
        target = urlsplit(url)
        token = make_token(SECRET, "hostile", "emit", ttl=TOKEN_TTL)
        hostile = Hostile(str(target.hostname), target.port or 80, token)
        tries = [asyncio.create_task(hostile.run()) for _ in range(HOSTILE)]
        await good.work(seconds * 3 / 4)
        for one in tries:
            one.cancel()
        await asyncio.gather(*tries, return_exceptions=True)
        beside = good.take()
        await good.work(CALM)
        good.take()
        after = await asyncio.to_thread(_standing, url, pid)
    report = {
        "alone_ms": percentiles(alone),
        "beside_ms": percentiles(beside),
        "lost": good.lost,
        "tries": hostile.tries,
        "answers": dict(sorted(hostile.answers.items())),
        "before": before,
        "after": after,
    }
    return report | {"faults": _faults(report)}


def _faults(report: dict[str, Any]) -> list[str]:
    found = []
    before, after = report["before"], report["after"]
    failed = sum(count for status, count in report["answers"].items() if status == "500")
    if failed:
        found.append(f"{failed} answers were 500")
    if report["lost"]:
        found.append(f"{report['lost']} events of good clients did not arrive")
    most = max(MOST_RATIO * report["alone_ms"]["p99"], GRACE * 1_000.0)
    if report["beside_ms"]["p99"] > most:
        p99 = report["beside_ms"]["p99"]
        found.append(f"good clients' p99 was {p99:.0f} ms beside, at most {most:.0f} are fine")
    if after["memory_kib"] > MORE_MEMORY * before["memory_kib"] + MORE_KIB:
        found.append(f"memory went from {before['memory_kib']} to {after['memory_kib']} KiB")
    for name, more in (("tasks", MORE_TASKS), ("descriptors", MORE_DESCRIPTORS)):
        if after[name] > before[name] + more:
            found.append(f"{name} went from {before[name]} to {after[name]}")
    return found


class _Good:
    """Users who are connected, and a producer; waits are from the emission to the handler."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._emitted: dict[str, float] = {}
        self._waits: list[float] = []
        self._ready = asyncio.Semaphore(0)
        self.lost = 0

    def take(self) -> list[float]:
        """Waits since the last call."""
        waits, self._waits = self._waits, []
        return waits

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """The good clients' connections."""
        tasks = [asyncio.create_task(self._listen(f"user-{n}")) for n in range(USERS)]
        try:
            async with asyncio.timeout(60):
                for _ in range(USERS):
                    await self._ready.acquire()
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self, user: str) -> None:
        token = make_token(SECRET, user, ttl=TOKEN_TTL)
        async with delivery.Client(self._url, token) as client:
            self._ready.release()
            async for event in client:
                emitted = self._emitted.pop(event.id, None)
                if emitted is not None:
                    self._waits.append(time.perf_counter() - emitted)

    async def work(self, seconds: float) -> None:
        """Emit for a while, and wait for the last events."""
        token = make_token(SECRET, "good", "emit", ttl=TOKEN_TTL)
        async with delivery.connect(self._url, token) as remote:
            emitters = [remote.emitter(f"user-{n}", f"run-{n}") for n in range(USERS)]
            began, number = time.perf_counter(), 0
            while (due := number / RATE) < seconds:
                await asyncio.sleep(max(0.0, began + due - time.perf_counter()))
                receipt = emitters[number % USERS].emit_nowait("agent_thinking", {"n": number})
                self._emitted[receipt.id] = time.perf_counter()
                number += 1
        for _ in range(100):
            if not self._emitted:
                return
            await asyncio.sleep(0.1)
        self.lost += len(self._emitted)
        self._emitted.clear()


def _standing(url: str, pid: int) -> dict[str, int]:
    """Memory, tasks and descriptors of the gateway now. Source: proc(5)."""
    with urlopen(f"{url}/metrics", timeout=20) as answer:  # noqa: S310 - a gateway of this run
        metrics = answer.read().decode()
    tasks = re.search(r"^delivery_tasks\{.*\} ([0-9.e+]+)$", metrics, re.MULTILINE)
    process = Path(f"/proc/{pid}")
    pages = int((process / "statm").read_text().split()[1])
    return {
        "memory_kib": pages * resource.getpagesize() // 1024,
        "tasks": int(float(tasks[1])) if tasks is not None else -1,
        "descriptors": len(list((process / "fd").iterdir())),
    }
