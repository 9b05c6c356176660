"""An identity provider's keys against a running service: removed ones end what they opened."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import ed25519
from jwt.algorithms import OKPAlgorithm

from tests.processes import running
from tests.web_server import Reply, WebServer, web_server
from tests.wire import eventually, listening

OLD, NEW = (ed25519.Ed25519PrivateKey.generate() for _ in range(2))
DEADLINE = 40.0


def publish(server: WebServer, **keys: ed25519.Ed25519PrivateKey) -> None:
    found = [
        json.loads(OKPAlgorithm.to_jwk(key.public_key())) | {"kid": kid}
        for kid, key in keys.items()
    ]
    server.answer = lambda request: Reply(200, json.dumps({"keys": found}).encode())


def token(key: ed25519.Ed25519PrivateKey, kid: str, **claims: Any) -> str:
    now = time.time()
    body = {"sub": "ada", "iat": now, "exp": now + 600, "aud": "events"} | claims
    return jwt.encode(body, key, "EdDSA", headers={"kid": kid})


async def test_a_removed_key_ends_the_sockets_that_its_tokens_opened(tmp_path: Path) -> None:
    with web_server() as issuer:
        publish(issuer, old=OLD, new=NEW)
        settings = {"JWKS_URL": f"{issuer.url}/jwks", "JWKS_MAX_AGE": "10"}
        args = ("up", "--json", "--port", "0")
        with running(*args, cwd=tmp_path, settings=settings) as process:
            url = (await asyncio.to_thread(process.json_line))["url"]
            assert "DELIVERY_JWT_AUDIENCE is not set" in process.log.read_text()
            async with (
                listening(url, token(OLD, "old")) as page,
                listening(url, token(NEW, "new")) as other,
                httpx.AsyncClient() as http,
            ):
                publish(issuer, new=NEW)
                await eventually(lambda: page.is_over, bool, DEADLINE)
                assert page.close_code == 3500
                assert page.frames[-1]["code"] == "unauthorized"
                assert not other.is_over
                for bearer, status in ((token(OLD, "old"), 401), (token(NEW, "new"), 200)):
                    headers = {"Authorization": f"Bearer {bearer}"}
                    answer = await http.get(f"{url}/v1/events", headers=headers)
                    assert answer.status_code == status
                issuer.answer = lambda request: Reply(503)

                def status() -> int:
                    fresh = {"Authorization": f"Bearer {token(NEW, 'new')}"}
                    return httpx.get(f"{url}/v1/events", headers=fresh).status_code

                await eventually(status, lambda seen: seen == 503, DEADLINE)
                assert not other.is_over  # no key was seen to be removed


async def test_the_audience_is_checked_and_a_star_takes_any(tmp_path: Path) -> None:
    with web_server() as issuer:
        publish(issuer, new=NEW)
        for audience, status in (("events", 200), ("others", 401), ("*", 200)):
            settings = {"JWKS_URL": f"{issuer.url}/jwks", "JWT_AUDIENCE": audience}
            args = ("up", "--json", "--port", "0")
            with running(*args, cwd=tmp_path, settings=settings) as process:
                url = (await asyncio.to_thread(process.json_line))["url"]
                assert "AUDIENCE" not in process.log.read_text()
                headers = {"Authorization": f"Bearer {token(NEW, 'new')}"}
                async with httpx.AsyncClient(headers=headers) as http:
                    assert (await http.get(f"{url}/v1/events")).status_code == status
