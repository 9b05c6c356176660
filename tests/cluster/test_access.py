"""Operators end access on every gateway: revoked tokens, disconnected users."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

import httpx
import jwt
import pytest

from tests.cluster.conftest import Cluster
from tests.processes import SECRET, run_command
from tests.wire import Listener, eventually, listening

pytestmark = pytest.mark.timeout(180)

CLOSED_WITHIN = 5.0  # a busy machine's second


def token(user: str, **claims: object) -> str:
    now = time.time()
    return jwt.encode({"sub": user, "iat": now, "exp": now + 600} | claims, SECRET, "HS256")


async def closed(page: Listener) -> int | None:
    await eventually(lambda: page.is_over, bool, CLOSED_WITHIN)
    return page.close_code


async def test_a_revocation_ends_the_users_connections_on_every_gateway_and_keeps_them_out(
    cluster: Cluster,
) -> None:
    one, two = cluster.gateways[0].url, cluster.gateways[1].url
    async with AsyncExitStack() as stack:
        pages = [
            await stack.enter_async_context(listening(url, token("eve", jti="eve-1")))
            for url in (one, two)
        ]
        others = await stack.enter_async_context(listening(two, token("ada", jti="ada-1")))
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=30.0))
        streams = []
        for url, path, bearer in (
            (two, "/v1/stream", token("eve", jti="eve-1")),
            (two, "/v1/stats/stream", token("monitor", scope="read", jti="monitor-1")),
        ):
            headers = {"Authorization": f"Bearer {bearer}"}
            stream = await stack.enter_async_context(
                http.stream("GET", url + path, headers=headers)
            )
            assert stream.status_code == 200
            streams.append(stream)
        for body in ({"user_id": "eve"}, {"jti": "monitor-1"}):
            answer = await asyncio.to_thread(cluster.http(0).post, "/v1/tokens/revoke", json=body)
            assert answer.status_code == 200, answer.text
        assert [await closed(page) for page in pages] == [3500, 3500]
        for stream in streams:
            async with asyncio.timeout(CLOSED_WITHIN):
                async for _ in stream.aiter_raw():
                    pass
        assert not others.is_over
        for url in (one, two):
            for path, bearer in (
                ("/v1/events", token("eve", iat=time.time() - 60)),
                ("/v1/stats", token("monitor", scope="read", jti="monitor-1")),
            ):
                headers = {"Authorization": f"Bearer {bearer}"}
                assert (await http.get(url + path, headers=headers)).status_code == 401
        async with listening(two, token("eve")) as again:  # signed in anew
            await again.send({"type": "refresh", "token": token("eve", iat=time.time() - 60)})
            await again.until(lambda: again.frames[-1].get("code") == "unauthorized")
            assert not again.is_over


async def test_a_gateway_that_starts_later_knows_what_was_revoked(cluster: Cluster) -> None:
    old = token("mallory")
    answer = await asyncio.to_thread(
        cluster.http(0).post, "/v1/tokens/revoke", json={"user_id": "mallory"}
    )
    assert answer.status_code == 200
    with cluster.extra("late") as late:
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {old}"}) as http:
            assert (await http.get(f"{late.url}/v1/events")).status_code == 401


async def test_the_commands_revoke_and_disconnect(cluster: Cluster) -> None:
    settings = {"URL": cluster.gateways[0].url, "TOKEN": cluster.service_token}

    async def run(*args: str) -> str:
        done = await asyncio.to_thread(run_command, *args, cwd=cluster.folder, settings=settings)
        assert done.returncode == 0, done.stderr
        return done.stdout

    async with (
        listening(cluster.gateways[1].url, token("bob/1", jti="b1")) as page,
        listening(cluster.gateways[1].url, token("bob/2", jti="b2")) as other,
    ):
        assert "disconnected" in await run("users", "disconnect", "bob/1")
        assert await closed(page) == 3503
        assert "revoked" in await run("tokens", "revoke", "--jti", "b2")
        assert await closed(other) == 3500


async def test_a_ticket_opens_one_stream_at_any_gateway(cluster: Cluster) -> None:
    one, two = cluster.gateways[0].url, cluster.gateways[1].url
    async with httpx.AsyncClient(timeout=30.0) as http:

        async def ticket(user: str) -> str:
            headers = {"Authorization": f"Bearer {token(user)}"}
            answer = await http.post(f"{one}/v1/tickets", headers=headers)
            assert answer.status_code == 200, answer.text
            assert list(answer.json()) == ["ticket"]
            return str(answer.json()["ticket"])

        mine = await ticket("tess")
        for path in ("/v1/events", "/v1/stats/stream", "/v1/ws"):
            assert (await http.get(f"{two}{path}?ticket={mine}")).status_code in (400, 401)
        both = {"Authorization": f"Bearer {token('tess')}"}
        refused = await http.get(f"{two}/v1/stream?ticket={mine}", headers=both)
        assert refused.status_code == 400
        async with http.stream("GET", f"{two}/v1/stream?ticket={mine}") as stream:
            assert stream.status_code == 200
            lines = stream.aiter_lines()
            async for line in lines:
                if line.startswith("data: "):
                    assert '"user_id":"tess"' in line
                    break
        for url in (one, two):
            assert (await http.get(f"{url}/v1/stream?ticket={mine}")).status_code == 401
        assert (await http.get(f"{one}/v1/stream?token={token('tess')}")).status_code == 401
        late = await ticket("tess")
        answer = await asyncio.to_thread(
            cluster.http(1).post, "/v1/tokens/revoke", json={"user_id": "tess"}
        )
        assert answer.status_code == 200, answer.text
        assert (await http.get(f"{two}/v1/stream?ticket={late}")).status_code == 401
        service = {"Authorization": f"Bearer {cluster.service_token}"}
        assert (await http.post(f"{one}/v1/tickets", headers=service)).status_code == 403
    for gateway in cluster.gateways[:2]:
        log = gateway.running.log.read_text()
        assert mine not in log
        assert late not in log
