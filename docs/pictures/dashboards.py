"""The dashboard of a service with something to do: users who are there, one who is not."""

from __future__ import annotations

import asyncio
from itertools import count, cycle
from typing import Literal

import jwt
from playwright.async_api import Browser, Page, ViewportSize

import delivery
from docs.pictures.camera import PHONE, WIDE, take
from tests.browser.service import Service

SECONDS = 75  # a sample every ten for the charts, and the chain to its end
PRESENT = ("ada", "grace", "linus", "margaret")
Scheme = Literal["light", "dark"]
LOOKS: tuple[tuple[str, Scheme, ViewportSize], ...] = (
    ("dashboard", "light", WIDE),
    ("dashboard-dark", "dark", WIDE),
    ("dashboard-phone", "dark", PHONE),
)


async def dashboards(browser: Browser, service: Service) -> None:
    """Light and dark, wide and on a phone; one event; a question before a replay."""
    async with asyncio.TaskGroup() as group:
        audience = [group.create_task(listen(service, user)) for user in PRESENT]
        work = group.create_task(crowd(service))
        await asyncio.sleep(SECONDS)
        for name, scheme, size in LOOKS:
            context = await browser.new_context(viewport=size, color_scheme=scheme)
            page = await opened(await context.new_page(), service)
            await take(page, name)
            await context.close()
        await details(browser, service)
        for task in (work, *audience):
            task.cancel()


async def details(browser: Browser, service: Service) -> None:
    page = await opened(
        await browser.new_page(viewport={"width": 1180, "height": 1_800}),
        service,
        "&state=dead&user_id=alan&type=agent_completed",
    )
    await page.locator("#events button").first.click()
    await page.locator("#way svg").wait_for()
    await take(page.locator("#detail"), "timeline")
    await page.close()
    page = await opened(await browser.new_page(viewport=WIDE), service, "&state=dead")
    await page.locator("#replay-all").click()
    await page.locator("#ask[open]").wait_for()
    await take(page, "dashboard-replay")
    await page.close()


async def opened(page: Page, service: Service, fragment: str = "") -> Page:
    await page.goto(f"{service.url}/#token={service.said['service_token']}{fragment}")
    await page.locator("#health.ok").wait_for()
    await page.locator("#events button").first.wait_for()
    return page


async def listen(service: Service, user: str) -> None:
    """A user whose page is open."""
    token = jwt.encode({"sub": user, "exp": 4_000_000_000}, service.secret, algorithm="HS256")
    async with delivery.Client(service.url, token) as client:
        async for _ in client:
            pass


async def crowd(service: Service) -> None:
    """Runs of everybody, first of one who is away."""
    contact = {"email": "alan@example.org", "phone": "+15005550006", "time_zone": "Europe/London"}
    service.http.put("/v1/users/alan/contacts", json=contact).raise_for_status()
    numbers = count(1)
    async with delivery.connect(service.url, service.said["service_token"]) as connected:
        for user in ("alan", *PRESENT):
            await run(connected.emitter(user, f"run-{next(numbers)}"))
        for user in cycle(PRESENT):
            await run(connected.emitter(user, f"run-{next(numbers)}"))
            await asyncio.sleep(1.0 if user == PRESENT[-1] else 0.3)


async def run(emitter: delivery.Emission) -> None:
    await emitter.emit_agent_started("buyer", title="Compare the three offers")
    await emitter.emit_agent_thinking("I read the offers first.")
    await emitter.emit_tool_executing("read_offers")
    await emitter.emit_tool_completed("read_offers", {"offers": 3})
    await emitter.emit_agent_completed("The second one: 12 % cheaper, and there in May.")
