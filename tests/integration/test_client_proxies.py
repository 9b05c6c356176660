"""The listening client behind proxies as they stand in other people's networks."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Iterator

import jwt
import pytest

from delivery.client.client import Client
from tests.browser.service import Service, serving, until
from tests.proxy import Proxy

LINES = "The first line\nThe second, with ü and 💡 in it\r\nand a last one"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A running `delivery up`."""
    with serving(tmp_path_factory.mktemp("up")) as running:
        yield running


@pytest.fixture
async def proxy(service: Service) -> AsyncIterator[Proxy]:
    """Sockets do not get through it."""
    async with Proxy(service.url) as opened:
        opened.upgrades = 426
        yield opened


@pytest.fixture
def user() -> str:
    """A user whom no other test knows."""
    return f"user-{uuid.uuid4().hex[:8]}"


def listen(service: Service, proxy: Proxy, user: str, **options: object) -> Client:
    """A client behind the proxy."""
    claims = {"sub": user, "exp": time.time() + 600.0}
    token = jwt.encode(claims, service.secret, algorithm="HS256")
    return Client(proxy.url, token, **options)  # type: ignore[arg-type]


async def take(client: Client, count: int) -> list[str]:
    """The next events' ids; the last one stays in hand."""
    async with asyncio.timeout(15.0):
        return [(await anext(client)).id for _ in range(count)]


async def connected(client: Client) -> None:
    """Wait until events can flow."""
    await until("it is connected", lambda: client.is_connected)


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("piece", [None, 1], ids=["whole", "torn"])
async def test_the_stream_is_read_whatever_ends_its_lines_and_however_it_is_cut(
    service: Service, proxy: Proxy, user: str, line_end: bytes, piece: int | None
) -> None:
    proxy.line_end, proxy.piece = line_end, piece
    async with listen(service, proxy, user) as client:
        await connected(client)
        sent = service.emit(user, *["note"] * 20, data={"text": LINES})
        assert await take(client, 20) == sent
        assert client.status.transport == "sse"
    assert all(service.state(id_) == "confirmed" for id_ in sent)
    assert proxy.streams == 1


async def test_a_proxy_that_cuts_every_response_costs_no_event_and_doubles_none(
    service: Service, proxy: Proxy, user: str
) -> None:
    proxy.cuts_after = 0.7
    async with listen(service, proxy, user, transport="sse") as client:
        sent, got = [], []
        while proxy.streams < 3:
            sent += service.emit(user, "note")
            got += await take(client, 1)
        assert got == sent


@pytest.mark.parametrize("obstacle", [400, 426, 502, "cut", "hang", "silent"])
async def test_where_upgrades_do_not_get_through_the_stream_stands_within_ten_seconds(
    service: Service, proxy: Proxy, user: str, obstacle: str | int
) -> None:
    proxy.upgrades = obstacle
    began = time.monotonic()
    async with listen(service, proxy, user) as client:
        await connected(client)
        assert time.monotonic() - began < 10.0
        assert client.status.transport == "sse"
        sent = service.emit(user, "note")
        assert await take(client, 1) == sent


@pytest.mark.parametrize("trait", ["buffers", "compresses", "drops_comments"])
async def test_a_proxy_that_buffers_compresses_or_drops_comments_holds_nothing_back(
    service: Service, proxy: Proxy, user: str, trait: str
) -> None:
    setattr(proxy, trait, 4_096 if trait == "buffers" else True)
    async with listen(service, proxy, user, transport="sse") as client:
        await connected(client)
        sent = service.emit(user, "note")
        assert await take(client, 1) == sent
    assert proxy.streams == 1
