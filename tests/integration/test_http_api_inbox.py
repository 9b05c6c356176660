"""The inbox over a real server: who may see and mark what, and the refusal of bad input."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import uuid_utils

from delivery.testing import make_entry, make_event
from tests.integration.http_api_standins import CLIENT, OPERATE, OTHER, READ, Client, World

PATH = "/v1/users/u1/inbox"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    world.close()


@pytest.fixture
async def client(world: World) -> AsyncIterator[Client]:
    async with world.client() as started:
        yield started


def record(world: World, *titles: str) -> list[str]:
    made = [make_event(id=str(uuid_utils.uuid7()), seq=None, data={"title": t}) for t in titles]
    world.ledger.recording.commit([make_entry(event) for event in made])
    return [event.id for event in made]


async def shown(client: Client, query: str = "", headers: Any = CLIENT) -> tuple[list[str], int]:
    response = await client.get(PATH + query, headers=headers)
    assert response.status == 200, await response.text()
    body = await response.json()
    return [one["id"] for one in body["items"]], body["unread"]


async def test_a_user_reads_and_archives_and_all_devices_are_told(
    client: Client, world: World
) -> None:
    first, second = record(world, "a", "b")
    assert await shown(client) == ([second, first], 2)
    body = {"ids": [first, "no id"], "read": True}
    response = await client.post(PATH, headers=CLIENT, json=body)
    assert await response.json() == {"marked": [first], "unknown": ["no id"]}
    assert world.told_inbox == ["u1"]
    assert await shown(client, "?unread=true") == ([second], 1)
    await client.post(PATH, headers=CLIENT, json={"ids": [second], "archived": True})
    assert await shown(client) == ([first], 0)
    assert await shown(client, "?archived=true", READ) == ([second], 0)
    [third] = record(world, "c")
    body = {"all": True, "read": True, "up_to": second}
    assert await (await client.post(PATH, headers=OPERATE, json=body)).json() == {
        "marked": [],
        "unknown": [],
    }
    assert await shown(client, f"?limit=1&after={third}") == ([first], 1)


async def test_an_inbox_is_its_users_alone(client: Client, world: World) -> None:
    [mine] = record(world, "a")
    for headers in (OTHER, OPERATE):
        assert (await client.get(PATH, headers=headers)).status == 403
    for headers in (OTHER, READ):
        body = {"ids": [mine], "read": True}
        assert (await client.post(PATH, headers=headers, json=body)).status == 403
    theirs = {"ids": [mine], "read": True}
    answer = await client.post("/v1/users/u2/inbox", headers=OTHER, json=theirs)
    assert await answer.json() == {"marked": [], "unknown": [mine]}
    assert world.told_inbox == []
    assert await shown(client) == ([mine], 1)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("?unread=maybe", "unread"),
        ("?archived=1", "archived"),
        ("?after=bogus", "after"),
        ("?limit=0", "limit"),
        ("?type=no%20type", "type"),
        ("?" + "&".join(["type=a"] * 21), "type"),
        ("?run_id=a%00b", "run_id"),
        ("?kind=a", "kind"),
    ],
)
async def test_a_bad_query_is_refused_by_the_name_of_its_field(
    client: Client, query: str, field: str
) -> None:
    response = await client.get(PATH + query, headers=CLIENT)
    assert (response.status, (await response.json())["field"]) == (422, field)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"ids": ["a"]}, "read"),
        ({"ids": [], "read": True}, "ids"),
        ({"ids": ["a"] * 1001, "read": True}, "ids"),
        ({"ids": [1], "read": True}, "ids"),
        ({"ids": ["a"], "read": "yes"}, "read"),
        ({"ids": ["a"], "archived": 1}, "archived"),
        ({"read": True}, "ids"),
        ({"all": False, "read": True}, "all"),
        ({"all": True, "archived": True}, "all"),
        ({"all": True, "read": True, "ids": ["a"]}, "ids"),
        ({"all": True, "read": True, "up_to": "17"}, "id"),
        ({"all": True, "read": True, "types": ["no type"]}, "type"),
        ({"ids": ["a"], "read": True, "types": ["a"]}, "types"),
    ],
)
async def test_a_bad_mark_is_refused_by_the_name_of_its_field(
    client: Client, body: dict[str, Any], field: str
) -> None:
    response = await client.post(PATH, headers=CLIENT, json=body)
    assert (response.status, (await response.json())["field"]) == (422, field)
