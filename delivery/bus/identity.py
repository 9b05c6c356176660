"""Which Redis server answers, and whether it is the primary and has memory left.

Owns: the questions and their answers. Never does: leave a server, or decide what follows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import redis.asyncio
from redis.asyncio.client import PubSub
from redis.exceptions import ResponseError

from delivery.redis_servers.connections import NotPrimary

SECTIONS = ("server", "replication", "memory")
_RUN_ID = re.compile(rb"^run_id:([0-9A-Za-z]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Identity:
    """A server, as far as it tells.

    Attributes:
        run_id: differs for each start of a server; ``None`` where the user may not ask.
        is_replica: what is published here reaches no subscriber of the primary.
        is_full: writes are refused for want of memory.
    """

    run_id: str | None = None
    is_replica: bool = False
    is_full: bool = False


async def ask(client: redis.asyncio.Redis) -> Identity:
    """Ask in one round trip.

    Raises:
        RedisError, OSError: it does not answer.
    """
    async with client.pipeline(transaction=False) as pipeline:
        for section in SECTIONS:
            pipeline.info(section)
        answers = await pipeline.execute(raise_on_error=False)
    found: dict[str, Any] = {}
    for answer in answers:
        if isinstance(answer, Mapping):
            found |= answer
        elif isinstance(answer, Exception) and not isinstance(answer, ResponseError):
            raise answer  # a refusal means that the user lacks the right to ask
    limit = int(found.get("maxmemory", 0))
    return Identity(
        run_id=found.get("run_id"),
        is_replica=found.get("role") == "slave",
        is_full=(
            0 < limit <= int(found.get("used_memory", 0))
            and found.get("maxmemory_policy") == "noeviction"
        ),
    )


async def would_write(client: redis.asyncio.Redis, channel: str) -> None:
    """Send a write that changes nothing: it pushes to a list that does not exist.

    Args:
        channel: in a cluster, the key is of its slot.

    Raises:
        RedisError, OSError: it is refused, or the server does not answer.
    """
    await client.execute_command("LPUSHX", f"{{{channel}}}:probe", "")  # type: ignore[no-untyped-call]


async def primary_behind(pubsub: PubSub) -> str | None:
    """Run id of the server at the other end of this very connection, before it subscribes; ``None``
    where the user may not ask.

    Raises:
        NotPrimary: it is a replica.
        RedisError, OSError: it does not answer.
    """
    if b"role:slave" in await _info(pubsub, "replication"):
        raise NotPrimary("Redis is a replica: what is published elsewhere may not arrive here")
    found = _RUN_ID.search(await _info(pubsub, "server"))
    return found[1].decode() if found else None


async def _info(pubsub: PubSub, section: str) -> bytes:
    await pubsub.execute_command("INFO", section)
    try:
        answer = await pubsub.parse_response(block=True)
    except ResponseError:  # the user lacks the right
        return b""
    return answer if isinstance(answer, bytes) else str(answer).encode()
