"""The browser client in a real browser, against a running service."""

import gzip
from typing import Any

import httpx
import pytest
from playwright.async_api import Page

from delivery import resources
from tests.browser.conftest import NewDevice
from tests.browser.gate import Gate
from tests.browser.service import Service, until
from tests.npm.minify import OPTIONS, header

LIMIT = 7 * 1024
"""Bytes of the client, minified and compressed."""


async def ids(page: Page) -> list[str]:
    """Ids that the page's handler was given, in order."""
    found: list[str] = await page.evaluate("got.map((event) => event.id)")
    return found


async def has(page: Page, count: int) -> None:
    """Wait until the handler was given so many events."""
    await page.wait_for_function("(count) => got.length >= count", arg=count)


def confirmed(service: Service, event_ids: list[str]) -> Any:
    """Whether all of them are."""
    return lambda: all(service.state(id_) == "confirmed" for id_ in event_ids)


def test_the_client_is_small_and_needs_nothing_else() -> None:
    source = resources.file("web", "client/client.js").read_bytes()
    minified = resources.file("web", "client/client.min.js").read_bytes()
    assert len(gzip.compress(minified, 9)) <= LIMIT
    assert b"import " not in b"\n".join(
        line for line in source.splitlines() if not line.startswith(b"//")
    )


@pytest.mark.parametrize("name", OPTIONS)
def test_a_minified_file_is_made_from_its_source(name: str) -> None:
    minified = resources.file("web", f"client/{name}.min.js").read_text()
    assert minified.startswith(header(name)), "run `make client` and commit what it writes"


@pytest.mark.parametrize("name", OPTIONS)
def test_a_file_is_served_minified_compressed_and_for_ever_under_its_version(
    service: Service, name: str
) -> None:
    with httpx.Client(base_url=service.url, trust_env=False) as http:
        short = http.get(f"/{name}.js", headers={"Accept-Encoding": "br, gzip;q=0.5"})
        assert short.text.startswith(header(name))
        assert short.headers["Content-Encoding"] == "gzip"
        assert int(short.headers["Content-Length"]) <= LIMIT
        assert "no-cache" in short.headers["Cache-Control"]
        again = http.get(f"/{name}.js", headers={"If-None-Match": short.headers["ETag"]})
        assert again.status_code == 304
        plain = http.get(f"/{name}.js", headers={"Accept-Encoding": "gzip;q=0"})
        assert "Content-Encoding" not in plain.headers
        assert plain.text == short.text
        assert plain.headers["ETag"] != short.headers["ETag"]
        pinned = http.get(f"/{short.headers['Content-Location']}")
        assert pinned.text == short.text
        assert "immutable" in pinned.headers["Cache-Control"]
        assert pinned.headers["Access-Control-Allow-Origin"] == "*"
        older = http.get(f"/{name}.0123456789abcdef.js")
        assert (older.status_code, older.headers["Location"]) == (307, f"{name}.js")
        assert "immutable" not in older.headers["Cache-Control"]


def test_client_and_types_may_be_loaded_from_any_origin(service: Service) -> None:
    for path, kind in (("/client.js", "text/javascript"), ("/client.d.ts", "text/plain")):
        answer = httpx.get(f"{service.url}{path}", trust_env=False)
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith(kind)
        assert answer.headers["Access-Control-Allow-Origin"] == "*"


async def test_events_arrive_in_order_and_are_acknowledged(
    service: Service, device: NewDevice, user: str
) -> None:
    page = await (await device(user)).page()
    sent = service.emit(user, "agent_started", "tool_executing", "agent_completed", "note")
    await has(page, 4)
    assert await ids(page) == sent
    await until("all are confirmed", confirmed(service, sent))
    assert service.event(sent[0])["confirmations"][0]["channel"] == "websocket"


async def test_an_event_is_acknowledged_when_the_handlers_promise_resolves(
    service: Service, device: NewDevice, user: str
) -> None:
    page = await (await device(user)).page(start=False)
    await page.evaluate("""() => { window.start({ onEvent: (event) => new Promise((resolve) => {
        window.finish = () => { got.push(event); resolve(); }; }) }); }""")
    await page.wait_for_function("connection.status.state === 'connected'")
    [sent] = service.emit(user, "note")
    await page.wait_for_function("Boolean(window.finish)")
    assert service.state(sent) in ("accepted", "sent")
    await page.evaluate("finish()")
    await until("it is confirmed", confirmed(service, [sent]))


