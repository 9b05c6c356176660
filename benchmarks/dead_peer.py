"""The cost of each event for a user whose only client has died without a close.

Owns: the client that dies, with its user's breaker open or closed, and the count of the events that
the chain has when the last one is accepted.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from delivery.bench.clients import connect, masked
from delivery.bench.load import BURST, measured
from delivery.bench.product import MAX_BACKLOG
from delivery.bench.roles import Order, Say, main
from delivery.bootstrap.gateway import node_from_environment, serve_node
from delivery.bootstrap.node import Node
from delivery.domain.event import AGENT_TYPES
from delivery.domain.health import THRESHOLD
from delivery.emitter.emitter import Emitter
from delivery.process.event_loop import tune_garbage_collector
from delivery.tokens import make_token

USER = "user-0"
TIMEOUT = 60.0
PAGE = 500
_TEXT = 0x1


class _Deaf(asyncio.Protocol):
    """Takes over a connection and discards all that comes."""

    def data_received(self, data: bytes) -> None:
        pass


async def push_to_dead_peer(
    node: Node, *, secret: str, events: int, is_open: bool
) -> dict[str, Any]:
    """Emit to the dead client through the whole product.

    Args:
        is_open: the client refused so many events that its user's breaker opened.

    Returns:
        Processor time per event in microseconds, of the loop's thread while it emits and of the
        whole process until all is recorded; and the share of events that were handed to the chain
        without waiting for an acknowledgement. With a closed breaker the rest follows when it was
        not acknowledged in time; what that costs comes later and is not counted.
    """
    await node.open()
    try:
        await serve_node(node)
        client = (await connect(node.settings.base_url, 1, [make_token(secret, USER)]))[0]
        emitter = node.emitter(USER, "run-0")
        await _go_dead(node, emitter, client.transport, is_open=is_open)
        tune_garbage_collector()
        async with measured(events) as result:
            before = time.thread_time()
            ids = await _emit(node, emitter, events)
            loop_s = time.thread_time() - before
            await node.journal.flush(TIMEOUT)
        handed = await asyncio.to_thread(_handed_over, node, ids)
        return {
            "loop_us_per_event": loop_s / events * 1e6,
            "us_per_event": result["cpu_s_per_million"],
            "handed_over": handed / events,
        }
    finally:
        await node.gateway.stop(0.0)
        await node.close()


async def _go_dead(node: Node, emitter: Emitter, transport: Any, *, is_open: bool) -> None:
    async with asyncio.timeout(TIMEOUT):
        while not node.connections:  # noqa: ASYNC110 - connections are not announced
            await asyncio.sleep(0.01)
        transport.set_protocol(_Deaf())
        ids = [(await emitter.emit("run_opened", {})).id for _ in range(THRESHOLD)]
        if is_open:
            for event_id in ids:
                refusal = msgspec.json.encode({"type": "nack", "id": event_id, "reason": "bench"})
                transport.write(masked(_TEXT, refusal))
            while await asyncio.to_thread(_handed_over, node, ids) < len(ids):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        transport.pause_reading()


async def _emit(node: Node, emitter: Emitter, events: int) -> list[str]:
    data = {"text": "x" * 100}
    ids = []
    for number in range(events):
        ids.append(emitter.emit_nowait(AGENT_TYPES[number % len(AGENT_TYPES)], data).id)
        if number % BURST == 0:
            await asyncio.sleep(0)
            while node.journal.backlog > MAX_BACKLOG:  # noqa: ASYNC110 - the journal announces no room
                await asyncio.sleep(0.001)
    return ids


def _handed_over(node: Node, ids: Sequence[str]) -> int:
    found = 0
    for start in range(0, len(ids), PAGE):
        page = node.ledger.events.read(ids[start : start + PAGE])
        found += sum(one.handed_over_at is not None for one in page)
    return found


async def _be_gateway(order: Order, say: Say) -> None:
    secret = os.environ["DELIVERY_JWT_SECRET"]
    say(**await push_to_dead_peer(node_from_environment("bench"), secret=secret, **order))


if __name__ == "__main__":
    main({"dead_peer": _be_gateway})
