"""Story 2: the laptop is closed. The chain goes its way, one mail tells it all, a click ends it."""

from __future__ import annotations

import asyncio
import re

import httpx

from tests.acceptance.conftest import Service, Start
from tests.wire import eventually

EMAIL, PHONE = "ada@example.org", "+4915112345678"


def confirm_link(service: Service, text: str) -> str:
    found = re.search(re.escape(service.url) + r"/confirm/[\w.~=-]+", text)
    assert found, text
    return found.group()


async def sent_by_mail_and_sms(service: Service, ids: list[str]) -> None:
    last = ids[-1]
    await eventually(
        lambda: service.outcomes(last), lambda seen: ("sms", "delivered") in seen, timeout=30
    )


async def test_the_chain_escalates_in_order_to_one_mail_and_one_sms(start: Start) -> None:
    service = start()
    service.contact("ada", email=EMAIL, phone=PHONE)
    ids = await asyncio.to_thread(service.emit, "ada", "run-1")
    await sent_by_mail_and_sms(service, ids)
    channels = [channel for channel, _ in service.outcomes(ids[-1])]
    order = list(dict.fromkeys(channels))
    assert order == ["websocket", "database", "queue", "direct", "emergency", "email", "sms"]
    assert channels.count("direct") == 2, "it was tried again"
    outcomes = dict(service.outcomes(ids[-1]))
    assert outcomes == {
        "websocket": "failed",
        "database": "delivered",
        "queue": "delivered",
        "direct": "failed",
        "emergency": "skipped",
        "email": "delivered",
        "sms": "delivered",
    }
    # One mail for all five: the four others ride along.
    (mail,) = service.inbox("email", EMAIL)
    (sms,) = service.inbox("sms", PHONE)
    digests = {
        a["digest_id"]
        for i in ids
        for a in service.event(i)["attempts"]
        if a["channel"] == "email" and a["outcome"] == "delivered"
    }
    assert len(digests) == 1
    assert all(("email", "delivered") in service.outcomes(event_id) for event_id in ids)
    assert confirm_link(service, mail["text"])
    assert sms["text"]


async def test_the_links_button_confirms_what_the_mail_listed_and_cancels_the_rest(
    start: Start,
) -> None:
    service = start(alert_after=20.0)
    service.contact("ada", email=EMAIL, phone=PHONE)
    ids = await asyncio.to_thread(service.emit, "ada", "run-1")
    await sent_by_mail_and_sms(service, ids)
    (mail,) = service.inbox("email", EMAIL)
    link = confirm_link(service, mail["text"])

    opened = await asyncio.to_thread(httpx.get, link)
    assert opened.status_code == 200
    assert "<form" in opened.text
    assert "confirmed" not in service.states(ids), "a mail scanner opens links, too"

    pressed = await asyncio.to_thread(httpx.post, link)
    assert pressed.status_code == 200
    assert service.states(ids) == ["confirmed"] * 5
    again = await asyncio.to_thread(httpx.post, link)
    assert again.status_code == 200
    for event_id in ids:
        event = service.event(event_id)
        assert (event["due_at"], event["step"]) == (None, None)
        (confirmation,) = event["confirmations"]
        assert (confirmation["channel"], confirmation["by"]) == ("email", "ada")
        assert confirmation["evidence"].startswith("link:")
    assert service.http.get("/v1/stats").json()["alerts"] == []


async def test_a_user_without_addresses_is_skipped_over_and_not_failed(start: Start) -> None:
    service = start(alert_after=0.2)
    ids = await asyncio.to_thread(service.emit, "nobody", "run-1", ("agent_completed",))
    await eventually(lambda: service.states(ids), lambda states: states == ["dead"], timeout=30)
    outcomes = dict(service.outcomes(ids[0]))
    assert outcomes["emergency"] == outcomes["email"] == outcomes["sms"] == "skipped"
    assert outcomes["alert"] == "skipped"  # no receiver
