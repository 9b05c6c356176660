"""The older factories of emitters: a bridge and a pool.

Owns: which user and run an emitter is made for, and how many are out at a time. Never does: give
one emitter to two users: each call makes its own.
"""

from __future__ import annotations

import asyncio
from typing import Any

from delivery.emitter.compat.emitters import NEW, UnifiedWebSocketEmitter, UserWebSocketEmitter
from delivery.emitter.compat.notifier import bound
from delivery.emitter.compat.redirect import ids_of, source_of, warn_once
from delivery.errors import ConfigError, InvalidContext, Overloaded


class WebSocketBridgeFactory:
    """Makes emitters of users.

    Args:
        manager: as of ``UnifiedWebSocketEmitter``; without one, what ``bind`` was given.
        router: another name of the same argument.

    Raises:
        ConfigError: it is none of the three, or there is none and ``bind`` was not called.
    """

    def __init__(self, manager: Any = None, *, router: Any = None) -> None:
        warn_once(type(self).__name__, NEW)
        given = manager if manager is not None else router
        name = "manager" if router is None or manager is not None else "router"
        self._source = source_of(name, bound() if given is None else given)

    def create_user_emitter(
        self,
        user_id: str,
        thread_id: Any = None,
        connection_id: str | None = None,
        context: Any = None,
    ) -> UserWebSocketEmitter:
        """Make an emitter, by ``(user_id, thread_id, connection_id)``, whose run is the thread's
        id, or by ``(user_id, context)``. It may be awaited, as older callers do.

        Raises:
            InvalidContext: an id is missing, malformed or another user's; names the field.
        """
        warn_once(f"{type(self).__name__}.create_user_emitter", NEW)
        if context is None and not isinstance(thread_id, str | None):
            context = thread_id
        if context is None:
            if thread_id is None:
                raise InvalidContext("give a thread_id or a context", field="thread_id")
            context = {"user_id": user_id, "run_id": thread_id, "thread_id": thread_id}
        ids_of(context, user_id)
        return UserWebSocketEmitter(context, self._source, connection_id)


class WebSocketEmitterPool:
    """Emitters of which a bounded number is out at a time.

    Args:
        manager: as of ``UnifiedWebSocketEmitter``.
        max_size: emitters that may be out.
        timeout: seconds that ``acquire`` waits for one to be released.

    Raises:
        ConfigError: ``manager`` is none of the three, or a bound is not positive.
    """

    def __init__(self, manager: Any, max_size: int = 100, timeout: float = 5.0) -> None:
        warn_once(type(self).__name__, f"{NEW}, which costs nothing to make")
        if max_size < 1 or not timeout > 0:
            raise ConfigError("max_size and timeout of a pool must be positive")
        self._source = source_of("manager", manager)
        self._timeout = timeout
        self._free = asyncio.Semaphore(max_size)
        self._out: dict[int, UnifiedWebSocketEmitter] = {}

    @property
    def in_use(self) -> int:
        """Emitters that are out."""
        return len(self._out)

    async def acquire(
        self, user_id: str, context: Any, timeout: float | None = None
    ) -> UnifiedWebSocketEmitter:
        """An emitter for this context, which no other caller has or gets.

        Args:
            timeout: seconds, in place of the pool's.

        Raises:
            InvalidContext: an id is missing, malformed or another user's; names the field.
            Overloaded: none was released in time.
        """
        warn_once(f"{type(self).__name__}.acquire", NEW)
        ids_of(context, user_id)
        limit = self._timeout if timeout is None else timeout
        try:
            async with asyncio.timeout(limit):
                await self._free.acquire()
        except TimeoutError:
            raise Overloaded(
                f"no emitter of {self.in_use} was released within {limit:g} s"
            ) from None
        try:
            made = UnifiedWebSocketEmitter(self._source, user_id, context)
        except BaseException:
            self._free.release()
            raise
        self._out[id(made)] = made
        return made

    async def release(self, emitter: UnifiedWebSocketEmitter) -> None:
        """Give an emitter back once what it started is durable; a second time changes nothing."""
        warn_once(
            f"{type(self).__name__}.release", "nothing: an emitter of the new kind needs none"
        )
        if self._out.pop(id(emitter), None) is None:
            return
        try:
            await emitter.cleanup()
        finally:
            self._free.release()
