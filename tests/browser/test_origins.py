"""A page of another origin: what a real browser lets it do."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page

from tests.browser.service import Service, serving
from tests.web_server import Reply, WebServer, web_server

READ = """async ([url, token]) => {
  const answer = await fetch(`${url}/v1/events`, {headers: {Authorization: `Bearer ${token}`}});
  return [answer.status, (await answer.json()).events.length];
}"""
POST_ACKS = """async ([url, token]) => {
  const answer = await fetch(`${url}/v1/acks`, {method: "POST", body: '{"ids":["x"]}',
    headers: {Authorization: `Bearer ${token}`, "Content-Type": "application/json"}});
  return [answer.status, await answer.json()];
}"""
SOCKET = """([url, token]) => new Promise((done) => {
  const socket = new WebSocket(`${url.replace("http", "ws")}/v1/ws`, "delivery.v1");
  socket.onopen = () => socket.send(JSON.stringify({type: "connect", token}));
  socket.onmessage = ({data}) => done(JSON.parse(data).type);
  socket.onclose = ({code}) => done(code);
})"""
EVENT_SOURCE = """async ([url, token]) => {
  const asked = await fetch(`${url}/v1/tickets`,
    {method: "POST", headers: {Authorization: `Bearer ${token}`}});
  const {ticket} = await asked.json();
  const open = () => new Promise((done) => {
    const source = new EventSource(`${url}/v1/stream?ticket=${ticket}`);
    const end = (answer) => { source.close(); done(answer); };
    source.addEventListener("connected", ({data}) => end(JSON.parse(data).user_id));
    source.onerror = () => end("refused");
  });
  return [await open(), await open()];
}"""


@pytest.fixture(scope="module")
def other() -> Iterator[WebServer]:
    """A server of another origin, with an empty page."""
    with web_server() as server:
        server.answer = lambda request: Reply(
            200, b"<!doctype html><title>x</title>", {"Content-Type": "text/html"}
        )
        yield server


@pytest.fixture(scope="module")
def service(
    chromium: str, other: WebServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A `delivery up` that lets the other origin in, and no third one."""
    folder: Path = tmp_path_factory.mktemp("up")
    with serving(folder, settings={"ALLOWED_ORIGINS": other.url}) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def page(browser: Browser, other: WebServer) -> AsyncIterator[Page]:
    """The page of the other origin."""
    context = await browser.new_context()
    page = await context.new_page()
    await page.goto(other.url)
    yield page
    await context.close()


def arguments(service: Service) -> list[Any]:
    claims = {"sub": "ada", "iat": time.time(), "exp": time.time() + 600}
    return [service.url, jwt.encode(claims, service.secret, algorithm="HS256")]


async def test_an_allowed_page_reads_posts_and_connects(page: Page, service: Service) -> None:
    given = arguments(service)
    assert await page.evaluate(READ, given) == [200, 0]
    assert await page.evaluate(POST_ACKS, given) == [200, {"confirmed": [], "unknown": ["x"]}]
    assert await page.evaluate(SOCKET, given) == "connected"
    assert await page.evaluate(EVENT_SOURCE, given) == ["ada", "refused"]


async def test_a_page_of_a_third_origin_gets_nothing(browser: Browser, service: Service) -> None:
    given = arguments(service)
    with web_server() as third:
        third.answer = lambda request: Reply(
            200, b"<title>x</title>", {"Content-Type": "text/html"}
        )
        context = await browser.new_context()
        page = await context.new_page()
        await page.goto(third.url)
        for script in (READ, POST_ACKS):
            caught = f"(given) => ({script})(given).catch((error) => error.name)"
            assert await page.evaluate(caught, given) == "TypeError"
        assert await page.evaluate(SOCKET, given) == 1006
        await context.close()
