"""Values that can be taken once, under a code that cannot be guessed: tickets, links that sign in.

Owns: the codes, their lifetime, and that of two takers one gets the value, on any node. Never does:
know what a value means. Redis holds a hash of the code, from which the code cannot be found.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import redis
from redis.exceptions import RedisError

from delivery.bus.redis_clients import client, close, keyed_client
from delivery.errors import ChannelUnavailable, Overloaded

T = TypeVar("T")

CODE_BYTES = 24  # 192 bits
MAX_CODE_CHARS = 64
MAX_VALUES = 10_000
"""Values that one process holds, or waits for, at the same time."""
THREADS = 2
PREFIX = "delivery:once:"


def make_code() -> str:
    """A new code, of characters that need no escape in a URL."""
    return secrets.token_urlsafe(CODE_BYTES)


def key_of(purpose: str, code: str) -> str:
    """The name under which a value is kept: no value of one purpose is taken for another."""
    return f"{purpose}:{hashlib.sha256(code.encode()).hexdigest()}"


def is_code(code: str) -> bool:
    """Whether the text may be a code."""
    return 0 < len(code) <= MAX_CODE_CHARS and code.isascii()


class LocalOneTime:
    """``OneTime`` in this process, where there is no other. On the loop.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._values: OrderedDict[str, tuple[float, bytes]] = OrderedDict()

    async def put(self, purpose: str, value: bytes, lifetime: float) -> str:
        """See the port."""
        return self.put_now(purpose, value, lifetime)

    def put_now(self, purpose: str, value: bytes, lifetime: float) -> str:
        """``put``, without waiting."""
        self._forget_old()
        if len(self._values) >= MAX_VALUES:
            raise Overloaded(f"{MAX_VALUES} tickets wait for their use already")
        code = make_code()
        self._values[key_of(purpose, code)] = (self._clock() + lifetime, value)
        return code

    async def take(self, purpose: str, code: str) -> bytes | None:
        """See the port."""
        if not is_code(code):
            return None
        until, value = self._values.pop(key_of(purpose, code), (0.0, b""))
        return value if self._clock() < until else None

    async def close(self) -> None:
        """Forget all values."""
        self._values.clear()

    def _forget_old(self) -> None:
        if len(self._values) < MAX_VALUES:
            return
        now = self._clock()
        for key in [key for key, (until, _) in self._values.items() if until <= now]:
            del self._values[key]


class RedisOneTime:
    """``OneTime`` for all nodes that share a Redis.

    Args:
        timeout: seconds for a connect or an answer.

    Raises:
        ConfigError: the URL cannot be read.
    """

    def __init__(self, url: str, *, prefix: str = PREFIX, timeout: float = 1.0) -> None:
        self._url = url
        self._prefix = prefix
        self._timeout = timeout
        self._entry = client(url, timeout)
        self._found: redis.Redis | redis.RedisCluster | None = None
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="delivery-one-time")
        self._waiting = 0

    async def put(self, purpose: str, value: bytes, lifetime: float) -> str:
        """See the port."""
        code = make_code()
        key = self._prefix + key_of(purpose, code)
        await self._call(lambda: self._redis.set(key, value, px=max(1, int(lifetime * 1_000))))
        return code

    async def take(self, purpose: str, code: str) -> bytes | None:
        """See the port."""
        if not is_code(code):
            return None
        key = self._prefix + key_of(purpose, code)
        found = await self._call(lambda: self._redis.getdel(key))
        return found if isinstance(found, bytes) else None

    async def close(self) -> None:
        """Disconnect."""
        await asyncio.to_thread(self._pool.shutdown)
        close(self._entry)
        if self._found is not None:
            self._found.close()

    @property
    def _redis(self) -> redis.Redis | redis.RedisCluster:
        """The client, made at the first call: Redis may be away earlier."""
        with self._lock:
            if self._found is None:
                self._found = keyed_client(self._entry, self._url, self._timeout)
        return self._found

    async def _call(self, function: Callable[[], T]) -> T:
        """Run a call of Redis in a thread, which its timeouts bound."""
        if self._waiting >= MAX_VALUES:
            raise Overloaded("too many tickets are asked for at once")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, function)
        except (RedisError, OSError) as error:
            raise ChannelUnavailable(f"Redis does not answer: {type(error).__name__}") from error
        finally:
            self._waiting -= 1
