"""A framework's stream, recorded and passed on.

Owns: that the stream is read to its end by a task of its own, whatever its reader does. Never does:
know what the items are.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

MAX_AHEAD = 100
"""Items that a reader may be behind; the stream then waits for it, as it would without this."""
_END = object()


async def passed_on(
    keep: Callable[[Coroutine[Any, Any, None]], Awaitable[None]],
    source: AsyncIterator[T],
    on_item: Callable[[T], None],
    on_error: Callable[[BaseException], None],
    room: Callable[[], Awaitable[None]],
) -> AsyncGenerator[T, None]:
    """See ``AgentRun.passed_on``.

    Args:
        keep: runs the reading task and holds on to it.
        room: awaited after each item.
    """
    items: asyncio.Queue[Any] = asyncio.Queue(MAX_AHEAD)
    has_reader = True

    async def read() -> None:
        try:
            async for item in source:
                on_item(item)
                await room()
                if has_reader:
                    await items.put(item)
        except BaseException as error:
            on_error(error)
            raise
        finally:
            if has_reader:
                await items.put(_END)

    reading = asyncio.ensure_future(keep(read()))
    try:
        while (item := await items.get()) is not _END:
            yield item
        await reading  # raises what the stream raised
    finally:
        has_reader = False
        reading.add_done_callback(_look)
        while not items.empty():
            items.get_nowait()  # a put that waits goes on


def _look(reading: asyncio.Future[None]) -> None:
    if not reading.cancelled():
        reading.exception()  # recorded already; without this it is logged as never retrieved
