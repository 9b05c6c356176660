"""Chromium, a running `delivery up` for each file of tests, and pages that embed the client.

Where there is no browser a developer's run skips these tests and says so; in CI it is a failure.
"""

import inspect
import os
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from tests.browser.gate import Gate
from tests.browser.service import Service, serving

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # The test page is answered by playwright, from no address; it may open sockets on loopback.
    "--disable-features=LocalNetworkAccessChecks,LocalNetworkAccessChecksWebSockets",
]
MISSING = "no browser: apt-get install chromium"
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
HTML = """<!doctype html><html lang="en"><meta charset="utf-8"><title>A page</title>
<link rel="icon" href="data:,"><script type="module">
import { connect } from "./client.js";
Object.assign(window, { got: [], statuses: [], fail: false, connect });
window.start = (options = {}) => {
  window.connection = connect({
    url: location.origin,
    token: () => window.mint(),
    onEvent: (event) => {
      if (window.fail) throw new Error("cannot show this");
      window.got.push(event);
    },
    onStatus: (status) => window.statuses.push(status),
    ...options,
  });
};
window.ready = true;
</script></html>"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of them drive a browser, on one event loop."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)
            if inspect.iscoroutinefunction(getattr(item, "function", None)):
                # Before the automatic mark, whose loop would be another one for each test.
                item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Where the browser is."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    return found


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser(chromium: str) -> AsyncIterator[Browser]:
    """One browser; each test has contexts of its own, which are like profiles."""
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield started
        await started.close()


@pytest.fixture(scope="module")
def service(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A running `delivery up` for one file: its figures are those of that file's events."""
    with serving(tmp_path_factory.mktemp("up")) as running:
        yield running


@pytest.fixture
def user() -> str:
    """A user whom no other test knows."""
    return f"user-{uuid.uuid4().hex[:8]}"


NewDevice = Callable[..., Any]


@pytest_asyncio.fixture(loop_scope="session")
async def device(browser: Browser, service: Service) -> AsyncIterator[NewDevice]:
    """Makes a browser profile in which a user is signed in; see ``Device``."""
    made: list[BrowserContext] = []

    async def make(user_id: str, *, url: str | None = None, ttl: float = 600.0) -> "Device":
        context = await browser.new_context()
        made.append(context)
        context.set_default_timeout(30_000)
        return await Device(context, service, user_id, url or service.url, ttl).prepare()

    yield make
    for context in made:
        await context.close()


@pytest_asyncio.fixture(loop_scope="session")
async def gate(service: Service) -> AsyncIterator[Gate]:
    """A proxy before the service that can refuse WebSockets or everything."""
    async with Gate(service.port) as opened:
        yield opened


class Device:
    """A profile of one user; its pages embed the client as an application would."""

    def __init__(
        self, context: BrowserContext, service: Service, user_id: str, url: str, ttl: float
    ) -> None:
        self.context = context
        self.user_id = user_id
        self.url = url
        self.ttl = ttl
        self.minted = 0
        self._secret = service.secret

    async def prepare(self) -> "Device":
        await self.context.route(
            f"{self.url}/page", lambda route: route.fulfill(body=HTML, content_type="text/html")
        )
        await self.context.expose_function("mint", self.token)
        return self

    def token(self) -> str:
        """A client's token; pages call it as their token callback."""
        self.minted += 1
        now = time.time()
        claims = {"sub": self.user_id, "iat": now, "exp": now + self.ttl}
        return jwt.encode(claims, self._secret, algorithm="HS256")

    async def page(self, start: bool = True, **options: Any) -> Page:
        """A page, connected unless ``start`` is off."""
        page = await self.context.new_page()
        await self.load(page)
        if start:
            await self.connect(page, **options)
        return page

    async def load(self, page: Page) -> None:
        """Open the page, or open it anew."""
        await page.goto(f"{self.url}/page")
        await page.wait_for_function("window.ready")

    async def connect(self, page: Page, **options: Any) -> None:
        """Start the client there and wait until events can flow."""
        await page.evaluate("(options) => start(options)", options)
        await page.wait_for_function("connection.status.state === 'connected'")
