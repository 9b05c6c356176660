"""Subscriptions of browsers over HTTP: who may keep one, and which are refused."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from click.testing import CliRunner

from delivery.cli import main
from delivery.vapid import new_private_key, public_key, read_private_key
from tests.integration.http_api_standins import CLIENT, OPERATE, OTHER, READ, World

Client = TestClient[web.Request, web.Application]
PATH = "/v1/users/u1/push"
KEY = public_key(new_private_key())
KEYS = {"p256dh": KEY, "auth": "MDEyMzQ1Njc4OWFiY2RlZg"}
ENDPOINT = "https://8.8.8.8/send/one"


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


async def serving(world: World, key: str | None) -> AsyncIterator[Client]:
    async with world.client(push_key=key) as client:
        yield client


@pytest.fixture
async def client(world: World) -> AsyncIterator[Client]:
    async for made in serving(world, KEY):
        yield made


async def ask(client: Client, path: str, headers: dict[str, str], **body: Any) -> tuple[int, Any]:
    response = await client.post(path, json=body, headers=headers)
    return response.status, await response.json()


async def test_a_user_keeps_lists_and_forgets_a_browser(client: Client) -> None:
    assert await (await client.get("/v1/push/key")).json() == {"key": KEY}
    given = {"endpoint": ENDPOINT, "keys": KEYS, "expirationTime": None, "device": "phone"}
    for _ in range(2):  # a page does at each visit
        status, kept = await ask(client, PATH, CLIENT, **given)
        assert status == 200, kept
    [one] = kept["subscriptions"]
    assert (one["service"], one["device"], one["id"]) == ("8.8.8.8", "phone", kept["id"])
    shown = await (await client.get(PATH, headers=READ)).text()
    assert ENDPOINT not in shown
    assert KEYS["auth"] not in shown
    assert await ask(client, f"{PATH}/forget", CLIENT, endpoint=ENDPOINT) == (
        200,
        {"forgotten": True},
    )
    assert await ask(client, f"{PATH}/forget", OPERATE, id=one["id"]) == (200, {"forgotten": False})
    assert (await ask(client, f"{PATH}/forget", CLIENT, id=7))[0] == 422
    assert (await ask(client, f"{PATH}/forget", CLIENT))[0] == 422
    for headers in (OTHER, READ):
        assert (await ask(client, PATH, headers, **given))[0] == 403
    assert (await client.get(PATH, headers=OTHER)).status == 403


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("endpoint", {"endpoint": "http://8.8.8.8/x"}),
        ("endpoint", {"endpoint": "https://127.0.0.1/x"}),
        ("endpoint", {"endpoint": "https://localhost/x"}),
        ("endpoint", {"endpoint": "https://[::ffff:10.0.0.1]/x"}),
        ("endpoint", {"endpoint": "https://169.254.169.254/latest"}),
        ("endpoint", {"endpoint": "https://user@8.8.8.8/x"}),
        ("endpoint", {"endpoint": "https://8.8.8.8/x#y"}),
        ("endpoint", {"endpoint": "https://8.8.8.8:99999/x"}),
        ("endpoint", {"endpoint": "https://8.8.8.8/" + "x" * 2_048}),
        ("endpoint", {"endpoint": 7}),
        ("keys", {"keys": {"p256dh": "AAAA", "auth": KEYS["auth"]}}),
        ("keys", {"keys": KEYS | {"p256dh": KEY[:-4] + "AAAA"}}),
        ("keys", {"keys": KEYS | {"auth": "AA"}}),
        ("keys", {"keys": None}),
        ("device", {"device": ""}),
        ("device", {"device": "x" * 65}),
        ("more", {"more": 1}),
    ],
)
async def test_a_subscription_that_is_none_is_refused(
    client: Client, field: str, changes: dict[str, Any]
) -> None:
    status, problem = await ask(
        client, PATH, CLIENT, **{"endpoint": ENDPOINT, "keys": KEYS} | changes
    )
    assert (status, problem["field"]) == (422, field), problem


async def test_without_a_key_nothing_can_be_subscribed(world: World) -> None:
    async for client in serving(world, None):
        for response in (
            await client.get("/v1/push/key"),
            await client.post(PATH, json={"endpoint": ENDPOINT, "keys": KEYS}, headers=CLIENT),
        ):
            assert response.status == 404
            assert "DELIVERY_VAPID_PRIVATE_KEY" in await response.text()


def test_the_command_makes_keys_that_the_settings_take(tmp_path: Path) -> None:
    path = tmp_path / "key"
    done = CliRunner().invoke(main, ["push", "keys", "--file", str(path), "--json"])
    assert done.exit_code == 0, done.output
    made = json.loads(done.output)
    assert path.stat().st_mode & 0o777 == 0o600
    assert public_key(read_private_key(path.read_text())) == made["public_key"]
    assert CliRunner().invoke(main, ["push", "keys", "--file", str(path)]).exit_code == 2


@pytest.mark.parametrize("given", ["", "x", "A" * 43, "é" * 43, "-----BEGIN PRIVATE KEY-----\nx"])
def test_what_is_no_key_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match=r"delivery push keys"):
        read_private_key(given)
