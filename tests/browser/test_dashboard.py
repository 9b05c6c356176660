"""The operators' page in a real browser: what it shows, does, and refuses to run."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import httpx
import jwt
import pytest
import pytest_asyncio
from axe_playwright_python.base import AXE_FILE_PATH
from playwright.async_api import Browser, BrowserContext, Page, expect

from delivery.domain.operators.figures import Condition
from delivery.domain.operators.thresholds import CONDITIONS
from delivery.domain.users.receipts import Suppress
from delivery.domain.webhooks.endpoints import Endpoint
from delivery.ledger import SqlLedger
from tests import servers
from tests.browser.conftest import NewDevice
from tests.browser.gate import Gate
from tests.browser.service import Service, serving, until

DESKTOP, PHONE = (1280, 900), (390, 844)
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


@pytest_asyncio.fixture(loop_scope="session")
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    """A fresh profile."""
    made = await browser.new_context()
    made.set_default_timeout(30_000)
    yield made
    await made.close()


async def dashboard(context: BrowserContext, service: Service, fragment: str = "") -> Page:
    """The page, signed in and live."""
    page = await context.new_page()
    await page.goto(f"{service.page}{fragment}")
    await page.locator("#health.ok").wait_for()
    return page


async def serious_faults(page: Page) -> list[str]:
    """What axe-core calls serious or critical, with the elements; it comes past the page's policy
    as a debugger does."""
    found = await page.evaluate(AXE_FILE_PATH.read_text() + "; axe.run(document, {iframes: false})")
    return [
        f"{fault['id']}: {[node['html'][:120] for node in fault['nodes']]}"
        for fault in found["violations"]
        if fault["impact"] in ("serious", "critical")
    ]


async def dead_event(service: Service, user: str) -> str:
    """An event whose chain is exhausted."""
    [event_id] = service.emit(user, "auth_failed")
    await until("it is dead", lambda: service.state(event_id) == "dead")
    return event_id


async def test_a_new_event_is_shown_without_asking_for_it(
    context: BrowserContext, service: Service, user: str
) -> None:
    page = await dashboard(context, service, f"&user_id={user}")
    assert await page.locator("#events tr").count() == 0
    service.emit(user, "agent_started")
    await page.locator("#events tr", has_text=user).wait_for()
    assert "link" not in page.url  # nor in the history


async def test_the_link_opens_one_session_which_no_script_can_read(
    context: BrowserContext, browser: Browser, service: Service
) -> None:
    page = await context.new_page()
    printed = service.said["page"]
    await page.goto(printed)
    await page.locator("#health.ok").wait_for()
    [cookie] = await context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/")
    assert await page.evaluate("[document.cookie, localStorage.length, sessionStorage.length]") == [
        "",
        0,
        0,
    ]
    await page.reload()
    await page.locator("#health.ok").wait_for()
    stranger = await browser.new_context()
    late = await stranger.new_page()
    await late.goto(printed)
    await late.locator("#gate-error", has_text="used before").wait_for()
    await stranger.close()
    await page.goto(printed)  # a bookmark, where the session is still open
    await page.locator("#health.ok").wait_for()


async def test_signing_out_ends_the_session_in_every_tab_and_for_every_copy_of_its_cookie(
    context: BrowserContext, service: Service
) -> None:
    page = await dashboard(context, service)
    other = await context.new_page()
    await other.goto(service.url)
    await other.locator("#health.ok").wait_for()
    [cookie] = await context.cookies()
    copy = {"Cookie": f"{cookie['name']}={cookie['value']}"}
    assert await asyncio.to_thread(_status, service, copy) == 200
    await page.locator("#sign-out").click()
    await page.locator("#gate").wait_for()
    await other.locator("#gate").wait_for()
    await until("the cookie is gone", lambda: _has_no_cookie(context))
    assert await asyncio.to_thread(_status, service, copy) == 401


def _status(service: Service, headers: dict[str, str]) -> int:
    return httpx.get(f"{service.url}/v1/stats", headers=headers).status_code


async def _has_no_cookie(context: BrowserContext) -> bool:
    return await context.cookies() == []


async def test_the_timeline_shows_every_attempt_and_what_confirmed(
    context: BrowserContext, service: Service, device: NewDevice, user: str
) -> None:
    [event_id] = service.emit(user, "agent_started")
    service.emit(user, "token_metrics", data={"input_tokens": 7, "output_tokens": 2, "cost": 0.5})
    await until("the chain began", lambda: service.state(event_id) == "falling_back")
    page = await dashboard(context, service, f"&event={event_id}")
    await page.locator(".attempt.failed").first.wait_for(state="attached")
    await (await device(user)).page()
    await page.locator("#way .confirmation").first.wait_for(state="attached")
    event = service.event(event_id)
    assert await page.locator("#way .attempt").count() == len(event["attempts"])
    picture = await page.locator("#way svg").get_attribute("aria-label")
    assert picture is not None
    assert "confirmed over websocket" in picture
    assert await page.locator("#detail-facts .tag").inner_text() == "confirmed"
    assert "7 in, 2 out, cost 0.5" in await page.locator("#detail-facts").inner_text()


async def test_the_mail_is_shown_as_it_was_sent_and_its_link_confirms(
    context: BrowserContext, service: Service, user: str
) -> None:
    contact = {"email": f"{user}@example.org"}
    assert service.http.put(f"/v1/users/{user}/contacts", json=contact).status_code == 200
    [event_id] = service.emit(user, "agent_completed")
    page = await dashboard(context, service, f"&event={event_id}")
    await page.locator("#sent summary").click()
    mail = page.locator("#sent iframe").content_frame
    async with context.expect_page() as opened:
        await mail.locator("a").first.click()
    confirmation = await opened.value
    assert service.event(event_id)["confirmations"] == []  # opening the link confirms nothing
    await confirmation.get_by_role("button").click()
    await page.locator("#way .confirmation").first.wait_for(state="attached")
    assert service.event(event_id)["confirmations"][0]["channel"] == "email"


async def test_replaying_one_event_asks_first(
    context: BrowserContext, service: Service, user: str
) -> None:
    event_id = await dead_event(service, user)
    page = await dashboard(context, service, f"&event={event_id}")
    await page.locator("#replay").click()
    await page.locator("#ask-no").click()
    assert service.event(event_id)["generation"] == 1
    await page.locator("#replay").click()
    await page.locator("#ask-yes").click()
    await page.get_by_text("Replayed: the event starts anew.").wait_for()
    assert service.event(event_id)["generation"] == 2


async def test_replaying_a_filter_says_how_many_first(
    context: BrowserContext, service: Service, user: str
) -> None:
    ids = service.emit(user, "auth_failed", "auth_failed")
    await until("both are dead", lambda: {service.state(id_) for id_ in ids} == {"dead"})
    page = await dashboard(context, service, f"&state=dead&user_id={user}")
    await page.locator("#replay-all").click()
    await expect(page.locator("#ask-title")).to_have_text("Replay 2 events?")
    await page.locator("#ask-yes").click()
    await page.get_by_text("2 replayed.").wait_for()
    assert [service.event(event_id)["generation"] for event_id in ids] == [2, 2]


async def test_a_token_that_may_only_read_sees_no_replay(
    context: BrowserContext, service: Service, user: str
) -> None:
    event_id = await dead_event(service, user)
    claims = {"sub": "reader", "scope": "read", "exp": 4_000_000_000}
    token = jwt.encode(claims, service.secret, algorithm="HS256")
    page = await context.new_page()
    await page.goto(f"{service.url}/#token={token}&event={event_id}&state=dead&user_id={user}")
    await page.locator("#way svg").wait_for()
    assert not await page.locator("#replay").is_visible()
    assert not await page.locator("#replay-all").is_visible()


async def test_a_wrong_token_leads_back_to_the_door_with_a_reason(
    context: BrowserContext, service: Service
) -> None:
    page = await context.new_page()
    await page.goto(f"{service.url}/")
    await page.get_by_role("textbox", name="Token").fill("not.a.token")
    await page.keyboard.press("Enter")
    await page.locator("#gate-error:not(:empty)").wait_for()


async def test_the_page_is_worked_by_keyboard(
    context: BrowserContext, service: Service, user: str
) -> None:
    service.emit(user, "note")
    page = await dashboard(context, service, f"&user_id={user}")
    event = page.locator("#events button").first
    await event.focus()
    await page.keyboard.press("Enter")
    await page.locator("#detail").wait_for()
    assert await page.evaluate("document.activeElement.id") == "detail"
    await page.keyboard.press("Escape")
    await page.locator("#detail").wait_for(state="hidden")
    # Asked in one go: the list may be drawn anew between finding the button and looking at it.
    await page.wait_for_function(
        "document.querySelector('#events button') === document.activeElement"
    )


async def test_the_figures_light_up_when_a_condition_is_met(
    context: BrowserContext, service: Service, user: str
) -> None:
    service.emit(user, *["agent_thinking"] * 20)  # of fewer events a share says nothing
    await dead_event(service, user)
    page = await dashboard(context, service)
    assert await page.locator("#conditions li").count() == len(CONDITIONS)
    await page.locator("#conditions li.bad", has_text="fall back").wait_for()
    await page.locator("#alerts", has_text="dead").wait_for()


async def test_figures_out_of_their_limits_are_said_in_words(
    context: BrowserContext, service: Service
) -> None:
    page = await dashboard(context, service)
    ledger = SqlLedger(service.ledger_url)
    alert = page.locator("#alerts", has_text="as no receiver took it: A breaker stays open sms")

    async def is_shown() -> bool:
        # The service's own look finds nothing of the kind, and may take it back at any moment.
        ledger.alerts.watch([Condition("breaker_open", 90.0, 60.0, ("sms",))])
        return await alert.count() == 1

    try:
        await until("the alert is shown", is_shown)
    finally:
        ledger.alerts.watch([])
        ledger.close()
    await alert.wait_for(state="detached")


async def test_a_filter_stands_in_the_address_and_its_list_has_no_end(
    context: BrowserContext, service: Service, user: str
) -> None:
    service.emit(user, *["note"] * 130)
    page = await dashboard(context, service)
    await page.get_by_label("User begins").fill(user[:-2])
    await expect(page.locator("#events-count")).to_have_text("130 events match")
    await expect(page).to_have_url(re.compile(f"#user_prefix={user[:-2]}$"))
    for count in (50, 100, 130):
        await expect(page.locator("#events tr")).to_have_count(count)
        await page.locator("#events-list").evaluate("list => list.scrollTo(0, list.scrollHeight)")
    await page.reload()
    await expect(page.locator("#events-count")).to_have_text("130 events match")
    await expect(page.get_by_label("User begins")).to_have_value(user[:-2])
    await expect(page).to_have_title(re.compile(f"Events: {user[:-2]} – Delivery"))


async def test_without_the_service_no_verdict_stands_and_the_filter_is_kept(
    context: BrowserContext, service: Service, gate: Gate, user: str
) -> None:
    service.emit(user, "note")
    page = await context.new_page()
    await page.goto(f"{service.page}&user_prefix={user}".replace(service.url, gate.url))
    await expect(page.locator("#events-count")).to_have_text("1 event matches")
    await expect(page.locator("#verdict")).to_contain_text("ealthy")
    await context.route("**/v1/**", lambda route: route.abort())
    gate.cut()
    await expect(page.locator("#verdict")).to_contain_text("Not known: the service does not answer")
    await expect(page.locator("#verdict")).not_to_contain_text("ealthy")
    assert await serious_faults(page) == []
    await page.get_by_label("Run begins").fill("run-1")
    await expect(page.locator("#events-note")).to_contain_text("The filter is kept")
    await expect(page).to_have_url(re.compile(f"#user_prefix={user}&run_prefix=run-1$"))
    await context.unroute("**/v1/**")
    await expect(page.locator("#health")).to_have_text("Live", timeout=30_000)
    await expect(page.locator("#verdict")).to_contain_text("ealthy")
    await expect(page.locator("#events-count")).to_have_text("1 event matches")


async def test_a_user_and_a_run_have_pages_that_say_what_became_of_them(
    context: BrowserContext, service: Service, user: str
) -> None:
    run = f"run of {user}"
    service.emit(user, "agent_started", "tool_executing", run_id=run)
    page = await dashboard(context, service, f"&user={user}")
    await expect(page.locator("#user-away")).to_be_visible()
    await expect(page).to_have_title(re.compile(f"User {user}"))
    await page.locator("#user-test").click()
    await page.locator("#ask-yes", has_text="Send").click()
    await expect(page.locator("#user-events")).to_contain_text("dashboard.test")
    await expect(page.locator("#detail-title")).to_contain_text("dashboard.test")
    assert await serious_faults(page) == []
    await page.locator("#user-events a", has_text=run).first.click()
    await expect(page.locator("#run-verdict")).to_contain_text("The last word is tool executing")
    await expect(page.locator("#run-verdict")).to_contain_text("nobody connected")
    await expect(page.locator("#run-events tr")).to_have_count(2)
    assert await serious_faults(page) == []
    parts = await page.evaluate(
        """async () => (await import("/page.js"))
            .sentence("Held back until 2026-01-02T03:04:05Z, so.")
            .map((part) => (part instanceof Element ? part.outerHTML : part))"""
    )
    assert parts[0::2] == ["Held back until ", ", so."]
    assert parts[1].startswith('<time datetime="2026-01-02T03:04:05Z"')
    assert "T03" not in parts[1].partition(">")[2], "as the page shows all other instants"


@pytest.mark.timeout(180)  # it looks at every view in four shapes
async def test_axe_finds_no_serious_fault_and_nothing_overflows(
    context: BrowserContext, service: Service, user: str
) -> None:
    [event_id] = service.emit(user, "agent_started")
    page = await dashboard(context, service, f"&event={event_id}")
    await page.locator("#way svg").wait_for()
    for width, height in (DESKTOP, PHONE):
        await page.set_viewport_size({"width": width, "height": height})
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        for scheme in SCHEMES:
            await page.emulate_media(color_scheme=scheme)
            assert await serious_faults(page) == [], (width, scheme)
        # Where an event stands is seen without scrolling sideways.
        state = await page.locator("#events .tag").first.bounding_box()
        assert state is not None
        assert state["x"] + state["width"] <= width


async def test_the_policy_blocks_inline_script_and_data_stays_text(
    context: BrowserContext, service: Service, user: str
) -> None:
    evil = "<img src=x onerror='window.hacked = true'><script>window.hacked = true</script>"
    [event_id] = service.emit(user, "note", data={"text": evil})
    page = await dashboard(context, service, f"&event={event_id}")
    await page.get_by_text("onerror").wait_for()
    assert json.loads(await page.locator("#detail-data").inner_text())["text"] == evil
    blocked = await page.evaluate("""() => new Promise((resolve) => {
        document.addEventListener("securitypolicyviolation", (event) =>
            resolve(event.effectiveDirective));
        const script = document.createElement("script");
        script.textContent = "window.hacked = true";
        document.head.append(script);
        const image = document.createElement("div");
        image.innerHTML = "<img src=x onerror='window.hacked = true'>";
        document.body.append(image); })""")
    assert blocked.startswith("script-src")
    assert await page.evaluate("window.hacked") is None


async def test_suppressed_addresses_are_shown_and_can_be_allowed_again(
    context: BrowserContext, service: Service, user: str
) -> None:
    address = f"{user}@example.org"
    ledger = SqlLedger(service.ledger_url)
    ledger.suppressions.add("email", address, Suppress.HARD_BOUNCE, provider="ses", code="5.1.1")
    page = await dashboard(context, service)
    row = page.locator("#suppressed tr", has_text=address)
    await expect(row).to_contain_text("hard bounce")
    await expect(row).to_contain_text("5.1.1")
    assert await serious_faults(page) == []
    await row.get_by_role("button").click()
    await page.locator("#ask-yes", has_text="Allow").click()
    await expect(page.locator("#suppressed-note")).to_contain_text("gets messages again")
    await expect(row).to_have_count(0)
    assert ledger.suppressions.page()[0] == []
    ledger.close()


async def test_webhooks_are_shown_with_their_last_error_and_switched(
    context: BrowserContext, service: Service
) -> None:
    ledger = SqlLedger(service.ledger_url)
    ledger.webhooks.register(["shop"])
    ledger.webhooks.describe([Endpoint("shop", "https://shop.example.org/hooks", b"k" * 32)])
    page = await dashboard(context, service)
    row = page.locator("#webhooks tr", has_text="shop")
    await expect(row).to_contain_text("https://shop.example.org/hooks")
    assert await serious_faults(page) == []
    await row.get_by_role("button", name="Switch off: shop").click()
    await page.locator("#ask-yes", has_text="Switch off").click()
    await expect(row).to_contain_text("switched off by an operator")
    assert ledger.webhooks.off() == ["shop"]
    await row.get_by_role("button", name="Switch on: shop").click()
    await page.locator("#ask-yes", has_text="Switch on").click()
    await expect(page.locator("#webhooks-note")).to_have_text("shop is on.")
    await row.get_by_role("button", name="Replay a day: shop").click()
    await page.locator("#ask-yes", has_text="Replay").click()
    await expect(page.locator("#webhooks-note")).to_contain_text("told again")
    ledger.close()


async def test_an_outage_is_a_sentence_above_the_conditions(
    context: BrowserContext, tmp_path: Path
) -> None:
    with (
        servers.redis_server() as redis,
        serving(tmp_path, settings={"REDIS_URL": redis.url}) as service,
    ):
        page = await dashboard(context, service)
        outages = page.locator("#outages p")
        await expect(outages).to_have_count(0)
        redis.kill()
        await expect(outages.filter(has_text="the bus is deaf")).to_be_visible(timeout=30_000)
        await expect(outages.filter(has_text="since")).not_to_have_count(0)
        assert await serious_faults(page) == []
        redis.restart()
        await expect(outages).to_have_count(0, timeout=30_000)
