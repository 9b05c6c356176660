"""The event stream of a real gateway, read line by line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from delivery.domain.lifecycle import State
from delivery.protocol import Limits
from tests.fast_path import Node, make_event, serve
from tests.waiting import until


class Stream:
    """A parser of its own: fields of one message until the empty line."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.comments: list[str] = []

    async def next(self) -> dict[str, str]:
        fields: dict[str, str] = {}
        async with asyncio.timeout(10):
            while line := (await self.response.content.readline()).decode():
                name, _, value = line.rstrip("\n").partition(": ")
                if line == "\n" and fields:
                    return fields
                if line.startswith(":"):
                    self.comments.append(value)
                elif line != "\n":
                    fields[name] = value
        return {}

    async def event(self) -> tuple[str, dict[str, Any]]:
        while (message := await self.next())["event"] == "pong":
            continue
        assert message["event"] == "event", message
        return message["id"], json.loads(message["data"])


@asynccontextmanager
async def stream(
    node: Node, user: str = "ada", **headers: str
) -> AsyncIterator[tuple[Stream, dict[str, Any]]]:
    headers["Authorization"] = f"Bearer token-{user}"
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{node.url}/v1/stream", headers=headers) as response,
    ):
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream"
        assert response.headers["Cache-Control"] == "no-store, no-transform"
        reader = Stream(response)
        first = await reader.next()
        assert first["event"] == "connected"
        yield reader, json.loads(first["data"])


async def test_the_stream_begins_with_connected_and_carries_events_with_their_ids() -> None:
    async with serve(Node()) as node, stream(node) as (reader, welcome):
        assert welcome["user_id"] == "ada"
        assert welcome["recovered"] is True
        event = make_event(data={"text": "line\nbreak"})
        assert node.emit(event) == 1
        assert await reader.event() == (event.id, event.as_wire())


async def test_a_stream_is_not_held_back_by_missing_acks() -> None:
    limits = Limits(max_in_flight=5, max_queue=10)
    async with serve(Node(limits=limits)) as node, stream(node) as (reader, _):
        events = [make_event() for _ in range(200)]
        for event in events:
            node.emit(event)
        assert [(await reader.event())[0] for _ in events] == [event.id for event in events]


async def test_last_event_id_is_the_cursor() -> None:
    async with serve(Node()) as node:
        node.ledger.add(make_event(), State.CONFIRMED, age=200.0)
        cursor = node.ledger.add(make_event(), State.CONFIRMED, age=100.0).event.id
        after = node.ledger.add(make_event(), age=5.0).event.id
        async with stream(node, **{"Last-Event-ID": cursor}) as (reader, welcome):
            assert welcome["recovered"] is True
            assert [(await reader.event())[0] for _ in range(2)] == [cursor, after]


async def test_an_unknown_last_event_id_says_so() -> None:
    async with serve(Node()) as node, stream(node, **{"Last-Event-ID": "x"}) as (_, welcome):
        assert welcome["recovered"] is False


async def test_silence_is_filled_with_messages() -> None:
    async with serve(Node(limits=Limits(heartbeat=0.1))) as node, stream(node) as (reader, _):
        for _ in range(2):
            assert await reader.next() == {"event": "pong", "data": '{"type":"pong"}'}
        assert len(reader.comments) == 1  # the padding


async def test_the_first_bytes_fill_the_buffer_of_a_proxy() -> None:
    async with serve(Node()) as node, stream(node) as (reader, _):
        assert len(reader.comments[0]) >= 4_095


async def test_a_stream_without_a_good_token_is_a_problem() -> None:
    async with serve(Node()) as node, aiohttp.ClientSession() as session:
        for token in ("", "Bearer rubbish", "Bearer expired"):
            headers = {"Authorization": token} if token else {}
            async with session.get(f"{node.url}/v1/stream", headers=headers) as response:
                assert response.status == 401
                assert response.content_type == "application/problem+json"


async def test_a_services_name_is_no_users_and_gets_no_stream() -> None:
    headers = {"Authorization": "Bearer service-ada"}
    async with (
        serve(Node()) as node,
        aiohttp.ClientSession() as session,
        session.get(f"{node.url}/v1/stream", headers=headers) as response,
    ):
        assert response.status == 403


async def test_one_stream_too_many_is_told_to_wait() -> None:
    headers = {"Authorization": "Bearer token-ada"}
    async with (
        serve(Node(max_per_user=1)) as node,
        stream(node),
        aiohttp.ClientSession() as session,
        session.get(f"{node.url}/v1/stream", headers=headers) as response,
    ):
        assert response.status == 429
        assert "Retry-After" in response.headers


async def test_a_client_that_leaves_is_noticed() -> None:
    async with serve(Node()) as node:
        async with stream(node):
            assert node.registry.connections_of("ada") == 1
        await until(lambda: node.registry.connections == 0 and node.gateway.path.sockets == 0)


async def test_an_expired_token_ends_the_stream() -> None:
    async with serve(Node(limits=Limits(heartbeat=0.4))) as node:
        node.tokens.ttl = 0.3
        async with stream(node) as (reader, _):
            last = await reader.next()
            assert (last["event"], json.loads(last["data"])["code"]) == ("error", "unauthorized")
            assert await reader.next() == {}


async def test_a_drain_tells_the_stream_when_to_come_back_and_ends_it() -> None:
    node = Node()
    async with serve(node), stream(node) as (reader, _):
        stopping = asyncio.create_task(node.gateway.stop(2.0))
        last = await reader.next()
        assert last["event"] == "reconnect"
        assert int(last["retry"]) == json.loads(last["data"])["after_ms"] <= 2_000
        assert await reader.next() == {}
        await stopping


async def test_a_resend_counts_a_stream_that_takes_it() -> None:
    async with serve(Node()) as node, stream(node) as (reader, _):
        event = make_event()
        node.emit(event)
        await reader.event()
        assert await node.gateway.resend("ada", [event.id], 1.0) == 1
        assert (await reader.event())[0] == event.id
