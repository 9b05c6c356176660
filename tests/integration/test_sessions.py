"""Sessions of the dashboard: how they begin and end, where the cookie counts, and where not."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import ClientResponse, DummyCookieJar, web
from aiohttp.test_utils import TestClient, TestServer

import delivery
from delivery.api.operators import sessions
from delivery.api.operators.sessions import ADMITTED
from delivery.config import load_settings
from tests.processes import SECRET

Client = TestClient[web.Request, web.Application]
OWN = {"X-Delivery-Dashboard": "1"}


def token(scope: str | None = "emit read operate", **claims: Any) -> dict[str, str]:
    now = time.time()
    body = {"sub": "ops", "iat": now, "exp": now + 60} | claims
    if scope is not None:
        body["scope"] = scope
    return {"Authorization": f"Bearer {jwt.encode(body, SECRET, 'HS256')}"}


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    """A gateway; cookies are kept by the tests."""
    app = web.Application()
    values = {"data_dir": str(tmp_path), "jwt_secret": SECRET, "trusted_proxies": "127.0.0.1"}
    delivery.embed(app, load_settings(**values))
    async with TestClient(TestServer(app), cookie_jar=DummyCookieJar()) as client:
        yield client


def cookie_of(answer: ClientResponse) -> dict[str, str]:
    """The header that a browser sends after this answer."""
    [(name, morsel)] = SimpleCookie(answer.headers["Set-Cookie"]).items()
    return {"Cookie": f"{name}={morsel.value}"}


async def begun(client: Client, scope: str = "emit read operate", **claims: Any) -> dict[str, str]:
    answer = await client.post("/v1/session", headers=OWN | token(scope, **claims))
    assert answer.status == 200, await answer.text()
    return cookie_of(answer)


async def test_a_link_opens_one_session(client: Client) -> None:
    opening = token("read", exp=time.time() + 7_200.0)
    made = await (await client.post("/v1/session/links", headers=opening)).json()
    assert made["expires_in"] == 900
    page, _, code = made["url"].partition("#link=")
    assert page.endswith("/")
    assert len(code) >= 32
    answer = await client.post("/v1/session", json={"link": code}, headers=OWN)
    assert answer.status == 200
    opened = await answer.json()
    assert (opened["subject"], opened["scopes"]) == ("ops", ["read"])
    header = answer.headers["Set-Cookie"]
    for attribute in ("HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=1800"):
        assert attribute in header
    assert "Secure" not in header
    assert (await client.get("/v1/stats", headers=cookie_of(answer))).status == 200
    for wrong in (code, "made-up", ""):
        refused = await client.post("/v1/session", json={"link": wrong}, headers=OWN)
        assert refused.status == 401
        assert "Set-Cookie" not in refused.headers


async def test_behind_tls_the_cookie_is_bound_to_the_host(client: Client) -> None:
    tls = {"X-Forwarded-Proto": "https"}
    answer = await client.post("/v1/session", headers=OWN | tls | token())
    header = answer.headers["Set-Cookie"]
    assert header.startswith("__Host-")
    assert "Secure" in header
    assert (await client.get("/v1/session", headers=tls | cookie_of(answer))).status == 200


async def test_the_cookie_counts_for_the_dashboards_requests_alone(client: Client) -> None:
    cookie = await begun(client)
    router = client.app.router
    for route in router.routes():
        if route.resource is None or not route.resource.canonical.startswith("/v1/"):
            continue
        path = route.resource.canonical.replace("{id}", "x").replace("{address}", "x")
        path = path.replace("{name}", "x")
        if (route.method, route.resource.canonical) in ADMITTED or "/callbacks/" in path:
            continue
        if path == "/v1/push/key":  # a public key, for everybody
            continue
        body = None if route.method in ("GET", "HEAD") else {"link": "x"}
        answer = await client.request(route.method, path, headers=OWN | cookie, json=body)
        expected = (400, 401) if path == "/v1/ws" else (401,)
        assert answer.status in expected, (route.method, path)


async def test_every_request_that_is_listed_exists(client: Client) -> None:
    routes = {
        (route.method, route.resource.canonical)
        for route in client.app.router.routes()
        if route.resource is not None
    }
    assert routes >= ADMITTED


async def test_a_change_needs_the_header_beside_the_cookie(client: Client) -> None:
    cookie = await begun(client)
    body = {"state": "dead", "dry_run": True}
    assert (await client.post("/v1/replay", json=body, headers=cookie)).status == 403
    assert (await client.post("/v1/replay", json=body, headers=cookie | OWN)).status == 200
    assert (await client.delete("/v1/session", headers=cookie)).status == 403
    assert (await client.post("/v1/session", headers=token())).status == 403
    bearer = await client.post("/v1/replay", json=body, headers=token())  # scripts need no header
    assert bearer.status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "same-site"},  # another port of the same host
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "null"},
    ],
)
async def test_pages_of_other_origins_cannot_use_the_cookie(
    client: Client, headers: dict[str, str]
) -> None:
    cookie = await begun(client)
    assert (await client.get("/v1/stats", headers=cookie | headers)).status == 401
    body = {"state": "dead", "dry_run": True}
    answer = await client.post("/v1/replay", json=body, headers=cookie | OWN | headers)
    assert answer.status == 401
    own = {"Sec-Fetch-Site": "same-origin", "Origin": str(client.make_url("")).rstrip("/")}
    assert (await client.get("/v1/stats", headers=cookie | own)).status == 200


async def test_a_session_may_what_its_token_may(client: Client) -> None:
    cookie = await begun(client, "read")
    body = {"state": "dead", "dry_run": True}
    assert (await client.post("/v1/replay", json=body, headers=cookie | OWN)).status == 403
    for headers in (token("emit"), token(None)):
        assert (await client.post("/v1/session", headers=OWN | headers)).status == 403
        assert (await client.post("/v1/session/links", headers=headers)).status == 403


async def test_a_changed_or_foreign_cookie_is_none(client: Client) -> None:
    name, _, value = (await begun(client))["Cookie"].partition("=")
    content, _, tag = value.partition(".")
    for wrong in ("", "x", ".", f"{content}.", f".{tag}", f"{content}x.{tag}", f"{content}.{tag}x"):
        answer = await client.get("/v1/stats", headers={"Cookie": f"{name}={wrong}"})
        assert answer.status == 401
    bearer = {"Authorization": f"Bearer {value}"}
    assert (await client.get("/v1/stats", headers=bearer)).status == 401


async def test_the_end_of_a_session_ends_every_copy_of_its_cookie(client: Client) -> None:
    cookie = await begun(client)
    renewed = cookie_of(await client.get("/v1/session", headers=cookie))
    answer = await client.delete("/v1/session", headers=cookie | OWN)
    assert answer.status == 204
    assert "Max-Age=0" in answer.headers.getall("Set-Cookie")[0]
    for copy in (cookie, renewed):
        assert (await client.get("/v1/stats", headers=copy)).status == 401
    assert (await client.delete("/v1/session", headers=OWN)).status == 204


async def test_the_revocation_of_its_token_ends_a_session_and_a_link(client: Client) -> None:
    cookie = await begun(client, jti="t1")
    made = await client.post("/v1/session/links", headers=token(jti="t1"))
    code = (await made.json())["url"].partition("#link=")[2]
    revoked = await client.post("/v1/tokens/revoke", json={"jti": "t1"}, headers=token())
    assert revoked.status == 200
    assert (await client.get("/v1/stats", headers=cookie)).status == 401
    answer = await client.post("/v1/session", json={"link": code}, headers=OWN)
    assert answer.status == 401


async def test_a_session_ends_unless_it_is_renewed_and_in_any_case_after_a_while(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "LIFETIME", -1.0)
    ended = await begun(client)
    answer = await client.get("/v1/stats", headers=ended)
    assert (answer.status, (await answer.json())["type"]) == (401, "/problems/token-expired")
    monkeypatch.undo()
    cookie = await begun(client, exp=time.time() + 100 * 3_600.0)
    first = (await (await client.get("/v1/session", headers=cookie)).json())["expires_at"]
    monkeypatch.setattr(sessions, "LIFETIME", 10 * 3_600.0)
    later = (await (await client.get("/v1/session", headers=cookie)).json())["expires_at"]
    assert later > first
    monkeypatch.setattr(sessions, "LIFETIME", 100 * 3_600.0)
    last = await client.get("/v1/session", headers=cookie)
    assert int(SimpleCookie(last.headers["Set-Cookie"]).popitem()[1]["max-age"]) <= 12 * 3_600


async def test_a_session_does_not_outlive_the_token_that_opened_it(client: Client) -> None:
    def seconds(answer: ClientResponse) -> int:
        return int(SimpleCookie(answer.headers["Set-Cookie"]).popitem()[1]["max-age"])

    opening = token(exp=time.time() + 60.0)
    by_token = await client.post("/v1/session", headers=OWN | opening)
    assert seconds(by_token) <= 91  # the token counts for 30 seconds of leeway, too
    renewed = await client.get("/v1/session", headers=cookie_of(by_token))
    assert seconds(renewed) <= 91, "renewing does not prolong it"
    made = await (await client.post("/v1/session/links", headers=opening)).json()
    code = made["url"].partition("#link=")[2]
    by_link = await client.post("/v1/session", json={"link": code}, headers=OWN)
    assert seconds(by_link) <= 91
