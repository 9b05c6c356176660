"""Many subscribers in one process, lean enough for tens of thousands, from inside.

Owns: the roles of this benchmark, ``python -m delivery.bench.scale.subscribers``.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
import struct
import sys
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from delivery.bench import clients
from delivery.bench.load import percentiles
from delivery.bench.roles import Order, Role, Say, main

AT_ONCE = 64
"""Handshakes under way."""
PER_ADDRESS = 20_000
"""Connections from one local address, which has fewer than 30,000 ports for one server."""
RETRY = 0.5
LOOK_EVERY = 0.1
STEP = 1.0
"""Seconds between two rounds of resets: each takes a part of the connections."""


class Subscriber(clients.User):
    """Acknowledges what comes; knows an event by its id, as every client must."""

    def __init__(self, request: bytes, hello: bytes, crowd: Crowd, number: int) -> None:
        super().__init__(request, hello)
        self._crowd = crowd
        self._number = number

    def on_text(self, payload: bytes) -> None:
        """An event that was seen before is acknowledged again, and not counted."""
        frame = clients.decode(payload)
        if frame["type"] == "connected":
            self._crowd.welcomed(self._number, self)
        elif frame["type"] == "events":
            self._crowd.take(self._number, frame["events"])
            self.out.append(clients.acknowledgement(frame["n"]))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the crowd, which connects again."""
        self._crowd.lost(self._number)

    def reset(self) -> None:
        """End the connection with a TCP RST, as a crash or a NAT that forgot does."""
        found: socket.socket | None = self.transport.get_extra_info("socket")
        if found is not None:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


class Crowd:
    """All subscribers of this process.

    Attributes:
        away: seconds after a loss until the subscriber connects again.
    """

    def __init__(self, urls: list[str], tokens: list[str], away: float) -> None:
        self.away = away
        self.present: dict[int, Subscriber] = {}
        self.waits: list[float] = []
        self.received = 0
        self.repeated = 0
        self.resets = 0
        self.failures = 0
        self._urls = [urlsplit(url) for url in urls]
        self._tokens = tokens
        self._seen: list[set[str]] = [set() for _ in tokens]
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._is_closing = False

    def begin(self) -> None:
        """Connect all; ``present`` tells how far it is."""
        for number in range(len(self._tokens)):
            self._start(number, 0.0)

    def close(self) -> None:
        """Connect no more."""
        self._is_closing = True
        for task in self._tasks.values():
            task.cancel()

    def reset(self, share: float) -> None:
        """Reset a random share of the connections."""
        for subscriber in list(self.present.values()):
            if random.random() < share:
                subscriber.reset()
                self.resets += 1

    def welcomed(self, number: int, subscriber: Subscriber) -> None:
        """A subscriber gets events from now on."""
        self.present[number] = subscriber

    def lost(self, number: int) -> None:
        """A connection ended."""
        self.present.pop(number, None)
        self._start(number, self.away)

    def take(self, number: int, events: list[dict[str, Any]]) -> None:
        """Count events of one frame, and how long each was under way."""
        seen, now = self._seen[number], time.time()
        for event in events:
            if event["id"] in seen:
                self.repeated += 1
                continue
            seen.add(event["id"])
            self.received += 1
            self.waits.append(now - clients.epoch(event["at"]))

    def _start(self, number: int, delay: float) -> None:
        if not self._is_closing:
            self._tasks[number] = asyncio.ensure_future(self._connect(number, delay))

    async def _connect(self, number: int, delay: float) -> None:
        url = self._urls[number % len(self._urls)]
        host, port = url.hostname or "127.0.0.1", url.port or 80
        request, hello = clients.opening(url.netloc, number, self._tokens)
        source = (f"127.0.0.{1 + number // PER_ADDRESS}", 0)
        await asyncio.sleep(delay)
        async with self._gate:
            try:
                await asyncio.get_running_loop().create_connection(
                    lambda: Subscriber(request, hello or b"", self, number),
                    host,
                    port,
                    local_addr=source,
                )
                return
            except OSError:
                self.failures += 1
        self._start(number, RETRY)


async def _be_crowd(order: Order, say: Say) -> None:
    """Connect, say so, reset while told to, and report on a line from the parent."""
    crowd = Crowd(order["urls"], order["tokens"], order["away"])
    crowd.begin()
    await _until_present(crowd, len(order["tokens"]), say)
    say(connected=len(crowd.present))
    lines: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    reading = loop.run_in_executor(None, _read, loop, lines)
    while (line := (await lines.get()).strip()) not in ("", "done"):
        if line == "reset":
            await _reset_until_told(crowd, order["every"], lines)
            say(stopped=True)
        else:
            say(received=crowd.received)
    crowd.close()
    say(
        received=crowd.received,
        repeated=crowd.repeated,
        resets=crowd.resets,
        failures=crowd.failures,
        to_subscriber_s={k: v / 1000 for k, v in percentiles(crowd.waits).items()},
    )
    await reading


def _read(loop: asyncio.AbstractEventLoop, lines: asyncio.Queue[str]) -> None:
    for line in itertools.chain(sys.stdin, [""]):
        loop.call_soon_threadsafe(lines.put_nowait, line)
        if line.strip() in ("", "done"):
            return


async def _until_present(crowd: Crowd, wanted: int, say: Say) -> None:
    told = time.monotonic()
    while len(crowd.present) < wanted:
        await asyncio.sleep(LOOK_EVERY)
        if time.monotonic() - told > 10.0:
            told = time.monotonic()
            say(so_far=len(crowd.present))


async def _reset_until_told(crowd: Crowd, every: float, lines: asyncio.Queue[str]) -> None:
    while lines.empty():
        crowd.reset(STEP / every)
        await asyncio.sleep(STEP)
    lines.get_nowait()


ROLES: Mapping[str, Role] = {"crowd": _be_crowd}

if __name__ == "__main__":
    main(ROLES)