async def test_an_event_whose_handler_fails_is_refused_and_falls_back(
    service: Service, device: NewDevice, user: str
) -> None:
    page = await (await device(user)).page()
    await page.evaluate("window.fail = true")
    [sent] = service.emit(user, "agent_started")
    await until(
        "it was refused",
        lambda: any(
            "cannot show this" in (a["error"] or "") for a in service.event(sent)["attempts"]
        ),
    )
    await page.evaluate("window.fail = false")
    await has(page, 1)  # the chain resends it, and now it is handled
    await until("it is confirmed", confirmed(service, [sent]))


async def test_a_reload_in_mid_stream_loses_and_doubles_nothing(
    service: Service, device: NewDevice, user: str
) -> None:
    phone = await device(user)
    page = await phone.page()
    before = service.emit(user, *["note"] * 300)
    await has(page, 1)
    # The page keeps what it was given, as an application does.
    await page.evaluate("""addEventListener("pagehide", () => { connection.close();
        sessionStorage.setItem("kept", JSON.stringify(got.map((event) => event.id))); })""")
    await phone.load(page)
    kept = await page.evaluate("JSON.parse(sessionStorage.getItem('kept'))")
    after = service.emit(user, *["note"] * 50)
    await phone.connect(page)
    await has(page, 350 - len(kept))
    await until("all are confirmed", lambda: service.settled(user) == 350)
    assert kept + await ids(page) == before + after


async def test_offline_and_back(service: Service, device: NewDevice, user: str) -> None:
    phone = await device(user)
    page = await phone.page()
    first = service.emit(user, "note")
    await has(page, 1)
    await phone.context.set_offline(True)
    await page.wait_for_function("connection.status.state === 'offline'")
    missed = service.emit(user, "note", "note")
    await phone.context.set_offline(False)
    await has(page, 3)
    assert await ids(page) == first + missed
    await until("all are confirmed", confirmed(service, missed))


async def test_a_broken_line_is_mended(
    service: Service, device: NewDevice, gate: Gate, user: str
) -> None:
    page = await (await device(user, url=gate.url)).page()
    gate.cut()
    sent = service.emit(user, "note")
    await has(page, 1)
    assert await ids(page) == sent
    assert "waiting" in await page.evaluate("statuses.map((status) => status.state)")


async def test_two_tabs_share_one_connection_and_one_may_close(
    service: Service, device: NewDevice, user: str
) -> None:
    laptop = await device(user)
    first = await laptop.page()
    second = await laptop.page()
    both = service.emit(user, "note", "note")
    await has(first, 2)
    await has(second, 2)
    assert await ids(first) == await ids(second) == both
    assert await first.evaluate("connection.status.leader")
    assert not await second.evaluate("connection.status.leader")
    await until("both are confirmed", confirmed(service, both))
    assert len(service.event(both[0])["confirmations"]) == 1
    await first.close()
    await second.wait_for_function("connection.status.leader && connection.status.transport")
    [late] = service.emit(user, "note")
    await has(second, 3)
    assert await ids(second) == [*both, late]
    await until("it is confirmed", confirmed(service, [late]))


async def test_a_tab_that_reloads_misses_nothing_while_another_holds_the_connection(
    service: Service, device: NewDevice, user: str
) -> None:
    laptop = await device(user)
    leader = await laptop.page()
    other = await laptop.page()
    first = service.emit(user, "note")
    await has(other, 1)
    await laptop.load(other)
    missed = service.emit(user, "note", "note")
    await has(leader, 3)
    await laptop.connect(other)
    await has(other, 2)
    assert await ids(other) == missed
    assert await ids(leader) == first + missed


async def test_two_devices_get_every_event_and_each_confirms(
    service: Service, device: NewDevice, user: str
) -> None:
    phone = await (await device(user)).page(device="phone")
    laptop = await (await device(user)).page(device="laptop")
    [sent] = service.emit(user, "agent_completed")
    await has(phone, 1)
    await has(laptop, 1)
    await until("both have confirmed", lambda: len(service.event(sent)["confirmations"]) == 2)
    assert {confirmation["by"] for confirmation in service.event(sent)["confirmations"]} == {
        "phone",
        "laptop",
    }


async def test_a_token_is_refreshed_before_it_expires(
    service: Service, device: NewDevice, user: str
) -> None:
    phone = await device(user, ttl=2.5)
    page = await phone.page()
    minted = phone.minted
    await until("a newer token was asked for", lambda: phone.minted >= minted + 2)
    sent = service.emit(user, "note")
    await has(page, 1)
    await until("it is confirmed", confirmed(service, sent))
    states = await page.evaluate("statuses.map((status) => status.state)")
    assert states.count("connected") == 1  # one connection all the time


