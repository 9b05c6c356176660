"""What a load bills the server: its own polling not, the last commit yes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from delivery.bench.load import BURST, POLL_EVERY, POLL_SHARE, Load, PolledWindow, Window

EVENTS = 200 * BURST


class Server:
    """Acknowledges each event at once, and shows it to its observers."""

    def __init__(self, cost: float = 0.0, clock: Callable[[], float] = time.thread_time) -> None:
        self.window = PolledWindow(Load(10, EVENTS, EVENTS), self.emit, self.look)
        self.looks = 0
        self._cost = cost
        self._clock = clock
        self._emitted = 0
        self._seen = 0

    def emit(self, user: int, number: int) -> int:
        self._emitted += 1
        return number

    def look(self) -> None:
        self.looks += 1
        with self.window.unbilled():
            spent = self._clock() + self._cost
            while self._clock() < spent:
                pass
        for number in range(self._seen, self._emitted):
            self.window.acked(number)
        self._seen = self._emitted


async def test_a_polled_window_looks_at_intervals_and_not_with_every_burst() -> None:
    server = Server()
    result = await server.window.run()
    assert server.looks <= result["wall_s"] / POLL_EVERY + 2


async def test_costly_looks_take_a_tenth_of_the_time() -> None:
    server = Server(cost=0.03, clock=time.perf_counter)
    result = await server.window.run()
    assert server.looks > 1
    assert (server.looks - 1) * 0.03 <= result["wall_s"] * POLL_SHARE * 1.1


async def test_processor_time_of_looking_is_not_billed() -> None:
    server = Server(cost=0.05)
    before = time.process_time()
    result = await server.window.run()
    spent = time.process_time() - before
    assert server.looks * 0.05 <= result["unbilled_cpu_s"] <= spent
    assert result["cpu_s"] <= spent - server.looks * 0.05 + 0.05


async def test_an_error_while_looking_ends_the_load() -> None:
    def look() -> None:
        raise LookupError

    window = PolledWindow(Load(1, 10, 10), lambda user, number: number, look)
    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.wait_for(window.run(), 5)
    assert caught.group_contains(LookupError)


async def test_the_clock_runs_until_what_was_acknowledged_is_recorded() -> None:
    window = Window(Load(1, 10, 10), lambda user, number: number)
    recorded = asyncio.Event()

    async def record() -> None:
        spent = time.thread_time() + 0.1
        while time.thread_time() < spent:
            pass
        recorded.set()

    running = asyncio.create_task(window.run(record))
    while not recorded.is_set():
        for number in range(10):
            window.acked(number)
        await asyncio.sleep(0)
    result = await running
    assert result["wall_s"] >= 0.1
    assert result["cpu_s"] >= 0.1
