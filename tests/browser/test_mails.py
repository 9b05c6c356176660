"""The mail in a browser, which stands in for a mail program: it fits, and everybody can read it."""

import pytest
from playwright.async_api import Browser

from delivery.transports.render import Renderer
from tests.browser.test_dashboard import SCHEMES, serious_faults
from tests.messages import make_event, make_message

WIDTHS = (320, 390, 760)


@pytest.mark.parametrize("locale", ["en", "de"])
async def test_a_mail_fits_every_screen_and_axe_finds_no_serious_fault(
    browser: Browser, locale: str
) -> None:
    answer = "https://example.org/" + "a" * 200 + "\n\nand " + "words " * 40
    events = [
        make_event(1, "agent_started", {"title": "t" * 120}),
        make_event(2, "tool_completed", {"tool": "x" * 60, "error": "e" * 140}),
        make_event(3, "agent_completed", {"result": answer}),
    ]
    message = make_message(events=events, run_id="r" * 128, contact={"locale": locale})
    page = await browser.new_page()
    await page.set_content(Renderer().digest(message).html)
    for width in WIDTHS:
        await page.set_viewport_size({"width": width, "height": 800})
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
    for scheme in SCHEMES:
        await page.emulate_media(color_scheme=scheme)
        assert await serious_faults(page) == [], scheme
    button = await page.locator("a").first.bounding_box()
    assert button is not None
    assert button["height"] >= 44  # a thumb's width; WCAG 2.5.5
    await page.close()
