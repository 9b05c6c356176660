"""The mail in a browser, which stands in for a mail program: it fits, and everybody can read it."""

import pytest
from playwright.async_api import Browser

from delivery.domain.messages.brand import Brand
from delivery.transports.rendering.render import Renderer
from tests.browser.test_dashboard import SCHEMES, serious_faults
from tests.messages import make_event, make_message

WIDTHS = (320, 390, 760)


APP = "https://app.example.org"
BRAND = Brand("Acme", color="#ffd500", app_url=APP, origins=frozenset({APP}), footer="Acme Ltd")
MARKDOWN = """

| supplier | late |
|---|---|
| نورثويند | 9 |

- `code` in [a list](https://app.example.org/list)

```
select * from orders where supplier = 'northwind' and delivered_at > due_at + interval '1 day'
```"""


@pytest.mark.parametrize(("locale", "brand"), [("en", BRAND), ("de", None)])
async def test_a_mail_fits_every_screen_and_axe_finds_no_serious_fault(
    browser: Browser, locale: str, brand: Brand | None
) -> None:
    answer = "https://example.org/" + "a" * 200 + "\n\nand " + "words " * 40 + MARKDOWN
    events = [
        make_event(1, "agent_started", {"title": "t" * 120}),
        make_event(2, "tool_completed", {"tool": "x" * 60, "error": "e" * 140}),
        make_event(3, "agent_completed", {"result": answer}),
    ]
    message = make_message(events=events, run_id="r" * 128, contact={"locale": locale})
    page = await browser.new_page()
    await page.set_content(Renderer(brand=brand).digest(message).html)
    for width in WIDTHS:
        await page.set_viewport_size({"width": width, "height": 800})
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
    for scheme in SCHEMES:
        await page.emulate_media(color_scheme=scheme)
        assert await serious_faults(page) == [], scheme
    button = await page.locator("td.button a").first.bounding_box()
    assert button is not None
    assert button["height"] >= 44  # a thumb's width; WCAG 2.5.5
    await page.close()
