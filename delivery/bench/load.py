"""The load: events emitted at full speed within a window, or paced, and their acknowledgements.

Owns: the emission loop and the samples. Product and floor run the same one.
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from delivery.domain.emission import Receipt

TIMEOUT = 120.0
BURST = 64
"""Events per turn of the loop: acknowledgements are read between two bursts."""
SAMPLE = 50
"""At full speed one event of so many is watched until it is durable, because each watch is a task
and the product makes none per event."""
MAX_SAMPLES = 20_000
POLL_EVERY = 0.002
"""Seconds between two looks of a polled window, at least."""
POLL_SHARE = 0.1
"""Share of the time that looking may take: with many users a look costs a millisecond."""


@dataclass(frozen=True, slots=True)
class Load:
    """Sizes of a load.

    Attributes:
        window: events that may be unacknowledged at any time.
        rate: events per second, 0 for as fast as the window allows.
        payload: bytes of ``data``.
    """

    users: int
    events: int
    window: int
    rate: float = 0.0
    payload: int = 100


class Window:
    """Emits round robin over the users and waits for acknowledgements by key."""

    def __init__(
        self,
        load: Load,
        emit: Callable[[int, int], Any],
        is_full: Callable[[], bool] = lambda: False,
    ) -> None:
        """
        Args:
            emit: called with user and event number; answers with the key of the acknowledgement.
            is_full: whether the gateway asks for a pause, for another reason than the window.
        """
        self._is_full = is_full
        self.load = load
        self._emit = emit
        self._sent: dict[Any, float] = {}
        self._latencies: list[float] = []
        self._room: asyncio.Future[None] | None = None
        self._unbilled = 0.0

    def acked(self, key: Any) -> bool:
        """Note an acknowledgement; ``False`` for an unknown key, which does not count."""
        sent = self._sent.pop(key, None)
        if sent is None:
            return False
        self._latencies.append(time.perf_counter() - sent)
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        return True

    async def run(self, record: Callable[[], Awaitable[None]] | None = None) -> dict[str, Any]:
        """Emit everything and wait for the last acknowledgement.

        Args:
            record: returns when everything acknowledged is recorded; belongs to the work that is
                measured.

        Raises:
            TimeoutError: an acknowledgement did not come.
        """
        async with measured(self.load.events, lambda: self._unbilled) as result:
            started = time.perf_counter()
            for number in range(self.load.events):
                await self._wait_for_turn(number, started)
                self._sent[self._emit(number % self.load.users, number)] = time.perf_counter()
            while self._sent:
                await self._wait_for_ack()
            if record is not None:
                await record()
        return result | {"ack_ms": percentiles(self._latencies)}

    async def _wait_for_turn(self, number: int, started: float) -> None:
        if self.load.rate:
            ahead = started + number / self.load.rate - time.perf_counter()
            if ahead > 0:
                await asyncio.sleep(ahead)
        elif number % BURST == 0:
            await asyncio.sleep(0)
        while len(self._sent) >= self.load.window:
            await self._wait_for_ack()
        if number % BURST == 0 and self._is_full():
            async with asyncio.timeout(TIMEOUT):
                while self._is_full():  # noqa: ASYNC110 - the journal announces no room
                    await asyncio.sleep(0.001)

    async def _wait_for_ack(self) -> None:
        self._room = asyncio.get_running_loop().create_future()
        async with asyncio.timeout(TIMEOUT):
            await self._room


class PolledWindow(Window):
    """A window that polls for acknowledgements: the gateway does not announce them.

    Acknowledgements are seen a few milliseconds late.

    Args:
        look: calls ``acked`` for the keys that came since the last look; reads the gateway inside
            of ``unbilled``.
    """

    def __init__(
        self, load: Load, emit: Callable[[int, int], Any], look: Callable[[], None]
    ) -> None:
        super().__init__(load, emit)
        self._look = look

    async def run(self, record: Callable[[], Awaitable[None]] | None = None) -> dict[str, Any]:
        """See ``Window.run``."""
        async with asyncio.TaskGroup() as group:
            polling = group.create_task(self._poll())
            result = await super().run(record)
            polling.cancel()
        return result

    @contextmanager
    def unbilled(self) -> Iterator[None]:
        """Exclude the block, which must not await, from the processor time of the result."""
        before = time.thread_time()
        try:
            yield
        finally:
            self._unbilled += time.thread_time() - before

    async def _poll(self) -> None:
        pause = POLL_EVERY
        while True:
            await asyncio.sleep(pause)
            started = time.perf_counter()
            self._look()
            pause = max(POLL_EVERY, (time.perf_counter() - started) / POLL_SHARE)


class Acceptances:
    """How long sampled events took until they were durable, as a caller of ``accepted()`` sees it.

    A paced load leaves time between two events, so that every event is watched, within a bound.
    """

    def __init__(self, load: Load) -> None:
        self._every = max(1, -(-load.events // MAX_SAMPLES)) if load.rate else SAMPLE
        self._waits: list[float] = []
        self._watching: set[asyncio.Task[None]] = set()

    def watch(self, number: int, receipt: Receipt) -> None:
        """Watch event ``number``, emitted just now."""
        if number % self._every == 0:
            task = asyncio.create_task(self._wait(receipt, time.perf_counter()))
            self._watching.add(task)

    async def percentiles(self) -> dict[str, float]:
        """See ``percentiles``; waits for sampled events that are not durable yet.

        Raises:
            DeliveryError: a sampled event was not accepted.
        """
        await asyncio.gather(*self._watching)
        return percentiles(self._waits)

    async def _wait(self, receipt: Receipt, emitted: float) -> None:
        await receipt.accepted()
        self._waits.append(time.perf_counter() - emitted)


@asynccontextmanager
async def measured(
    events: int, unbilled: Callable[[], float] = lambda: 0.0
) -> AsyncIterator[dict[str, Any]]:
    """Time and processor time of the block, put into the yielded mapping at its end.

    Args:
        unbilled: seconds of processor time in the block that are the benchmark's own.
    """
    result: dict[str, Any] = {}
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    yield result
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_SELF)
    own = unbilled()
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime - own
    result |= {
        "events": events,
        "wall_s": wall,
        "cpu_s": cpu,
        "unbilled_cpu_s": own,
        "cpu_s_per_million": cpu / events * 1e6,
        "events_per_s": events / wall,
        "events_per_cpu_s": events / cpu,
        "max_rss_kib": after.ru_maxrss,
    }


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Milliseconds at p50, p99 and p99.9 of raw samples, and the maximum."""
    ordered = sorted(seconds)
    if not ordered:
        return {}
    last = len(ordered) - 1
    found = {
        name: ordered[min(last, int(len(ordered) * share))] * 1000.0
        for name, share in (("p50", 0.50), ("p99", 0.99), ("p99.9", 0.999))
    }
    return found | {"max": ordered[-1] * 1000.0}
