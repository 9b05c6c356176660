"""Who is connected: to this gateway with every detail, to the others as far as they tell.

Owns: the question to other gateways about one user, and how long it waits. Never does: change a
connection.
"""

from __future__ import annotations

import asyncio
import heapq
import secrets
import time
from collections.abc import Callable, Iterator, Sequence

from delivery.domain.node_messages import ConnectionInfo, ConnectionsAsked, ConnectionsTold
from delivery.gateway.registry import Member, Registry

ANSWER_TIMEOUT = 1.0
MAX_PENDING = 64
"""Questions that wait for an answer; a further one is answered without the details."""
MAX_TOLD = 200


class ConnectionReports:
    """Describes connections. On the loop's thread.

    Args:
        clock: monotonic seconds; ``wall``: epoch seconds.
    """

    def __init__(
        self,
        registry: Registry,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._wall = wall
        self._pending: dict[str, tuple[set[str], list[ConnectionInfo], asyncio.Event]] = {}

    async def of_user(self, user_id: str) -> list[ConnectionInfo]:
        """The connections of one user on all nodes. A node that has some and does not tell them in
        time is named without their details."""
        found = self._here(user_id)
        hosts = set(self._registry.peers.hosts_of(user_id))
        if hosts and len(self._pending) < MAX_PENDING:
            found += await self._ask(user_id, hosts)
        found += [ConnectionInfo(node=node, user=user_id) for node in sorted(hosts)]
        return sorted(found, key=_order)

    def page(self, after: str, prefix: str, limit: int) -> tuple[list[ConnectionInfo], str | None]:
        """Connections of all nodes by user; those of other nodes without details.

        Args:
            after: where the page before ended; empty: from the beginning.

        Returns:
            The page, and where the next one begins.
        """
        known = (entry for entry in self._entries(prefix) if entry[0] > after)
        chosen = heapq.nsmallest(limit + 1, known, key=lambda entry: entry[0])
        page = [
            one if isinstance(one, ConnectionInfo) else self._described(key.partition("\n")[0], one)
            for key, one in chosen[:limit]
        ]
        return page, chosen[limit - 1][0] if len(chosen) > limit else None

    def on_asked(self, message: ConnectionsAsked) -> None:
        """Tell another node about the user's connections here."""
        told = self._here(message.user)[:MAX_TOLD]
        node = self._registry.peers.node
        self._registry.peers.publish(
            ConnectionsTold(node=node, request=message.request, connections=told), (message.node,)
        )

    def on_told(self, message: ConnectionsTold) -> None:
        """Take the answer of another node to a question of this one."""
        pending = self._pending.get(message.request)
        if pending is None or message.node not in pending[0]:
            return
        waiting, found, is_complete = pending
        waiting.discard(message.node)
        found += message.connections[:MAX_TOLD]
        if not waiting:
            is_complete.set()

    async def _ask(self, user_id: str, hosts: set[str]) -> Sequence[ConnectionInfo]:
        """The answers of these nodes; those that answered leave ``hosts``."""
        request = secrets.token_hex(8)
        found: list[ConnectionInfo] = []
        is_complete = asyncio.Event()
        self._pending[request] = (hosts, found, is_complete)
        peers = self._registry.peers
        asked = ConnectionsAsked(node=peers.node, request=request, user=user_id)
        try:
            peers.publish(asked, tuple(hosts))
            async with asyncio.timeout(ANSWER_TIMEOUT):
                await is_complete.wait()
        except TimeoutError:
            pass  # what came is told; the other nodes stand without details
        finally:
            del self._pending[request]
        return [one for one in found if one.user == user_id]

    def _here(self, user_id: str) -> list[ConnectionInfo]:
        return [self._described(user_id, one) for _, one in self._registry.members(user_id)]

    def _entries(self, prefix: str) -> Iterator[tuple[str, Member | ConnectionInfo]]:
        """Connections with a place in the order of pages, which no name's characters disturb."""
        node = self._registry.peers.node
        for user_id, one in self._registry.members():
            if user_id.startswith(prefix):
                yield f"{user_id}\n{node}\n{one.id}", one
        for user_id, other in self._registry.peers.present():
            if user_id.startswith(prefix):
                yield f"{user_id}\n{other}\n", ConnectionInfo(node=other, user=user_id)

    def _described(self, user_id: str, one: Member) -> ConnectionInfo:
        now = self._clock()
        return ConnectionInfo(
            node=self._registry.peers.node,
            user=user_id,
            id=one.id,
            device=one.device,
            transport=one.transport.value,
            since=self._wall() - max(0.0, now - one.opened_at),
            health=one.score(now),
        )


def _order(one: ConnectionInfo) -> tuple[str, str, str]:
    return one.user, one.node, one.id
