"""One run of a user who is away, seen in the dashboard and in Flower: gateway, worker, beat and
Flower as processes of their own, on PostgreSQL and Redis."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from playwright.async_api import Browser, Page, ViewportSize

from delivery.api.demo_agent import script
from delivery.bootstrap.embedded import demo_policies
from docs.pictures.camera import take
from tests import servers
from tests.cluster.conftest import Cluster, making, start

ASKED = "Which of our suppliers were late last quarter?"
USER, RUN = "ada", "run-3f2a"
FLOWER: ViewportSize = {"width": 1280, "height": 640}
PANEL: ViewportSize = {"width": 1180, "height": 1_800}


async def chain(browser: Browser, folder: Path) -> None:
    """The timeline of the run's last event, the tasks that carried it, and one task."""
    with servers.postgres() as postgres, servers.redis_server() as redis:
        settings = {
            "POLICIES": str(demo_policies()),
            "BROKER_URL": redis.url,
            "FLOWER_BASIC_AUTH": "ops:only-for-pictures",
        }
        with making(folder, postgres, redis, **settings) as cluster:
            start(cluster, gateways=1)
            flower = cluster.run("flower", "--json", "--port", "0", name="flower").json_line()
            wait("Flower sees the worker", lambda: workers(flower["url"]))
            event_id = climb(cluster)
            await dashboard(browser, cluster, event_id)
            await tasks(browser, flower["url"], event_id)


def climb(cluster: Cluster) -> str:
    """A run without a connected client, until its mail's button is pressed; its last event."""
    cluster.contact(USER, email="ada@example.org", time_zone="Europe/London")
    events = [
        {"type": type, "user_id": USER, "run_id": RUN, "data": data}
        for _, type, data in script(ASKED)
        if type != "token_delta"
    ]
    answer = cluster.http().post("/v1/events", json={"events": events}).raise_for_status()
    event_id = str(answer.json()["accepted"][-1]["id"])
    wait("the mail", lambda: cluster.mails_to("ada@example.org"))
    wait("its record", lambda: ("email", "delivered") in cluster.outcomes(event_id))
    link = re.search(r"http\S+/confirm/\S+", cluster.mails_to("ada@example.org")[0])
    assert link is not None
    httpx.post(link.group(), timeout=10).raise_for_status()
    wait("the confirmation", lambda: cluster.event(event_id)["state"] == "confirmed")
    return event_id


async def dashboard(browser: Browser, cluster: Cluster, event_id: str) -> None:
    page = await browser.new_page(viewport=PANEL)
    url = cluster.gateways[0].url
    await page.goto(f"{url}/#token={cluster.service_token}&event={event_id}")
    await page.locator("#way .confirmation").first.wait_for(state="attached")
    await page.get_by_text("Attempts and confirmations as a table").click()
    await page.locator("#detail summary", has_text="Data").click()
    await take(page.locator("#detail"), "chain-dashboard")
    await page.close()


async def tasks(browser: Browser, url: str, event_id: str) -> None:
    context = await browser.new_context(
        viewport=FLOWER, http_credentials={"username": "ops", "password": "only-for-pictures"}
    )
    page = await context.new_page()
    await page.goto(f"{url}/tasks")
    await page.get_by_role("searchbox").fill(event_id)
    await page.locator("#tasks-table tbody tr", has_text="email").first.wait_for()
    await take(page, "chain-flower")
    await one_task(page)
    await context.close()


async def one_task(page: Page) -> None:
    emails = page.locator("#tasks-table tbody tr", has_text="email")
    await emails.first.locator("a[href*='/task/']").click()
    await page.locator(".task-details-card").wait_for()
    await take(page, "chain-flower-task")


def workers(url: str) -> Any:
    answer = httpx.get(
        f"{url}/api/workers", auth=("ops", "only-for-pictures"), params={"refresh": "1"}, timeout=30
    )
    return answer.is_success and answer.json()


def wait(what: str, holds: Callable[[], Any], timeout: float = 60.0) -> None:
    """Look until it holds."""
    deadline = time.monotonic() + timeout
    while not holds():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {timeout:g} s: {what}")
        time.sleep(0.1)
