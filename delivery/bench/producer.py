"""A producer in a process of its own: events over HTTP, through the public emitter.

Owns: the window of unaccepted events and the wait for each. Never does: connect as a user.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

import delivery
from delivery.bench.load import BURST, Load, percentiles
from delivery.domain.emission import Receipt
from delivery.domain.event import AGENT_TYPES

TIMEOUT = 120.0


async def produce(url: str, token: str, load: Load, name: str = "run") -> dict[str, float]:
    """Post everything; milliseconds from the emission to the acceptance, as percentiles.

    Args:
        name: of its runs. Producers must not share a run: where events of several producers cross,
            a gateway has to read the run from the ledger.
    """
    data = {"text": "x" * load.payload}
    waiting: deque[tuple[Receipt, float]] = deque()
    waits: list[float] = []

    async def settle(most: int) -> None:
        while len(waiting) > most:
            receipt, at = waiting.popleft()
            await receipt.accepted()
            waits.append(time.perf_counter() - at)

    async with (
        asyncio.timeout(TIMEOUT),
        delivery.connect(url, token, max_buffered=load.window) as remote,
    ):
        emitters = [remote.emitter(f"user-{user}", f"{name}-{user}") for user in range(load.users)]
        started = time.perf_counter()
        for number in range(load.events):
            if load.rate:
                ahead = started + number / load.rate - time.perf_counter()
                if ahead > 0:
                    await asyncio.sleep(ahead)
            elif number % BURST == 0:
                await asyncio.sleep(0)
            await settle(load.window - 1)
            receipt = emitters[number % load.users].emit_nowait(AGENT_TYPES[number % 5], data)
            waiting.append((receipt, time.perf_counter()))
        await settle(0)
    return percentiles(waits)
