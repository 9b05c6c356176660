"""Rate limits of a real gateway, over HTTP and WebSocket, each behind a burst of ten."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from delivery.tokens import make_token
from tests.processes import SECRET, running

BURST = 10
ADDRESS_BURST = 60
NAMES = ("EMIT", "CONNECT", "BAD_TOKENS", "CALLBACKS", "ACKS")


@dataclass(frozen=True)
class Gateway:
    """A gateway with low limits; each test has callers and an address of its own."""

    url: str

    @asynccontextmanager
    async def session(
        self, subject: str, address: str, scope: str | None = None
    ) -> AsyncIterator[aiohttp.ClientSession]:
        headers = {
            "Authorization": f"Bearer {make_token(SECRET, subject, scope)}",
            "X-Forwarded-For": address,
        }
        async with aiohttp.ClientSession(self.url, headers=headers) as session:
            yield session


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    home = tmp_path_factory.mktemp("rates")
    settings = {
        "DATA_DIR": str(home / "data"),
        "JWT_SECRET": SECRET,
        "TRUSTED_PROXIES": "127.0.0.1",
        # One in ten seconds: the burst of ten must not refill on a slow machine.
        **{f"RATE_{name}": "1" for name in NAMES},
        "RATE_EMIT_ADDRESS": "6",
        "RATE_CONNECT_ADDRESS": "6",
    }
    with running("up", "--json", "--port", "0", cwd=home, settings=settings) as process:
        yield Gateway(process.json_line(60)["url"])


def event(user: str = "ada") -> dict[str, Any]:
    return {"type": "agent_thinking", "user_id": user, "run_id": "r", "data": {}}


async def answers(
    session: aiohttp.ClientSession, path: str, body: Any, most: int, **headers: str
) -> tuple[list[int], aiohttp.ClientResponse, dict[str, Any]]:
    """Post until refused with 429; the statuses, and the last answer."""
    statuses: list[int] = []
    for _ in range(most):
        async with session.post(path, json=body, headers=headers) as answer:
            text = await answer.text()
        statuses.append(answer.status)
        if answer.status == 429:
            return statuses, answer, json.loads(text)
    raise AssertionError(f"never refused: {statuses}")


def check_refusal(answer: aiohttp.ClientResponse, problem: dict[str, Any], name: str) -> None:
    assert answer.content_type == "application/problem+json"
    assert problem["type"] == "/problems/rate-limited"
    assert problem["status"] == 429
    assert 1 <= int(answer.headers["Retry-After"]) <= 1_000
    assert answer.headers["RateLimit-Policy"].startswith(f'"{name}";q=')
    assert answer.headers["RateLimit"].startswith(f'"{name}";r=0;t=')


async def test_a_service_emits_at_its_rate_and_others_are_not_held_up(gateway: Gateway) -> None:
    async with gateway.session("one", "192.0.2.1", "emit") as session:
        async with session.post("/v1/events", json=event()) as first:
            assert first.status == 202
            assert first.headers["RateLimit-Policy"] == '"emit";q=10;w=10'
            assert first.headers["RateLimit"].startswith('"emit";r=')
        statuses, answer, problem = await answers(session, "/v1/events", event(), 100)
    assert statuses[:-1] == [202] * (len(statuses) - 1)
    assert len(statuses) >= BURST
    check_refusal(answer, problem, "emit")
    async with (
        gateway.session("two", "192.0.2.1", "emit") as session,
        session.post("/v1/events", json=event()) as other,
    ):
        assert other.status == 202


@pytest.mark.parametrize("shape", ["list", "lines"])
async def test_a_batch_counts_its_events(gateway: Gateway, shape: str) -> None:
    batch = [event() for _ in range(40)]
    address = {"list": "192.0.2.2", "lines": "192.0.2.3"}[shape]
    async with gateway.session(f"batch-{shape}", address, "emit") as session:
        if shape == "list":
            first = await session.post("/v1/events", json={"events": batch})
        else:
            lines = "\n".join(json.dumps(one) for one in batch)
            kind = {"Content-Type": "application/x-ndjson"}
            first = await session.post("/v1/events", data=lines, headers=kind)
        assert first.status == 202
        assert len((await first.json())["accepted"]) == 40
        second = await session.post("/v1/events", json=event())
        assert second.status == 429
        assert int(second.headers["Retry-After"]) > 20


async def test_many_services_of_one_address_share_its_limit(gateway: Gateway) -> None:
    statuses: list[int] = []
    for number in range(ADDRESS_BURST // 5 * 4):
        async with (
            gateway.session(f"svc-{number}", "192.0.2.4", "emit") as session,
            session.post("/v1/events", json={"events": [event()] * 5}) as answer,
        ):
            statuses.append(answer.status)
    assert statuses[:5] == [202] * 5
    assert 429 in statuses
    assert answer.headers["RateLimit-Policy"].startswith('"emit-address"')


async def test_acknowledgements_over_http_have_a_rate_of_their_own(gateway: Gateway) -> None:
    body = {"ids": ["01890a5d-ac96-774b-bcce-b302099a8057"]}
    async with gateway.session("acker", "192.0.2.5") as session:
        statuses, answer, problem = await answers(session, "/v1/acks", body, 100)
    assert statuses[0] == 200
    check_refusal(answer, problem, "acks")


@pytest.mark.parametrize("path", ["/v1/callbacks/email", "/v1/callbacks/sms/twilio"])
async def test_callbacks_have_a_rate_before_their_body_is_read(gateway: Gateway, path: str) -> None:
    address = {"/v1/callbacks/email": "192.0.2.6"}.get(path, "192.0.2.7")
    async with gateway.session("x", address) as session:
        statuses, answer, problem = await answers(session, path, {}, 100)
    assert statuses[0] == 403
    check_refusal(answer, problem, "callbacks")


@pytest.mark.parametrize("path", ["/v1/events", "/v1/acks"])
async def test_bad_tokens_have_a_rate_and_a_good_one_beside_them_passes(
    gateway: Gateway, path: str
) -> None:
    address = {"/v1/events": "192.0.2.8", "/v1/acks": "192.0.2.9"}[path]
    async with gateway.session("honest", address, "emit read") as session:
        statuses, answer, problem = await answers(
            session, path, {}, 100, Authorization="Bearer not-a-token"
        )
        assert statuses[:-1] == [401] * (len(statuses) - 1)
        assert len(statuses) >= BURST
        check_refusal(answer, problem, "bad-tokens")
        async with session.get("/v1/events") as good:
            assert good.status == 200


async def test_expired_tokens_are_no_bad_tokens(gateway: Gateway) -> None:
    expired = make_token(SECRET, "late", ttl=-100)
    async with gateway.session("x", "192.0.2.10") as session:
        for _ in range(3 * BURST):
            headers = {"Authorization": f"Bearer {expired}"}
            async with session.post("/v1/acks", json={}, headers=headers) as answer:
                assert answer.status == 401


async def socket(gateway: Gateway, address: str, *, token: str | None) -> ClientConnection:
    return await connect(
        gateway.url.replace("http", "ws") + "/v1/ws",
        subprotocols=[Subprotocol("delivery.v1")],
        additional_headers={"X-Forwarded-For": address}
        | ({} if token is None else {"Authorization": f"Bearer {token}"}),
    )


async def ending(ws: ClientConnection) -> tuple[int, list[dict[str, Any]]]:
    """The close code, and the frames before it."""
    frames: list[dict[str, Any]] = []
    try:
        async with asyncio.timeout(20):
            while True:
                frames.append(json.loads(await ws.recv()))
    except ConnectionClosed as end:
        assert end.rcvd is not None  # noqa: PT017 - the code is the point
        return end.rcvd.code, frames


@pytest.mark.parametrize("by_header", [False, True])
async def test_a_user_who_connects_too_often_is_told_then_closed(
    gateway: Gateway, by_header: bool
) -> None:
    user = f"restless-{by_header}"
    token = make_token(SECRET, user)
    sockets: list[ClientConnection] = []
    first: dict[str, Any] = {}
    for number in range(BURST * 4):
        address = f"198.51.100.{number if by_header else 100 + number}"
        ws = await socket(gateway, address, token=token if by_header else None)
        sockets.append(ws)
        if not by_header:
            await ws.send(json.dumps({"type": "connect", "token": token}))
        # With the token in the header a server that admits says nothing before ``connect``.
        with suppress(TimeoutError):
            first = json.loads(await asyncio.wait_for(ws.recv(), 0.3 if by_header else 20))
        if first.get("type") == "error":
            break
    assert len(sockets) > BURST
    assert first["code"] == "rate_limited"
    code, _ = await ending(sockets[-1])
    assert code == 3505
    for ws in sockets:
        await ws.close()
    async with gateway.session("calm", "198.51.100.250") as session:
        stream = await session.get("/v1/stream")
        assert stream.status == 200
        stream.close()


async def test_bad_tokens_over_sockets_count_and_end_with_3505(gateway: Gateway) -> None:
    codes = []
    for _ in range(BURST * 3):
        ws = await socket(gateway, "192.0.2.11", token=None)
        await ws.send(json.dumps({"type": "connect", "token": "not-a-token"}))
        code, frames = await ending(ws)
        codes.append(code)
        assert frames[0]["code"] == {3500: "unauthorized", 3505: "rate_limited"}[code]
        if code == 3505:
            break
    assert codes[:5] == [3500] * 5
    assert codes[-1] == 3505


async def test_an_address_that_connects_too_often_is_refused_before_the_upgrade(
    gateway: Gateway,
) -> None:
    async with gateway.session("many", "192.0.2.12") as session:
        for _ in range(ADDRESS_BURST * 2):
            async with session.get("/v1/ws") as answer:  # no upgrade: 400, and it counts
                problem = await answer.json(content_type=None)
            if answer.status == 429:
                break
        check_refusal(answer, problem, "connect-address")
        stream = await session.get("/v1/stream")
        assert stream.status == 429


async def test_forged_forwarding_does_not_choose_another_bucket(gateway: Gateway) -> None:
    # Only the entry that the proxy wrote counts; those before it are the client's own words.
    async with gateway.session("x", "192.0.2.13") as session:
        for number in range(BURST * 3):
            headers = {
                "Authorization": "Bearer not-a-token",
                "X-Forwarded-For": f"203.0.113.{number}, 192.0.2.13",
            }
            async with session.post("/v1/acks", json={}, headers=headers) as answer:
                await answer.read()
            if answer.status == 429:
                return
    raise AssertionError("each forged address had a bucket of its own")
