"""What a body costs before it is refused: levels, items and growth are counted before decoding."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from multidict import CIMultiDict

from delivery.api import routes
from delivery.api.problems import Problem, problem_middleware
from tests.integration.http_api_standins import EMIT, EVERYTHING, World
from tests.integration.test_http_api_events import problem

Client = TestClient[web.Request, web.Application]
NDJSON = EMIT | {"Content-Type": "application/x-ndjson"}
GZIP = EMIT | {"Content-Encoding": "gzip", "Content-Type": "application/json"}
START = b'{"type":"note","user_id":"u1","run_id":"r1"'


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    app = web.Application(middlewares=[problem_middleware])
    world = World()
    app.add_routes(routes.routes(world.handlers()))
    async with TestClient(TestServer(app)) as client:
        yield client
    world.close()


def of_levels(levels: int) -> bytes:
    """One event whose document has so many levels."""
    inner = levels - 1
    return START + b',"data":' + b'{"a":' * (inner - 1) + b"{}" + b"}" * inner


async def test_64_levels_are_taken_and_65_are_not(client: Client) -> None:
    response = await client.post("/v1/events", data=of_levels(64), headers=EMIT)
    assert response.status == 202, await response.text()
    response = await client.post("/v1/events", data=of_levels(65), headers=EMIT)
    assert "64 levels" in (await problem(response, 400, "not-json"))["detail"]
    response = await client.post("/v1/events", data=of_levels(971), headers=EMIT)
    await problem(response, 400, "not-json")


@pytest.mark.parametrize("levels", [65, 971])
async def test_a_line_and_any_other_body_have_as_many_levels(client: Client, levels: int) -> None:
    response = await client.post("/v1/events", data=of_levels(levels), headers=NDJSON)
    await problem(response, 400, "not-json")
    deep = b'{"state":' + b"[" * levels + b"]" * levels + b"}"
    response = await client.post("/v1/replay", data=deep, headers=EVERYTHING)
    await problem(response, 400, "not-json")
    response = await client.put("/v1/users/u1/contacts", data=deep, headers=EVERYTHING)
    await problem(response, 400, "not-json")


@pytest.mark.parametrize("order", [("identity", "gzip"), ("", "gzip"), ("gzip", "gzip")])
async def test_a_body_grows_only_so_far_whichever_header_says_that_it_is_compressed(
    client: Client, order: tuple[str, str]
) -> None:
    raw = gzip.compress(b" " * 12_000_000)
    headers = CIMultiDict(EMIT | {"Content-Type": "application/json"})
    for encoding in order:
        headers.add("Content-Encoding", encoding)
    response = await client.post("/v1/events", data=raw, headers=headers)
    await problem(response, 413, "payload-too-large")


BODIES = {
    "items": b'{"events":[' + b",".join([b"[]"] * 5_500_000) + b"]}",
    "members": b"{" + b",".join([b'"a":1'] * 2_500_000) + b"}",
    "values": START + b',"data":{"a":[' + b",".join([b"[]"] * 5_500_000) + b"]}}",
    "in a list": b'{"events":[' + START + b',"data":{"a":[' + b"1," * 8_000_000 + b"1]}}]}",
    "levels": b"[" * 16_000_000,
}


class Loop:
    """The longest time for which the event loop served no other request."""

    def __init__(self) -> None:
        self.worst = 0.0

    async def __aenter__(self) -> Loop:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._task.cancel()

    async def _watch(self) -> None:
        while True:
            begun = time.thread_time()
            await asyncio.sleep(0)
            self.worst = max(self.worst, time.thread_time() - begun)


@pytest.mark.parametrize("name", BODIES)
async def test_a_large_body_holds_the_loop_for_no_time_that_others_feel(
    client: Client, name: str
) -> None:
    async with Loop() as loop:
        response = await client.post("/v1/events", data=BODIES[name], headers=EMIT)
        assert response.status in (400, 413), await response.text()
    # The loop's own processor time: sending and reading 16 MiB, in this very process.
    assert loop.worst < 0.2


async def test_lines_are_counted_before_they_are_made(client: Client) -> None:
    async with Loop() as loop:
        response = await client.post("/v1/events", data=b"\n" * 8_000_000, headers=NDJSON)
        await problem(response, 413, "payload-too-large")
    assert loop.worst < 0.2


async def test_a_compressed_body_may_not_grow_out_of_proportion(client: Client) -> None:
    bomb = gzip.compress(BODIES["items"])
    assert len(bomb) < 64 * 1024
    async with Loop() as loop:
        response = await client.post("/v1/events", data=bomb, headers=GZIP)
        await problem(response, 413, "payload-too-large")
    assert loop.worst < 0.2


async def test_an_honest_compressed_batch_is_taken(client: Client) -> None:
    events: list[dict[str, Any]] = [
        {"type": "note", "user_id": "u1", "run_id": f"r{n}", "data": {"text": f"number {n}" * 9}}
        for n in range(1_000)
    ]
    body = gzip.compress(json.dumps({"events": events}).encode())
    response = await client.post("/v1/events", data=body, headers=GZIP)
    assert response.status == 202, await response.text()
    assert len((await response.json())["accepted"]) == 1_000


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/events", b"[" * 100_000),
        ("/v1/events", b"x" * (17 << 20)),
        ("/v1/acks", b"x" * (1 << 20)),
        ("/v1/nowhere", b"{}"),
    ],
)
async def test_nothing_is_kept_of_a_refused_request(client: Client, path: str, body: bytes) -> None:
    def kept() -> int:
        return sum(isinstance(one, Problem) for one in gc.get_objects())

    gc.collect()
    before = kept()
    gc.disable()  # as good as: the collector of a gateway runs rarely
    try:
        for _ in range(3):
            response = await client.post(path, data=body, headers=EMIT)
            assert response.status >= 400
            await response.read()
        await asyncio.sleep(0)
        assert kept() - before <= 1  # the connection may still hold the last one
    finally:
        gc.enable()