async def test_a_plain_token_that_expires_ends_the_connection(device: NewDevice, user: str) -> None:
    phone = await device(user, ttl=3.0)
    page = await phone.page(start=False)
    await page.evaluate("(token) => start({ token })", phone.token())
    await page.wait_for_function("connection.status.state === 'closed'")
    assert (await page.evaluate("connection.status"))["code"] == 3005


async def test_a_wrong_token_ends_the_connection_with_a_reason(
    device: NewDevice, user: str
) -> None:
    page = await (await device(user)).page(start=False)
    await page.evaluate("start({ token: 'not.a.token' })")
    await page.wait_for_function("connection.status.state === 'closed'")
    status = await page.evaluate("connection.status")
    assert status["code"] == 3500
    assert status["reason"]


async def test_where_no_websocket_gets_through_the_stream_takes_over_and_gives_back(
    service: Service, device: NewDevice, gate: Gate, user: str
) -> None:
    gate.passes_sockets = False
    page = await (await device(user, url=gate.url)).page(upgradeAfter=500)
    assert await page.evaluate("connection.status.transport") == "sse"
    over_stream = service.emit(user, "agent_started", "note")
    await has(page, 2)
    await until("both are confirmed", confirmed(service, over_stream))
    gate.passes_sockets = True
    await page.wait_for_function("connection.status.transport === 'websocket'")
    over_socket = service.emit(user, "note")
    await has(page, 3)
    await until("it is confirmed", confirmed(service, over_socket))
    assert await ids(page) == over_stream + over_socket


async def test_ten_thousand_events_in_a_burst_do_not_freeze_the_page(
    service: Service, device: NewDevice, user: str
) -> None:
    page = await (await device(user)).page()
    await page.evaluate("""() => {
        window.longest = 0; let last = performance.now();
        const look = (now) => { longest = Math.max(longest, now - last); last = now;
          requestAnimationFrame(look); };
        requestAnimationFrame((now) => { last = now; look(now); }); }""")
    sent = service.emit(user, *["note"] * 10_000)
    await page.wait_for_function("got.length >= 10000", timeout=30_000)
    assert len(set(await ids(page))) == 10_000
    assert set(await ids(page)) == set(sent)
    await until("all are confirmed", lambda: service.settled(user) == 10_000)
    assert await page.evaluate("longest") < 500  # shared machine; without slices it is seconds


async def test_an_ephemeral_event_is_shown_and_not_acknowledged(
    service: Service, device: NewDevice, user: str
) -> None:
    page = await (await device(user)).page()
    service.emit(user, "token_delta", data={"text": "Hel"})
    last = service.emit(user, "note")
    await has(page, 2)
    assert (await ids(page))[-1:] == last
    await until("the durable one is confirmed", confirmed(service, last))


async def test_listeners_of_a_type_share_one_acknowledgement(
    service: Service, device: NewDevice, user: str
) -> None:
    page = await (await device(user)).page(start=False)
    await page.evaluate("""() => {
      window.start({ onEvent: undefined });
      window.heard = [];
      connection.on("note", (event) => heard.push(["a", event.id]));
      window.end = connection.on("note", async (event) => {
        heard.push(["b", event.id]);
        if (event.data.fails) throw new Error("the second one cannot");
      });
    }""")
    await page.wait_for_function("connection.status.state === 'connected'")
    [bad] = service.emit(user, "note", data={"fails": True})
    await page.wait_for_function("heard.length === 2")
    await until(
        "it was refused",
        lambda: any("second one" in (a["error"] or "") for a in service.event(bad)["attempts"]),
    )
    await page.evaluate("void end()")
    [good] = service.emit(user, "note")
    await until("it is confirmed", confirmed(service, [good]))
    assert await page.evaluate("heard.at(-1)") == ["a", good]


async def test_an_event_waits_for_its_listener_and_is_not_acknowledged_before(
    service: Service, device: NewDevice, user: str
) -> None:
    page = await (await device(user)).page(start=False)
    await page.evaluate("window.start({ onEvent: undefined, storage: null })")
    await page.evaluate("void connection.on('other', (event) => got.push(event))")
    await page.wait_for_function("connection.status.state === 'connected'")
    first, other, second = service.emit(user, "note", "other", "note")
    await until("the other one is confirmed", confirmed(service, [other]))
    assert service.state(first) in ("accepted", "sent")
    await page.evaluate("void connection.on('note', (event) => got.push(event))")
    await until("all are confirmed", confirmed(service, [first, second]))
    assert await ids(page) == [other, first, second]
