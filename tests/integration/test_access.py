"""Revocation and disconnection over HTTP: who may, what is asked, what is answered."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import jwt
import pytest

from delivery.domain.users.revocation import RevocationKind
from delivery.tokens import make_token
from tests.integration.http_api_standins import (
    CLIENT,
    EVERYTHING,
    OPERATE,
    READ,
    SECRET,
    Client,
    World,
)

FUTURE = "2099-01-01T00:00:00Z"


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


@pytest.fixture
async def client(world: World) -> AsyncIterator[Client]:
    async with world.client() as client:
        yield client


async def test_a_revoked_token_is_refused_at_every_http_door(client: Client, world: World) -> None:
    claims = make_token(SECRET, "u1")
    mine = {"Authorization": f"Bearer {claims}"}
    assert (await client.get("/v1/events", headers=mine)).status == 200
    now = datetime.now(UTC).isoformat()  # by the issuer's clock: the ledger's stands still here
    order = {"user_id": "u1", "before": now}
    answer = await client.post("/v1/tokens/revoke", json=order, headers=OPERATE)
    assert answer.status == 200
    assert set(await answer.json()) == {"user_id", "before", "expires_at"}
    for method, path in (
        ("GET", "/v1/events"),
        ("GET", "/v1/users/u1/contacts"),
        ("POST", "/v1/acks"),
    ):
        refused = await client.request(method, path, headers=mine, json={"ids": ["x"]})
        assert refused.status == 401
        assert (await refused.json())["type"] == "/problems/unauthenticated"
    [kept] = world.ledger.revocations.page(None)
    assert (kept.kind, kept.subject, world.revoked) == (RevocationKind.USER, "u1", [kept])


async def test_a_service_token_is_revoked_by_its_id(client: Client) -> None:
    token = make_token(SECRET, "u1", "read")
    asked = {"Authorization": f"Bearer {token}"}
    await client.post("/v1/tokens/revoke", json={"user_id": "u1"}, headers=OPERATE)
    assert (await client.get("/v1/stats", headers=asked)).status == 200
    jti = jwt.decode(token, options={"verify_signature": False})["jti"]
    answer = await client.post("/v1/tokens/revoke", json={"jti": jti}, headers=EVERYTHING)
    assert (await answer.json())["jti"] == jti
    assert (await client.get("/v1/stats", headers=asked)).status == 401


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"jti": "a", "user_id": "u1"},
        {"jti": ""},
        {"jti": 7},
        {"jti": "a" * 256},
        {"jti": "a\u0000b"},
        {"jti": "a", "before": "2026-01-01T00:00:00Z"},
        {"user_id": ""},
        {"user_id": "a\nb"},
        {"user_id": ["u1"]},
        {"user_id": "u1", "before": "yesterday"},
        {"user_id": "u1", "before": "2026-01-01T00:00:00"},
        {"user_id": "u1", "before": FUTURE},
        {"user_id": "u1", "all": True},
    ],
)
async def test_an_order_that_is_not_clear_is_refused(
    client: Client, world: World, body: dict[str, Any]
) -> None:
    answer = await client.post("/v1/tokens/revoke", json=body, headers=OPERATE)
    assert answer.status == 422
    assert "field" in await answer.json()
    assert world.revoked == []


async def test_only_operators_revoke_and_disconnect(client: Client, world: World) -> None:
    for headers, status in (({}, 401), (CLIENT, 403), (READ, 403)):
        for path in ("/v1/tokens/revoke", "/v1/users/u1/disconnect"):
            answer = await client.post(path, json={"user_id": "u1"}, headers=headers)
            assert answer.status == status
    assert (world.revoked, world.disconnected) == ([], [])


async def test_a_revocation_that_cannot_be_recorded_is_no_revocation(
    client: Client, world: World
) -> None:
    world.ledger.go_away()
    answer = await client.post("/v1/tokens/revoke", json={"jti": "a"}, headers=OPERATE)
    assert (answer.status, world.revoked) == (503, [])


async def test_a_disconnect_names_its_user(client: Client, world: World) -> None:
    for options in ({}, {"json": {}}):
        answer = await client.post("/v1/users/u%2F1/disconnect", headers=OPERATE, **options)
        assert (answer.status, await answer.json()) == (202, {"user_id": "u/1"})
    assert world.disconnected == ["u/1", "u/1"]
    answer = await client.post("/v1/users/u1/disconnect", json={"x": 1}, headers=OPERATE)
    assert answer.status == 422


async def test_a_refusal_is_logged_with_its_caller_and_once(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    token = make_token(SECRET, "eve-refused")
    for _ in range(3):
        answer = await client.post(
            "/v1/tokens/revoke", json={"jti": "x"}, headers={"Authorization": f"Bearer {token}"}
        )
        assert answer.status == 403
    line = "refused: POST /v1/tokens/revoke: forbidden, by user eve-refused"
    assert caplog.messages.count(line) == 1
