"""A soak: malformed clients beside good ones, and what is left of them afterwards.

Owns: the windows (alone, beside, in turn), the good clients and the verdict. Never does: know the
shapes of the malformed ones (``hostile``).

What counts is the processor time of the gateway while an event is on its way to its handler, all
that can have held it up there: other work on the machine changes it less than seconds. Both kinds
of windows take turns, and the medians leave out what one of them met by chance.
"""

from __future__ import annotations

import asyncio
import re
import resource
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import delivery
from delivery.bench.hostile import Hostile
from delivery.bench.load import percentiles
from delivery.bench.processes import TOKEN_TTL, embedded_service, processor_s
from delivery.tokens import make_token

SECRET = "a secret of the soak, of 32 bytes or more"  # noqa: S105 - of a server that ends with it
USERS = 4
RATE = 40.0
"""Events per second of the good producer."""
ROUNDS = 6
SETTLE = 1.0
"""Seconds at the end of a round in which the last answers to malformed clients come."""
HOSTILE = 8
CALM = 12.0
"""Seconds after the malformed clients; half requests are cut after ten."""
MOST_RATIO = 2.0
GRACE = 0.25
"""Seconds of that time at which the good clients' p99 is fine in any case: alone it is a few
milliseconds, which one slow answer doubles, and on a busy machine an event also waits for its own
client, while the gateway goes on with other work."""
MORE_MEMORY = 1.25
MORE_KIB = 32 * 1024
MORE_TASKS, MORE_DESCRIPTORS = 5, 10


def run_soak(seconds: float) -> dict[str, Any]:
    """Run all windows; ``seconds`` together without the pauses and the calm at the end.

    Returns:
        Waits of the good clients in milliseconds and the gateway's processor time in them (medians
        over the windows), the malformed clients' answers, memory, tasks and descriptors before
        and after, and ``faults``: what is not as it must be.

    Raises:
        BenchFailed: the gateway did not start, or ended.
    """
    settings = {"JWT_SECRET": SECRET, "LOG_LEVEL": "CRITICAL"}  # malformed requests fill the log
    with embedded_service(settings) as (url, pid):
        return asyncio.run(_soak(url, pid, seconds))


async def _soak(url: str, pid: int, seconds: float) -> dict[str, Any]:
    good = _Good(url, pid)
    async with good.connected():
        await good.work(3.0)  # warms up
        good.take()
        before = await asyncio.to_thread(_standing, url, pid)
        target = urlsplit(url)
        token = make_token(SECRET, "hostile", "emit", ttl=TOKEN_TTL)
        hostile = Hostile(str(target.hostname), target.port or 80, token)
        windows = [await _round(good, hostile, seconds / ROUNDS) for _ in range(ROUNDS)]
        await good.work(CALM)
        good.take()
        after = await asyncio.to_thread(_standing, url, pid)
    report = {
        **{
            name: _medians([getattr(window[when], kind) for window in windows])
            for name, when, kind in (
                ("alone_ms", 0, "seconds"),
                ("beside_ms", 1, "seconds"),
                ("alone_work_ms", 0, "work"),
                ("beside_work_ms", 1, "work"),
            )
        },
        "lost": good.lost,
        "tries": hostile.tries,
        "answers": dict(sorted(hostile.answers.items())),
        "before": before,
        "after": after,
    }
    return report | {"faults": _faults(report)}


async def _round(good: _Good, hostile: Hostile, seconds: float) -> tuple[_Waits, _Waits]:
    """Waits of good clients alone, for a quarter of the time, and beside malformed ones."""
    await good.work(seconds / 4)
    alone = good.take()
    tries = [asyncio.create_task(hostile.run()) for _ in range(HOSTILE)]
    await good.work(seconds * 3 / 4)
    for one in tries:
        one.cancel()
    await asyncio.gather(*tries, return_exceptions=True)
    beside = good.take()
    await good.work(SETTLE)
    good.take()
    return alone, beside


def _medians(windows: list[list[float]]) -> dict[str, float]:
    """The median of each percentile over the windows, in milliseconds."""
    found = [percentiles(waits) for waits in windows if waits]
    if not found:  # every event was lost
        return dict.fromkeys(("p50", "p99"), float("inf"))
    return {name: statistics.median(one[name] for one in found) for name in found[0]}


def _faults(report: dict[str, Any]) -> list[str]:
    found = []
    before, after = report["before"], report["after"]
    failed = sum(count for status, count in report["answers"].items() if status == "500")
    if failed:
        found.append(f"{failed} answers were 500")
    if report["lost"]:
        found.append(f"{report['lost']} events of good clients did not arrive")
    most = max(MOST_RATIO * report["alone_work_ms"]["p99"], GRACE * 1_000.0)
    if (p99 := report["beside_work_ms"]["p99"]) > most:
        found.append(
            f"good clients waited for {p99:.0f} ms of the gateway's work beside (p99), at most "
            f"{most:.0f} are fine"
        )
    if after["memory_kib"] > MORE_MEMORY * before["memory_kib"] + MORE_KIB:
        found.append(f"memory went from {before['memory_kib']} to {after['memory_kib']} KiB")
    for name, more in (("tasks", MORE_TASKS), ("descriptors", MORE_DESCRIPTORS)):
        if after[name] > before[name] + more:
            found.append(f"{name} went from {before[name]} to {after[name]}")
    return found


@dataclass(slots=True)
class _Waits:
    """From emissions to the handler: seconds, and seconds of the gateway's processor time."""

    seconds: list[float] = field(default_factory=list)
    work: list[float] = field(default_factory=list)


class _Good:
    """Users who are connected, and a producer."""

    def __init__(self, url: str, pid: int) -> None:
        self._url = url
        self._pid = pid
        self._emitted: dict[str, tuple[float, float]] = {}
        self._waits = _Waits()
        self._ready = asyncio.Semaphore(0)
        self.lost = 0

    def take(self) -> _Waits:
        """Waits since the last call."""
        waits, self._waits = self._waits, _Waits()
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
                    began, worked = emitted
                    self._waits.seconds.append(time.perf_counter() - began)
                    self._waits.work.append(processor_s(self._pid) - worked)

    async def work(self, seconds: float) -> None:
        """Emit for a while, and wait for the last events."""
        token = make_token(SECRET, "good", "emit", ttl=TOKEN_TTL)
        async with delivery.connect(self._url, token) as remote:
            emitters = [remote.emitter(f"user-{n}", f"run-{n}") for n in range(USERS)]
            began, number = time.perf_counter(), 0
            while (due := number / RATE) < seconds:
                await asyncio.sleep(max(0.0, began + due - time.perf_counter()))
                receipt = emitters[number % USERS].emit_nowait("agent_thinking", {"n": number})
                self._emitted[receipt.id] = (time.perf_counter(), processor_s(self._pid))
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
