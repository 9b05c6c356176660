"""A run with its tokens over a real server."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from delivery.testing import make_entry, make_event, make_id
from tests.integration.http_api_standins import CLIENT, EMIT, OTHER, READ, Client, World

FIGURES = {"input_tokens": 10, "output_tokens": 5, "cost": 0.25}


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


@pytest.fixture
async def client(world: World) -> AsyncIterator[Client]:
    async with world.client() as client:
        yield client


async def shown(client: Client, path: str, headers: dict[str, str]) -> tuple[int, Any]:
    response = await client.get(path, headers=headers)
    return response.status, await response.json()


async def test_a_run_is_shown_to_its_user_and_to_readers(client: Client, world: World) -> None:
    run_id = "r{1}"
    for number, type in enumerate(("note", "token_metrics"), 1):
        event = make_event(id=make_id(number), type=type, run_id=run_id, seq=None, data=FIGURES)
        world.ledger.recording.commit([make_entry(event)])
    path = "/v1/runs/r%7B1%7D"
    status, mine = await shown(client, path, CLIENT)
    assert status == 200, mine
    assert (mine["user_id"], mine["run_id"], mine["last_seq"]) == ("u1", run_id, 2)
    assert mine["tokens"] == FIGURES | {"total_tokens": 15}
    assert mine["started_at"].endswith("Z")
    assert await shown(client, f"{path}?user_id=u1", READ) == (200, mine)
    assert (await shown(client, path, OTHER))[0] == 404
    assert (await shown(client, f"{path}?user_id=u1", OTHER))[0] == 403
    assert (await shown(client, f"{path}?user_id=u1", EMIT))[0] == 403


async def test_a_run_without_figures_has_none(client: Client, world: World) -> None:
    world.ledger.recording.commit([make_entry(make_event(id=make_id(), seq=None))])
    assert (await shown(client, "/v1/runs/r1", CLIENT))[1]["tokens"] is None


@pytest.mark.parametrize(
    ("query", "field"), [("", "user_id"), ("?user_id=", "user_id"), ("?user_id=u1&x=1", "x")]
)
async def test_a_bad_question_is_refused_by_the_name_of_its_field(
    client: Client, query: str, field: str
) -> None:
    status, said = await shown(client, f"/v1/runs/r1{query}", READ)
    assert (status, said["field"]) == (422, field)
