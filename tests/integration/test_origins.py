"""Rules for browsers: other origins' pages, preflights, sockets, and headers that protect pages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

import delivery
from delivery.config import load_settings
from delivery.errors import ConfigError
from tests.processes import SECRET, running

pytestmark = pytest.mark.timeout(180)  # several start a gateway as a process
APP, EVIL = "https://app.example.org", "https://evil.example.org"
Client = TestClient[web.Request, web.Application]


def make_app(folder: Path, **settings: object) -> web.Application:
    async def mine(request: web.Request) -> web.Response:
        return web.Response(text="mine")

    app = web.Application()
    app.router.add_get("/v1/mine", mine)
    values = {"data_dir": str(folder), "jwt_secret": SECRET, "trusted_proxies": "127.0.0.1"}
    delivery.embed(app, load_settings(**values, **settings))
    return app


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    """A gateway that one origin may use, inside of an application with a route of its own."""
    app = make_app(tmp_path, allowed_origins="https://APP.example.org:443, capacitor://localhost")
    async with TestClient(TestServer(app)) as client:
        yield client


def preflight(origin: str, method: str = "POST") -> dict[str, str]:
    return {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization",
    }


async def test_a_preflight_of_an_allowed_origin_is_answered_and_may_be_remembered(
    client: Client,
) -> None:
    for path, method in (
        ("/v1/events", "POST"),
        ("/v1/stream", "GET"),
        ("/v1/users/ada/contacts", "PUT"),
    ):
        answer = await client.options(path, headers=preflight(APP, method))
        assert (answer.status, await answer.read()) == (204, b"")
        headers = answer.headers
        assert headers["Access-Control-Allow-Origin"] == APP
        assert method in headers["Access-Control-Allow-Methods"]
        assert "Authorization" in headers["Access-Control-Allow-Headers"]
        assert "X-Delivery-Dashboard" not in headers["Access-Control-Allow-Headers"]
        assert int(headers["Access-Control-Max-Age"]) >= 600
        assert "Origin" in headers["Vary"]
        assert "Access-Control-Allow-Credentials" not in headers


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/v1/events", preflight(EVIL)),
        ("/v1/events", preflight("null")),
        ("/v1/events", preflight(APP + ".evil.example.org")),
        ("/v1/events", preflight("https://app.example.org:8443")),
        ("/v1/events", preflight("http://app.example.org")),
        ("/v1/nothing", preflight(APP)),
        ("/v1/events", preflight(APP, "PATCH")),
        ("/v1/mine", preflight(APP, "GET")),
        ("/metrics", preflight(APP, "GET")),
        ("/v1/events", {"Origin": APP}),
    ],
)
async def test_no_other_preflight_is(client: Client, path: str, headers: dict[str, str]) -> None:
    answer = await client.options(path, headers=headers)
    assert answer.status in (404, 405)
    assert "Access-Control-Allow-Methods" not in answer.headers


async def test_answers_and_refusals_can_be_read_by_an_allowed_origin_only(client: Client) -> None:
    for origin, allowed in ((APP, APP), (EVIL, None), (None, None)):
        headers = {} if origin is None else {"Origin": origin}
        answer = await client.get("/v1/events", headers=headers)
        assert answer.status == 401
        assert answer.headers.get("Access-Control-Allow-Origin") == allowed
        assert answer.headers["Vary"] == "Origin"
    foreign = await client.get("/v1/mine", headers={"Origin": APP})
    assert "Access-Control-Allow-Origin" not in foreign.headers


async def test_sockets_and_streams_of_other_origins_are_refused(client: Client) -> None:
    own = str(client.make_url("")).rstrip("/")
    for path in ("/v1/ws", "/v1/stream", "/v1/stats/stream"):
        for origin in (EVIL, "null", "https://app.example.org.evil.example.org"):
            answer = await client.get(path, headers={"Origin": origin})
            assert answer.status == 403
            assert (await answer.json())["type"] == "/problems/origin-not-allowed"
        for origin in (APP, "capacitor://localhost", own, None):
            answer = await client.get(path, headers={"Origin": origin} if origin else {})
            assert answer.status in (400, 401)  # what it is without a token, or no upgrade


async def test_pages_have_protecting_headers_and_hsts_behind_tls_only(client: Client) -> None:
    for path in ("/demo", "/confirm/x", "/unsubscribe/x", "/problems/not-found"):
        answer = await client.get(path)
        assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert "camera=()" in answer.headers["Permissions-Policy"]
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "Strict-Transport-Security" not in answer.headers
        behind = await client.get(path, headers={"X-Forwarded-Proto": "https"})
        assert behind.headers["Strict-Transport-Security"].startswith("max-age=")
    foreign = await client.get("/v1/mine", headers={"X-Forwarded-Proto": "https"})
    assert "Strict-Transport-Security" not in foreign.headers


async def test_a_star_opens_the_api_to_every_page(tmp_path: Path) -> None:
    app = make_app(tmp_path, allowed_origins="*")
    async with TestClient(TestServer(app)) as client:
        answer = await client.options("/v1/events", headers=preflight(EVIL))
        assert answer.status == 204
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert (await client.get("/v1/stream", headers={"Origin": "null"})).status == 401


async def test_without_the_setting_nothing_is_told_and_no_socket_refused(tmp_path: Path) -> None:
    app = make_app(tmp_path)
    async with TestClient(TestServer(app)) as client:
        answer = await client.get("/v1/events", headers={"Origin": EVIL})
        assert not [name for name in answer.headers if name.startswith("Access-Control")]
        assert (await client.get("/v1/stream", headers={"Origin": EVIL})).status == 401
        assert (await client.options("/v1/events", headers=preflight(EVIL))).status == 405


async def test_a_forwarded_scheme_of_a_stranger_is_not_believed(tmp_path: Path) -> None:
    settings = {"ALLOWED_ORIGINS": APP}
    with running("up", "--json", "--port", "0", cwd=tmp_path, settings=settings) as process:
        url = (await asyncio.to_thread(process.json_line))["url"]
        async with httpx.AsyncClient(base_url=url) as http:
            page = await http.get("/", headers={"X-Forwarded-Proto": "https"})
            assert "Strict-Transport-Security" not in page.headers
            missing = await http.get("/v1/nothing", headers={"Origin": APP})
            assert missing.status_code == 404
            assert missing.headers["Access-Control-Allow-Origin"] == APP
        address = url.replace("http", "ws", 1) + "/v1/ws"
        with pytest.raises(InvalidStatus) as refusal:
            await connect(address, origin=EVIL)  # type: ignore[arg-type]
        assert refusal.value.response.status_code == 403
        async with connect(address, origin=APP):  # type: ignore[arg-type]
            pass


@pytest.mark.parametrize(
    "value",
    [
        "example.org",
        "https://app.example.org/",
        "https://app.example.org/path",
        "https://*.example.org",
        "null",
        "https://",
        "https://app.example.org:99999",
        "https://user@app.example.org",
        "https://bücher.example",
        "https://app.example.org https://",
    ],
)
def test_what_is_no_origin_is_refused_with_its_remedy(value: str) -> None:
    with pytest.raises(ConfigError, match="write https://app"):
        load_settings(allowed_origins=value)
