"""Takes the pictures of the README and the docs: `.venv/bin/python docs/pictures/make.py`.

Owns: a running `delivery demo`, a browser, and what is seen at which moment of the tour. Needs
Chromium (`apt-get install chromium`). Never does: check anything; tests/browser does.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from playwright.async_api import Browser, Page, async_playwright  # noqa: E402

from tests.browser.conftest import FLAGS  # noqa: E402
from tests.browser.service import Service, serving  # noqa: E402

WIDE = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}


async def tour(browser: Browser, demo: Service) -> None:
    """Four moments of the demonstration."""
    context = await browser.new_context(viewport=WIDE)
    context.set_default_timeout(40_000)
    page = await context.new_page()
    await page.goto(demo.page)
    await page.locator("#badge", has_text="connected").wait_for()
    await page.get_by_role("button", name="Ask").click()
    await page.get_by_text("search_orders is done.").wait_for()
    await take(page, "tour-1-live")
    await page.get_by_role("button", name="Go offline").click()
    operator = page.frame_locator("#dashboard")
    await operator.get_by_role("heading", name="agent completed").wait_for()
    await operator.locator("#way .attempt.failed").nth(2).wait_for(state="attached")
    await take(page, "tour-2-chain")
    mail = operator.locator("#sent iframe").content_frame
    await mail.locator("a").first.wait_for()
    await take(page, "tour-3-mail")
    async with context.expect_page() as opened:
        await mail.locator("a").first.click()
    confirmation = await opened.value
    await confirmation.get_by_role("button").click()
    await confirmation.get_by_role("heading", name="Thank you").wait_for()
    await confirmation.close()
    await operator.locator("#way .proof").first.wait_for(state="attached")
    await page.get_by_role("button", name="Go online").click()
    await page.locator(".said.agent", has_text="Northwind is the one").wait_for()
    await page.locator("#step-mail.done").wait_for()
    frame = next(frame for frame in page.frames if frame != page.main_frame)
    await frame.evaluate("scrollTo(0, 0)")
    await take(page, "tour-4-confirmed")
    await context.close()


async def dashboards(browser: Browser, demo: Service) -> None:
    """The dashboard: desktop light and dark, and on a phone."""
    looks = (("dashboard", "light", WIDE), ("dashboard-dark", "dark", WIDE),
             ("dashboard-phone", "light", PHONE))  # fmt: skip
    for name, scheme, size in looks:
        context = await browser.new_context(viewport=size, color_scheme=scheme)
        page = await context.new_page()
        await page.goto(f"{demo.url}/#token={demo.said['service_token']}")
        await page.locator("#health.ok").wait_for()
        await page.locator("#events button", has_text="agent completed").first.click()
        await page.locator("#way svg").wait_for()
        await page.evaluate("scrollTo(0, 0)")
        await take(page, name)
        if name == "dashboard":
            await page.locator("#detail").screenshot(path=HERE / "timeline.png")
        await context.close()


async def take(page: Page, name: str) -> None:
    """One picture, once what moves has come to rest."""
    await page.evaluate("document.fonts.ready")
    await page.screenshot(path=HERE / f"{name}.png", animations="disabled")


async def main() -> None:
    """All of them."""
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("no browser: apt-get install chromium")
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder), "demo", policies=None) as demo,
    ):
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=chromium, args=FLAGS)
            await tour(browser, demo)
            await dashboards(browser, demo)
            await browser.close()


asyncio.run(main())
