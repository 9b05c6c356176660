"""Several tabs of one user, of which one is suspended, slept or has no Web Locks."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
from playwright.async_api import CDPSession, Page, async_playwright

from tests.browser.conftest import FLAGS, Device, NewDevice
from tests.browser.gate import Gate
from tests.browser.service import Service, until
from tests.browser.test_client import confirmed, ids

TAKEOVER = 5.0

LEADS = "connection.status.leader && connection.status.transport !== null"
FOLLOWS = "!connection.status.leader"

# A channel between tabs that loses what `loses` names, and sends what `delays` names after the next
# status that is heard: as for a tab that is suspended in between.
CHANNEL = """() => {
  const Whole = window.BroadcastChannel;
  const late = [];
  Object.assign(window, { lost: [], loses: () => false, delays: () => false });
  window.BroadcastChannel = class extends Whole {
    set onmessage(act) {
      super.onmessage = (message) => {
        const { type, events } = message.data;
        if (window.loses(type)) return window.lost.push(...(events ?? [message.data]));
        act(message);
        if (type === "status") for (const send of late.splice(0)) send();
      };
    }
    postMessage(message) {
      if (!window.delays(message)) return super.postMessage(message);
      late.push(() => super.postMessage(message));
      window.delays = () => false;
    }
  };
}"""

Suspend = Callable[[CDPSession], Awaitable[Callable[[], Awaitable[None]]]]


async def holds(page: Page, condition: str) -> None:
    """Wait for a condition; from outside, because the timers of a hidden tab are slow."""
    await until(condition, lambda: page.evaluate(f"Boolean({condition})"))


async def has(page: Page, count: int) -> None:
    """Wait until the handler was given so many events."""
    await holds(page, f"got.length >= {count}")


async def freeze(cdp: CDPSession) -> Callable[[], Awaitable[None]]:
    """As the browser does with a tab in the background, to save energy."""
    await cdp.send("Page.setWebLifecycleState", {"state": "frozen"})

    async def thaw() -> None:
        await cdp.send("Page.setWebLifecycleState", {"state": "active"})

    return thaw


async def pause(cdp: CDPSession) -> Callable[[], Awaitable[None]]:
    """As a breakpoint does."""
    paused = asyncio.Event()
    cdp.once("Debugger.paused", lambda _: paused.set())
    await cdp.send("Debugger.enable")
    await cdp.send("Debugger.pause")
    await asyncio.wait_for(paused.wait(), 10.0)

    async def resume() -> None:
        await cdp.send("Debugger.disable")

    return resume


@pytest_asyncio.fixture(loop_scope="session")
async def window(
    chromium: str, service: Service, user: str, tmp_path: Path
) -> AsyncIterator[Device]:
    """A browser as people have it: the tabs behind the one in front are hidden, and can be frozen,
    which those that playwright makes cannot."""
    flags = [*FLAGS, "--remote-debugging-port=0", f"--user-data-dir={tmp_path / 'profile'}"]
    process = await asyncio.create_subprocess_exec(
        chromium, *flags, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        port = tmp_path / "profile" / "DevToolsActivePort"
        await until("the browser listens", lambda: port.exists() and bool(port.read_text()))
        async with async_playwright() as playwright:
            address = f"http://127.0.0.1:{port.read_text().split()[0]}"
            browser = await playwright.chromium.connect_over_cdp(address, no_defaults=True)
            browser.contexts[0].set_default_timeout(30_000)
            yield await Device(browser.contexts[0], service, user, service.url, 600.0).prepare()
            await browser.close()
    finally:
        for child in [*psutil.Process(process.pid).children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                child.kill()
        await process.wait()


@asynccontextmanager
async def suspended(page: Page, how: Suspend) -> AsyncIterator[None]:
    """A tab that runs no script; awake again behind the block."""
    cdp = await page.context.new_cdp_session(page)
    resume = await how(cdp)
    try:
        yield
    finally:
        await resume()


@pytest.mark.parametrize("how", [freeze, pause])
async def test_a_suspended_tab_loses_the_connection_and_notices_when_it_wakes(
    service: Service, window: Device, user: str, how: Suspend
) -> None:
    first, second, third = [await window.page() for _ in range(3)]
    before = service.emit(user, "note", "note")
    for page in (first, second, third):
        await has(page, 2)
    assert await first.evaluate("connection.status.leader")
    async with suspended(first, how):
        began = time.monotonic()
        during = service.emit(user, "agent_started", "note")
        await has(second, 4)
        await has(third, 4)
        assert time.monotonic() - began < TAKEOVER
        await until("they are confirmed", confirmed(service, during))
    after = service.emit(user, "note")
    for page in (first, second, third):
        await has(page, 5)
        assert await ids(page) == before + during + after
    await holds(first, FOLLOWS)
    leaders = [await page.evaluate("connection.status.leader") for page in (second, third)]
    assert sorted(leaders) == [False, True]


@pytest.mark.parametrize("how", [freeze, pause])
async def test_the_tab_that_woke_leads_again_when_the_others_are_closed(
    service: Service, window: Device, user: str, how: Suspend
) -> None:
    first, second = [await window.page() for _ in range(2)]
    async with suspended(first, how):
        await holds(second, LEADS)
        [one] = service.emit(user, "note")
        await has(second, 1)
    await holds(first, FOLLOWS)
    await second.close()
    await holds(first, LEADS)
    [two] = service.emit(user, "note")
    await has(first, 2)
    assert await ids(first) == [one, two]
    await until("both are confirmed", confirmed(service, [one, two]))


@pytest.mark.parametrize("how", [freeze, pause])
async def test_a_tab_that_was_next_in_line_and_is_suspended_does_not_keep_the_others_waiting(
    service: Service, window: Device, user: str, how: Suspend
) -> None:
    first, second, third = [await window.page() for _ in range(3)]
    service.emit(user, "note")
    for page in (first, second, third):
        await has(page, 1)
    async with suspended(second, how):
        await first.close()
        began = time.monotonic()
        service.emit(user, "note")
        await has(third, 2)
        assert time.monotonic() - began < TAKEOVER
    await has(second, 2)
    assert await ids(second) == await ids(third)


@pytest.mark.parametrize("how", [freeze, pause])
async def test_a_tab_that_is_opened_while_the_leader_is_suspended(
    service: Service, window: Device, user: str, how: Suspend
) -> None:
    first = await window.page()
    second = await window.page(start=False)
    async with suspended(first, how):
        began = time.monotonic()
        await second.evaluate("start({})")
        await holds(second, "connection.status.state === 'connected'")
        assert time.monotonic() - began < TAKEOVER
        service.emit(user, "note")
        await has(second, 1)
    await has(first, 1)


@pytest.mark.parametrize("how", [freeze, pause])
async def test_a_follower_that_was_suspended_gets_what_it_missed_in_order(
    service: Service, window: Device, user: str, how: Suspend
) -> None:
    first, second = [await window.page() for _ in range(2)]
    async with suspended(second, how):
        sent = service.emit(user, *["note"] * 5)
        await has(first, 5)
    sent += service.emit(user, *["note"] * 5)
    for page in (first, second):
        await has(page, 10)
        assert await ids(page) == sent


async def told_in_vain(service: Service, page: Page, user: str, count: int) -> list[str]:
    """Events of which this follower hears nothing; their ids."""
    await page.evaluate("Object.assign(window, { lost: [], loses: (type) => type === 'events' })")
    sent = service.emit(user, *["note"] * count)
    await holds(page, f"lost.length === {count}")
    await page.evaluate("void (window.loses = () => false)")
    return sent


async def test_a_follower_that_asks_for_what_it_missed_goes_on_with_the_answer_to_itself_only(
    service: Service, device: NewDevice, user: str
) -> None:
    """Other tabs ask the leader all the time, and hear their answers together."""
    laptop = await device(user)
    _, second, _ = [await laptop.page(), await laptop.page(start=False), await laptop.page()]
    await second.evaluate(CHANNEL)
    await laptop.connect(second)
    sent = await told_in_vain(service, second, user, 5)
    await second.evaluate("void (window.delays = ({ type, cursor }) => type === 'hello' && cursor)")
    sent += service.emit(user, *["note"] * 5)
    await has(second, 10)
    assert await ids(second) == sent


async def test_a_follower_that_knows_its_leader_from_a_broadcast_notices_what_it_missed(
    service: Service, device: NewDevice, gate: Gate, user: str
) -> None:
    laptop = await device(user, url=gate.url)
    _, second = [await laptop.page(), await laptop.page(start=False)]
    await second.evaluate(CHANNEL)
    await second.evaluate("Object.assign(window, { loses: () => true, setInterval: () => 0 })")
    await second.evaluate("start()")
    await holds(second, "lost.length")  # the answer to its own question; it asks no second one
    await second.evaluate("void (window.loses = () => false)")
    gate.cut()  # the leader says that it waits, connects, is connected
    await holds(second, "connection.status.state === 'connected'")
    sent = await told_in_vain(service, second, user, 5)
    sent += service.emit(user, *["note"] * 5)
    await has(second, 10)
    assert await ids(second) == sent


async def test_a_leader_that_lost_its_place_before_the_first_event_gets_what_came_since(
    service: Service, device: NewDevice, user: str
) -> None:
    laptop = await device(user)
    first, second = [await laptop.page(start=False), await laptop.page(start=False)]
    await first.evaluate(CHANNEL)
    await laptop.connect(first)
    await laptop.connect(second)
    await first.evaluate("document.dispatchEvent(new Event('freeze'))")
    await holds(second, LEADS)
    sent = await told_in_vain(service, first, user, 1)
    await first.evaluate("document.dispatchEvent(new Event('resume'))")
    await holds(first, "connection.status.state === 'connected'")
    sent += service.emit(user, "note")
    await has(first, 2)
    assert await ids(first) == sent


@pytest.mark.parametrize("how", [freeze, pause])
async def test_a_tab_alone_that_was_suspended_goes_on_where_it_was(
    service: Service, window: Device, user: str, how: Suspend
) -> None:
    page = await window.page()
    sent = service.emit(user, "note")
    await has(page, 1)
    async with suspended(page, how):
        sent += service.emit(user, "note", "agent_started")
    await has(page, 3)
    assert await ids(page) == sent
    await until("all are confirmed", confirmed(service, sent))


@pytest.mark.parametrize("how", [freeze, pause])
async def test_an_ephemeral_event_reaches_no_handler_twice_when_a_tab_wakes(
    service: Service, window: Device, user: str, how: Suspend
) -> None:
    first, second = [await window.page() for _ in range(2)]
    async with suspended(first, how):
        service.emit(user, "token_delta", "token_delta", data={"text": "Hel"})
        await holds(second, LEADS)
        service.emit(user, "token_delta", data={"text": "lo"})
        last = service.emit(user, "note")
        await holds(second, "got.some((event) => event.type === 'note')")
    await holds(first, "got.some((event) => event.type === 'note')")
    end = service.emit(user, "note")
    for page in (first, second):
        await holds(page, f"got.some((event) => event.id === '{end[0]}')")
        found = await ids(page)
        assert len(found) == len(set(found))
        assert [id_ for id_ in found if id_ in last + end] == last + end


async def test_a_tab_whose_script_is_busy_for_a_second_keeps_the_connection(
    service: Service, device: NewDevice, user: str
) -> None:
    laptop = await device(user)
    first, second = [await laptop.page() for _ in range(2)]
    await first.evaluate("{ const end = Date.now() + 1000; while (Date.now() < end); }")
    service.emit(user, "note")
    await has(second, 1)
    assert await first.evaluate("connection.status.leader")


@pytest.mark.parametrize("passes_sockets", [True, False], ids=["websocket", "sse"])
async def test_a_connection_that_died_while_the_machine_slept_is_noticed_on_waking(
    service: Service, device: NewDevice, gate: Gate, user: str, passes_sockets: bool
) -> None:
    gate.passes_sockets = passes_sockets
    page = await (await device(user, url=gate.url)).page()
    gate.swallow()  # both ends think that the line is up
    missed = service.emit(user, "note")
    # The clock of a machine that slept has jumped when its timers go on.
    await page.evaluate("{ const now = Date.now; Date.now = () => now() + 3_600_000; }")
    began = time.monotonic()
    await has(page, 1)
    assert time.monotonic() - began < TAKEOVER
    assert await ids(page) == missed


async def test_a_dead_socket_is_noticed_when_its_tab_is_looked_at(
    service: Service, device: NewDevice, gate: Gate, user: str
) -> None:
    page = await (await device(user, url=gate.url)).page()
    gate.swallow()
    missed = service.emit(user, "note")
    began = time.monotonic()
    await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    await has(page, 1)
    assert time.monotonic() - began < TAKEOVER
    assert await ids(page) == missed


@pytest.mark.parametrize("passes_sockets", [True, False], ids=["websocket", "sse"])
async def test_five_tabs_without_web_locks_have_a_connection_each_and_no_event_twice(
    service: Service, device: NewDevice, gate: Gate, user: str, passes_sockets: bool
) -> None:
    gate.passes_sockets = passes_sockets
    laptop = await device(user, url=gate.url)
    await laptop.context.add_init_script(
        "Object.defineProperty(Navigator.prototype, 'locks', { value: undefined })"
    )
    tabs = [await laptop.page() for _ in range(5)]
    assert all([await tab.evaluate("connection.status.leader") for tab in tabs])
    sent = service.emit(user, *["note"] * 20)
    for tab in tabs:
        await has(tab, 20)
    gate.cut()
    sent += service.emit(user, *["note"] * 5)
    for tab in tabs:
        await has(tab, 25)
        assert await ids(tab) == sent
    await until("all are confirmed", lambda: service.settled(user) == 25)
    await laptop.load(tabs[0])
    await laptop.connect(tabs[0])
    late = service.emit(user, "note")
    for tab in tabs[1:]:
        await has(tab, 26)
    await has(tabs[0], 1)
    assert await ids(tabs[0]) == late
