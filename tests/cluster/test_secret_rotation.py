"""The secret of the tokens changes while clients are connected."""

from __future__ import annotations

import time

import httpx
import jwt
import pytest

from tests.cluster.conftest import Cluster
from tests.processes import SECRET
from tests.wire import listening

pytestmark = pytest.mark.timeout(180)

NEW = "another-only-for-tests-" + "n" * 32


def token(secret: str, user: str) -> str:
    now = time.time()
    return jwt.encode({"sub": user, "iat": now, "exp": now + 600}, secret, "HS256")


async def test_both_secrets_count_at_every_step_of_a_rotation(cluster: Cluster) -> None:
    with (
        cluster.extra("step-1", JWT_SECRET=SECRET, JWT_SECRET_PREVIOUS=NEW) as before,
        cluster.extra("step-2", JWT_SECRET=NEW, JWT_SECRET_PREVIOUS=SECRET) as after,
    ):
        async with httpx.AsyncClient(timeout=30.0) as http:

            async def status(url: str, secret: str) -> int:
                headers = {"Authorization": f"Bearer {token(secret, 'ada')}"}
                return (await http.get(f"{url}/v1/events", headers=headers)).status_code

            for gateway in (before, after):
                assert await status(gateway.url, SECRET) == 200
                assert await status(gateway.url, NEW) == 200
        async with listening(before.url, token(SECRET, "ada")) as page:
            await page.send({"type": "refresh", "token": token(NEW, "ada")})
            await page.send({"type": "ping"})
            await page.until(lambda: page.frames[-1]["type"] == "pong")
            assert [frame["type"] for frame in page.frames] == ["connected", "pong"]
            assert not page.is_over
