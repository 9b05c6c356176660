"""What all pictures share: sizes, the browser, and the moment to press the button."""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from playwright.async_api import Browser, Locator, Page, ViewportSize, async_playwright

from tests.browser.conftest import FLAGS

HERE = Path(__file__).resolve().parent
WIDE: ViewportSize = {"width": 1280, "height": 800}
PHONE: ViewportSize = {"width": 390, "height": 844}


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """The machine's Chromium."""
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("no browser: apt-get install chromium")
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield started
        await started.close()


async def take(what: Page | Locator, name: str, *, whole: bool = False) -> None:
    """One picture, once what moves has come to rest; ``whole`` pages are as long as they are."""
    path = HERE / f"{name}.png"
    if isinstance(what, Page):
        await what.evaluate("document.fonts.ready")
        await what.screenshot(path=path, animations="disabled", full_page=whole)
    else:
        await what.screenshot(path=path, animations="disabled")
    print(path.name, path.stat().st_size)
