"""The demonstration, from the first click to the confirmed event."""

from __future__ import annotations

import asyncio

from playwright.async_api import Browser, FrameLocator, Page

from docs.pictures import animation
from docs.pictures.camera import HERE, WIDE, take
from tests.browser.service import Service

SMALL = (960, 600)
CLIMB_FRAMES = 40  # at most, at two a second


class Film:
    """Screenshots with the time that each is shown; what looks the same is shown longer."""

    def __init__(self) -> None:
        self.frames: list[animation.Frame] = []

    async def shoot(self, page: Page, milliseconds: int) -> None:
        """One more."""
        png = await page.screenshot(animations="disabled")
        if self.frames and self.frames[-1][0] == png:
            milliseconds += self.frames.pop()[1]
        self.frames.append((png, milliseconds))


async def tour(browser: Browser, demo: Service) -> None:
    """Four pictures, and all of it as an animation."""
    film = Film()
    context = await browser.new_context(viewport=WIDE)
    context.set_default_timeout(40_000)
    page = await context.new_page()
    await page.goto(demo.page)
    await page.locator("#badge", has_text="connected").wait_for()
    operator = page.frame_locator("#dashboard")
    await operator.locator("#conditions li").first.wait_for()
    await film.shoot(page, 1_500)
    await page.get_by_role("button", name="Ask").click()
    for seen in ("The supply analyst begins.", "I need the deliveries", "Uses search_orders"):
        await page.get_by_text(seen).wait_for()
        await film.shoot(page, 700)
    await page.get_by_text("search_orders is done.").wait_for()
    await operator.locator("#way .confirmation").first.wait_for(state="attached")
    await take(page, "tour-1-live")
    await film.shoot(page, 1_000)
    await page.get_by_role("button", name="Go offline").click()
    await film.shoot(page, 1_200)
    await climb(page, operator, film)
    await read_and_confirm(page, operator, film)
    await page.get_by_role("button", name="Go online").click()
    await page.locator(".said.agent", has_text="Northwind is the one").wait_for()
    await page.locator("#step-mail.done").wait_for()
    await take(page, "tour-4-confirmed")
    await film.shoot(page, 3_500)
    await context.close()
    await animation.write(browser, film.frames, SMALL, HERE / "tour.webp")


async def climb(page: Page, operator: FrameLocator, film: Film) -> None:
    """From the cut to the mail."""
    await operator.get_by_role("heading", name="agent completed").wait_for()
    is_taken = False
    for _ in range(CLIMB_FRAMES):
        if await operator.locator("#sent iframe").count():
            return
        await film.shoot(page, 500)
        if not is_taken and await operator.locator("#way .attempt.failed").count() > 2:
            await take(page, "tour-2-chain")
            is_taken = True
        await asyncio.sleep(0.5)
    raise RuntimeError("no mail came")


async def read_and_confirm(page: Page, operator: FrameLocator, film: Film) -> None:
    """The mail, its button, the page behind it, and what the timeline says then."""
    link = operator.locator("#sent iframe").content_frame.locator("a").first
    await link.wait_for()
    await page.locator("#step-mail.now").wait_for()
    await take(page, "tour-3-mail")
    await film.shoot(page, 2_500)
    await link.scroll_into_view_if_needed()
    await film.shoot(page, 1_500)
    async with page.context.expect_page() as opened:
        await link.click()
    confirmation = await opened.value
    await confirmation.set_viewport_size(WIDE)
    await confirmation.get_by_role("button").wait_for()
    await film.shoot(confirmation, 1_800)
    await confirmation.get_by_role("button").click()
    await confirmation.get_by_role("heading", name="Thank you").wait_for()
    await film.shoot(confirmation, 1_200)
    await confirmation.close()
    await operator.locator("#way .confirmation").first.wait_for(state="attached")
    await page.locator("#step-mail.done").wait_for()
    await film.shoot(page, 2_000)
