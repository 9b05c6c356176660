"""The browser client and tokens that are refused, against a server that says no when it is told."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Page

from delivery import resources
from tests.browser.conftest import Device, NewDevice
from tests.browser.service import until
from tests.contract_server import ContractServer


@pytest_asyncio.fixture(loop_scope="session")
async def server() -> AsyncIterator[ContractServer]:
    """A server in the tests' own process."""
    async with ContractServer().running() as running:
        yield running


async def signed_in(
    device: NewDevice, server: ContractServer, user: str, ttl: float = 600.0
) -> Device:
    """A profile whose pages get the client from that server."""
    made: Device = await device(user, url=server.url, ttl=ttl)
    source = resources.file("web", "client/client.js").read_text()
    await made.context.route(
        f"{server.url}/client.js",
        lambda route: route.fulfill(body=source, content_type="text/javascript"),
    )
    return made


def soon() -> str:
    """When the welcome says that the token ends."""
    return (datetime.now(UTC) + timedelta(seconds=4.0)).isoformat()


async def waits(page: Page) -> list[dict[str, Any]]:
    """What the badge showed while it waited."""
    found: list[dict[str, Any]] = await page.evaluate("statuses.filter((s) => s.retryAt)")
    return found


@pytest.mark.parametrize("code", [3005, 3006, 3500])
async def test_a_token_that_is_refused_is_followed_by_a_newer_one(
    server: ContractServer, device: NewDevice, user: str, code: int
) -> None:
    server.refuses = [code]
    phone = await signed_in(device, server, user)
    page = await phone.page()
    assert phone.minted == 2
    assert [status["code"] for status in await waits(page)] == [code]


async def test_a_second_token_that_is_refused_ends_the_connection(
    server: ContractServer, device: NewDevice, user: str
) -> None:
    server.refuse = 3500
    phone = await signed_in(device, server, user)
    page = await phone.page(start=False)
    await page.evaluate("start({})")
    await page.wait_for_function("connection.status.state === 'closed'")
    assert (await page.evaluate("connection.status.code"), len(server.connects)) == (3500, 2)


async def test_what_time_may_mend_is_tried_again_with_a_plain_token_too(
    server: ContractServer, device: NewDevice, user: str
) -> None:
    server.refuses = [3006, 3006]
    phone = await signed_in(device, server, user)
    page = await phone.page(token=phone.token())
    assert len(server.connects) == 3
    assert [status["code"] for status in await waits(page)] == [3006, 3006]


async def test_a_token_that_is_always_expired_is_tried_ever_more_rarely(
    server: ContractServer, device: NewDevice, user: str
) -> None:
    server.refuse = 3005
    page = await (await signed_in(device, server, user)).page(start=False)
    await page.evaluate("""() => { Math.random = () => 0.999; window.waits = [];
        start({ onStatus: (s) => s.retryAt && waits.push([s.code, s.retryAt - Date.now()]) }); }""")
    await page.wait_for_function("waits.length >= 4")
    seen = await page.evaluate("waits.slice(0, 4)")
    assert [code for code, _ in seen] == [3005] * 4
    for (_, ms), ceiling in zip(seen, (500, 1_000, 2_000, 4_000), strict=True):
        assert ceiling / 2 < ms <= ceiling
    assert server.upgrades == len(server.connects)  # no reason to try the stream
    assert server.streams == []


async def test_a_refresh_that_is_refused_leaves_the_socket_open_and_is_tried_again(
    server: ContractServer, device: NewDevice, user: str
) -> None:
    server.refuse_refresh, server.expires = True, soon()
    page = await (await signed_in(device, server, user, ttl=2.0)).page()

    def refreshes() -> list[dict[str, Any]]:
        return [frame for frame in server.frames if frame["type"] == "refresh"]

    await until("two were refused", lambda: len(refreshes()) >= 2)
    assert await page.evaluate("connection.status.state") == "connected"
    assert len(server.connects) == 1


async def test_a_stream_stands_until_the_one_with_the_newer_token_is_welcomed(
    server: ContractServer, device: NewDevice, user: str
) -> None:
    server.expires = soon()
    page = await (await signed_in(device, server, user, ttl=2.0)).page(transport="sse")
    await until("two streams were made", lambda: len(server.streams) >= 2)
    states = await page.evaluate("statuses.map((status) => status.state)")
    assert states.count("waiting") == 0


async def test_a_token_callback_that_never_answers_is_asked_again(
    server: ContractServer, device: NewDevice, user: str
) -> None:
    page = await (await signed_in(device, server, user)).page(start=False)
    await page.evaluate("""() => { let asked = 0;
        start({ token: () => (asked++ ? mint() : new Promise(() => {})) }); }""")
    await page.wait_for_function("connection.status.state === 'connected'")
