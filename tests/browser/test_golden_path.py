"""From the sign-in to the answer in the page, then the same with the line cut midway."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Browser, Page

import delivery
from delivery.domain.event import AGENT_TYPES, AUTH_TYPES
from tests.browser.gate import Gate
from tests.processes import SECRET
from tests.waiting import WORKER_TIMEOUT, until

EXAMPLE = Path(__file__).parents[2] / "examples" / "golden_path.py"
STARTED, VALIDATING, COMPLETED, FAILED = AUTH_TYPES

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.timeout(240),
]


@pytest_asyncio.fixture(loop_scope="session")
async def example(tmp_path: Path) -> AsyncIterator[ModuleType]:
    """The example, served in this process; ``example.port`` is where."""
    with pytest.MonkeyPatch.context() as settings:
        settings.setenv("DELIVERY_DATA_DIR", str(tmp_path))
        settings.setenv("DELIVERY_JWT_SECRET", SECRET)
        spec = importlib.util.spec_from_file_location("golden_path", EXAMPLE)
        assert spec is not None
        assert spec.loader is not None
        module: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    runner = web.AppRunner(module.app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    module.port = runner.addresses[0][1]
    yield module
    await runner.cleanup()


async def sign_in(page: Page, password: str, then: str) -> None:
    await page.get_by_label("Password").fill(password)
    await page.get_by_role("button", name="Sign in").click()
    await page.locator("#state", has_text=then).wait_for()


async def shown(page: Page, prefix: str) -> list[tuple[str, str]]:
    """The id and the type of each call of the page's handler, for runs of this prefix."""
    found: list[list[str]] = await page.evaluate(
        "(prefix) => [...document.querySelectorAll('#events li')]"
        ".filter((li) => li.dataset.run.startsWith(prefix))"
        ".map((li) => [li.dataset.id, li.textContent])",
        prefix,
    )
    return [(one, type) for one, type in found]


async def recorded(port: int) -> dict[str, dict[str, Any]]:
    """The events in the ledger by id, oldest first."""
    token = delivery.issue_token("reader", SECRET, scope="read")
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}) as http:
        url = f"http://127.0.0.1:{port}/v1/events"
        answer = await http.get(url, params={"user_id": "ada", "limit": "1000"})
    assert answer.status_code == 200, answer.text
    return {event["id"]: event for event in reversed(answer.json()["events"])}


async def test_a_sign_in_a_run_and_its_answer_then_the_same_with_the_line_cut(
    browser: Browser, example: ModuleType
) -> None:
    async with Gate(example.port) as gate:  # type: ignore[attr-defined]
        context = await browser.new_context()
        context.set_default_timeout(WORKER_TIMEOUT * 1_000)
        page = await context.new_page()
        await page.goto(gate.url)
        await sign_in(page, "a wrong one", "wrong name or password")
        await sign_in(page, "lovelace", "connected")
        await page.get_by_role("button", name="Ask").click()
        await page.locator("#answer", has_text="The answer is 42.").wait_for()
        assert [type for _, type in await shown(page, "run-")] == list(AGENT_TYPES)
        signed_in = [type for _, type in await shown(page, "sign-in-")]
        assert signed_in == [STARTED, VALIDATING, FAILED, STARTED, VALIDATING, COMPLETED]
        await page.locator("#monitor", has_text="the page answered").wait_for()
        assert "answered 0" not in await page.locator("#monitor").inner_text()

        await cut_midway(page, gate, example)
        await context.close()


async def cut_midway(page: Page, gate: Gate, example: ModuleType) -> None:
    """The line is cut while the tool works, and back once the agent is done."""
    is_cut = asyncio.Event()

    async def search(question: str) -> dict[str, str]:
        await is_cut.wait()
        return {"answer": "43"}

    example.search = search  # type: ignore[attr-defined]
    await page.get_by_role("button", name="Ask").click()
    await page.locator("#events li", has_text="tool_executing").nth(1).wait_for()
    await page.context.set_offline(True)
    gate.cut()
    await page.locator("#state", has_text="offline").wait_for()
    is_cut.set()
    await until(lambda: not example.work, WORKER_TIMEOUT)
    agent = [one for one in (await recorded(example.port)).values() if one.get("thread_id")]
    assert [one["type"] for one in agent] == [*AGENT_TYPES, *AGENT_TYPES]
    seen = [type for _, type in await shown(page, "run-")]
    assert seen == [*AGENT_TYPES, *AGENT_TYPES[:3]], "what came later waits in the ledger"

    await page.context.set_offline(False)
    await page.locator("#answer", has_text="The answer is 43.").wait_for()
    handled = await shown(page, "run-")
    assert [one for one, _ in handled] == [one["id"] for one in agent], "each once, in order"

    async def all_are_confirmed() -> bool:
        states = {one["state"] for one in (await recorded(example.port)).values()}
        return states == {"confirmed"}

    await until(all_are_confirmed, WORKER_TIMEOUT)
