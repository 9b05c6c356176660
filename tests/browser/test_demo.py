"""The tour of `delivery demo`, from the first click to the confirmed event."""

from collections.abc import Iterator

import pytest
from playwright.async_api import Browser, expect

from tests.browser.service import Service, serving
from tests.browser.test_dashboard import serious_faults


@pytest.fixture(scope="module")
def demo(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A running `delivery demo` under its own policies."""
    with serving(tmp_path_factory.mktemp("demo"), "demo", policies=None) as running:
        yield running


async def test_the_tour_from_the_first_click_to_the_confirmed_event(
    browser: Browser, demo: Service
) -> None:
    context = await browser.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(40_000)
    page = await context.new_page()
    await page.goto(demo.page)
    await page.locator("#badge", has_text="connected").wait_for()
    assert await serious_faults(page) == []
    await page.get_by_role("button", name="Ask").click()
    await page.get_by_text("search_orders is done.").wait_for()
    await page.get_by_role("button", name="Go offline").click()

    operator = page.frame_locator("#dashboard")
    await operator.get_by_role("heading", name="agent completed").wait_for()
    await operator.locator("#sent iframe").wait_for()
    mail = operator.locator("#sent iframe").content_frame
    async with context.expect_page() as opened:
        await mail.locator("a").first.click()
    confirmation = await opened.value
    await confirmation.get_by_role("button").click()
    await operator.locator("#way .confirmation").first.wait_for(state="attached")
    await expect(page.locator("#step-mail")).to_have_class("done")

    await page.get_by_role("button", name="Go online").click()
    await page.locator(".said.agent", has_text="Northwind is the one").wait_for()
    await expect(page.locator("#step-mail")).to_have_class("done")  # the tour is over
    await context.close()


async def test_the_dashboard_of_up_leads_to_the_demo(browser: Browser, demo: Service) -> None:
    context = await browser.new_context()
    page = await context.new_page()
    await page.goto(f"{demo.url}/#token={demo.said['service_token']}")
    await page.get_by_role("link", name="Demo").click()
    await page.locator("#badge", has_text="connected").wait_for()
    await context.close()


async def test_without_a_token_the_demo_says_where_it_is_found(
    browser: Browser, demo: Service
) -> None:
    context = await browser.new_context()
    page = await context.new_page()
    await page.goto(f"{demo.url}/demo")
    await page.get_by_role("alert").filter(has_text="delivery demo").wait_for()
    await context.close()
