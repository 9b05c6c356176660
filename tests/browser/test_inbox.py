"""The inbox in a real browser: the element, and the React component and hooks under StrictMode."""

import json
import os
import subprocess
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page

from delivery import resources
from tests.browser.conftest import Device, NewDevice
from tests.browser.service import Service, until
from tests.browser.test_package import MISSING, MODULES

pytestmark = pytest.mark.timeout(240)

ELEMENT = """async (options) => {
  await import("/inbox.js");
  start({ onEvent: undefined, ...options });
  const inbox = document.createElement("delivery-inbox");
  document.body.append(inbox);
  inbox.connection = connection;
}"""
APP = """
import { StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";
import { DeliveryProvider, Inbox, useDelivery, useInbox } from "delivery-ledger-client/react";

Object.assign(window, { heard: [], faults: [] });
const report = console.error;
console.error = (...what) => { window.faults.push(String(what[0])); report(...what); };

function Heard() {
  const { status } = useDelivery("note", (event) => { window.heard.push(event.id); });
  const { unread, items, markAllRead } = useInbox();
  const counts = `${unread} of ${items.length}`;
  const all = <button onClick={markAllRead}>all</button>;
  return <p id="hooks" data-state={status.state}>{counts}{all}</p>;
}

function App() {
  const [isShown, show] = useState(true);
  return (
    <StrictMode>
      <DeliveryProvider url={location.origin} token={() => window.mint()}>
        <button id="toggle" onClick={() => show(!isShown)}>toggle</button>
        {isShown && <Heard />}
        <Inbox id="box" onUnread={(count) => { window.unread = count; }} />
      </DeliveryProvider>
    </StrictMode>
  );
}
window.root = createRoot(document.getElementById("app"));
window.root.render(<App />);
"""


def titles(page: Page) -> Any:
    return page.evaluate("""[...document.querySelector("delivery-inbox").shadowRoot
        .querySelectorAll("li")]
        .map((li) => [li.querySelector(".title").textContent, li.className])""")


async def shows(page: Page, *wanted: tuple[str, str]) -> None:
    """Wait until the element lists exactly these messages."""

    async def holds() -> bool:
        return bool(await titles(page) == [list(one) for one in wanted])

    await until(f"{page.url} shows {wanted}", holds)


async def opened(device: Device) -> Page:
    page = await device.page(start=False)
    await page.evaluate(ELEMENT, {})
    await page.wait_for_function("connection.status.state === 'connected'")
    return page


async def test_tabs_and_browsers_stay_in_step(
    service: Service, device: NewDevice, user: str
) -> None:
    laptop, phone = await device(user), await device(user)
    tabs = [await opened(laptop), await opened(laptop), await opened(phone)]
    [first] = service.emit(user, "note", data={"title": "One", "summary": "first"})
    [second] = service.emit(
        user, "note", data={"title": "<b>Two</b>", "url": "javascript:alert(1)"}
    )
    service.emit(user, "agent_started", data={"agent": "no message"})
    for tab in tabs:
        await shows(tab, ("<b>Two</b>", "unread"), ("One", "unread"))
    await until("it was acknowledged", lambda: service.state(second) == "confirmed")
    assert await tabs[0].locator("delivery-inbox a").count() == 0
    await tabs[0].get_by_role("button", name="Mark read: One").click()
    for tab in tabs:
        await shows(tab, ("<b>Two</b>", "unread"), ("One", ""))
        await tab.get_by_text("1 unread").wait_for()
    await tabs[2].get_by_role("button", name="Archive: One").click()
    for tab in tabs:
        await shows(tab, ("<b>Two</b>", "unread"))
    await tabs[1].get_by_role("button", name="Mark all read").click()
    for tab in tabs:
        await shows(tab, ("<b>Two</b>", ""))
    mine = service.http.get(f"/v1/users/{user}/inbox", params={"archived": "true"}).json()
    assert [one["id"] for one in mine["items"]] == [first]


async def test_a_browser_that_was_away_reads_what_it_missed(
    service: Service, device: NewDevice, user: str
) -> None:
    laptop, phone = await device(user), await device(user)
    here, away = await opened(laptop), await opened(phone)
    service.emit(user, "note", data={"title": "One"})
    await shows(away, ("One", "unread"))
    await phone.context.set_offline(True)
    await away.wait_for_function("connection.status.state === 'offline'")
    await here.get_by_role("button", name="Mark read: One").click()
    await shows(here, ("One", ""))
    await phone.context.set_offline(False)
    await shows(away, ("One", ""))


async def test_the_element_has_no_faults_of_accessibility(
    service: Service, device: NewDevice, user: str
) -> None:
    service.emit(
        user,
        "note",
        data={
            "title": "One",
            "summary": "first",
            "url": "/run/1",
            "actions": [{"label": "Open", "url": "https://app.test/1"}],
        },
    )
    page = await opened(await device(user))
    await shows(page, ("One", "unread"))
    found = await Axe().run(page, "delivery-inbox")
    assert found.violations_count == 0, found.generate_report()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The React application, bundled with the package."""
    if not MODULES.is_dir():
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    folder = tmp_path_factory.mktemp("app")
    (folder / "app.jsx").write_text(APP)
    package = resources.file("web", "client/package.json").parent
    alias = [f"--alias:delivery-ledger-client={package}"]
    words = ["--bundle", "--format=iife", "--jsx=automatic", *alias]
    words.append('--define:process.env.NODE_ENV="development"')
    done = subprocess.run(
        [str(MODULES / ".bin" / "esbuild"), "app.jsx", *words],
        cwd=folder,
        env=os.environ | {"NODE_PATH": str(MODULES)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.replace("</script", "<\\/script")


async def test_hooks_and_component_survive_strict_mode_and_undo_themselves(
    service: Service, device: NewDevice, user: str, bundle: str
) -> None:
    laptop = await device(user)
    html = '<!doctype html><html lang="en"><title>A page</title><main id="app"></main>'
    html += f"<script>{bundle}</script></html>"
    path = f"{laptop.url}/app"
    await laptop.context.route(
        path, lambda route: route.fulfill(body=html, content_type="text/html; charset=utf-8")
    )
    page = await laptop.context.new_page()
    await page.goto(path)
    await page.locator("#hooks[data-state=connected]").wait_for()
    [sent] = service.emit(user, "note", data={"title": "One"})
    await shows(page, ("One", "unread"))
    await page.get_by_text("1 of 1").wait_for()
    await page.wait_for_function("window.unread === 1")
    await until("it was acknowledged", lambda: service.state(sent) == "confirmed")
    assert await page.evaluate("heard") == [sent]
    await page.get_by_text("all", exact=True).click()
    await shows(page, ("One", ""))
    await page.get_by_text("0 of 1").wait_for()
    await page.locator("#toggle").click()  # the component with the listener is gone
    service.emit(user, "note", data={"title": "Two"})
    await shows(page, ("Two", "unread"), ("One", ""))
    assert await page.evaluate("heard") == [sent]
    await page.evaluate("root.unmount()")

    def connections() -> bool:
        return bool(service.http.get("/v1/stats").json()["connections"] == 0)

    await until("the connection is closed", connections)
    assert json.dumps(await page.evaluate("faults")) == "[]"
