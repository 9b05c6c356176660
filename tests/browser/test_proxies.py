"""The browser client behind proxies as they stand in other people's networks."""

import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.browser.conftest import NewDevice
from tests.browser.service import Service, until
from tests.browser.test_client import confirmed, has, ids
from tests.proxy import Proxy

LINES = "The first line\nThe second, with ü and 💡 in it\r\nand a last one"


@pytest_asyncio.fixture(loop_scope="session")
async def proxy(service: Service) -> AsyncIterator[Proxy]:
    """Sockets do not get through it."""
    async with Proxy(service.url) as opened:
        opened.upgrades = 426
        yield opened


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("piece", [None, 1], ids=["whole", "torn"])
async def test_the_stream_is_read_whatever_ends_its_lines_and_however_it_is_cut(
    service: Service, device: NewDevice, proxy: Proxy, user: str, line_end: bytes, piece: int | None
) -> None:
    proxy.line_end, proxy.piece = line_end, piece
    page = await (await device(user, url=proxy.url)).page()
    sent = service.emit(user, *["note"] * 20, data={"text": LINES})
    await has(page, 20)
    assert await ids(page) == sent
    assert await page.evaluate("got[19].data.text") == LINES
    assert await page.evaluate("connection.status.transport") == "sse"
    await until("all are confirmed", confirmed(service, sent))
    assert proxy.streams == 1


async def test_a_proxy_that_cuts_every_response_costs_no_event_and_doubles_none(
    service: Service, device: NewDevice, proxy: Proxy, user: str
) -> None:
    proxy.cuts_after = 0.7
    page = await (await device(user, url=proxy.url)).page(transport="sse")
    sent = []
    while proxy.streams < 3:
        sent += service.emit(user, "note")
        await has(page, len(sent))
    assert await ids(page) == sent


@pytest.mark.parametrize("obstacle", [400, 426, 502, "cut", "hang", "silent"])
async def test_where_upgrades_do_not_get_through_the_stream_stands_within_ten_seconds(
    service: Service, device: NewDevice, proxy: Proxy, user: str, obstacle: str | int
) -> None:
    proxy.upgrades = obstacle
    began = time.monotonic()
    page = await (await device(user, url=proxy.url)).page()
    # Ten seconds for the client, and what a busy machine takes to start a page.
    assert time.monotonic() - began < 20.0
    assert await page.evaluate("connection.status.transport") == "sse"
    sent = service.emit(user, "note")
    await has(page, 1)
    await until("it is confirmed", confirmed(service, sent))


@pytest.mark.parametrize("trait", ["buffers", "compresses", "drops_comments"])
async def test_a_proxy_that_buffers_compresses_or_drops_comments_holds_nothing_back(
    service: Service, device: NewDevice, proxy: Proxy, user: str, trait: str
) -> None:
    setattr(proxy, trait, 4_096 if trait == "buffers" else True)
    page = await (await device(user, url=proxy.url)).page(transport="sse")
    sent = service.emit(user, "note")
    await has(page, 1)
    assert await ids(page) == sent
    assert proxy.streams == 1
