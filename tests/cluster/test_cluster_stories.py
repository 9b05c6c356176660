"""The stories of the pipeline, told by a cluster: live, away, never confirmed."""

from __future__ import annotations

import asyncio
import re
from datetime import datetime

import httpx
import pytest

from delivery.domain.event import AGENT_TYPES
from tests.cluster.conftest import Cluster, report_text
from tests.wire import eventually, listening

LIMIT = 40.0


async def test_live_events_are_confirmed_with_who_what_and_when(cluster: Cluster) -> None:
    async with listening(cluster.gateways[1].url, cluster.token("ada"), device="laptop") as page:
        ids = await asyncio.to_thread(cluster.emit, "ada", "run-1", gateway=0)
        events = await page.receive(5)
        assert [event["id"] for event in events] == ids
        assert [event["seq"] for event in events] == [1, 2, 3, 4, 5]
        assert [event["type"] for event in events] == list(AGENT_TYPES)
        await eventually(lambda: cluster.states(ids), lambda states: states == ["confirmed"] * 5)
    for event_id in ids:
        event = cluster.event(event_id)
        (confirmation,) = event["confirmations"]
        assert (confirmation["channel"], confirmation["by"]) == ("websocket", "laptop")
        assert confirmation["evidence"]
        assert datetime.fromisoformat(confirmation["at"]) >= datetime.fromisoformat(event["at"])
        assert (event["due_at"], event["step"]) == (None, None)
        assert {attempt["channel"] for attempt in event["attempts"]} <= {"websocket"}


async def test_away_the_chain_goes_its_way_to_one_mail_and_one_text(cluster: Cluster) -> None:
    cluster.contact("bob", email="bob@example.org", phone="+4915100000001")
    ids = await asyncio.to_thread(cluster.emit, "bob", "run-1")
    seen = await eventually(
        lambda: cluster.outcomes(ids[-1]), lambda seen: ("sms", "delivered") in seen, LIMIT
    )
    order = list(dict.fromkeys(channel for channel, _ in seen))
    assert order == ["websocket", "database", "queue", "direct", "emergency", "email", "sms"]
    assert [channel for channel, _ in seen].count("direct") == 2, "it was tried again"
    assert dict(seen) == {
        "websocket": "failed",
        "database": "delivered",
        "queue": "delivered",
        "direct": "failed",
        "emergency": "skipped",
        "email": "delivered",
        "sms": "delivered",
    }
    (mail,) = cluster.mails_to("bob@example.org")
    assert len(cluster.texts_to("+4915100000001")) == 1
    assert all(("email", "delivered") in cluster.outcomes(event_id) for event_id in ids)

    link = re.search(re.escape(cluster.settings["PUBLIC_URL"]) + r"/confirm/[\w.~=-]+", mail)
    assert link, mail
    opened = await asyncio.to_thread(httpx.get, link.group())
    assert opened.status_code == 200
    assert "confirmed" not in cluster.states(ids), "mail scanners open links, too"
    pressed = await asyncio.to_thread(httpx.post, link.group())
    assert pressed.status_code == 200
    assert cluster.states(ids) == ["confirmed"] * 5
    for event_id in ids:
        event = cluster.event(event_id)
        assert (event["due_at"], event["step"]) == (None, None), "the rest is cancelled"
        assert event["confirmations"][0]["evidence"].startswith("link:")


async def test_the_providers_signed_receipt_confirms_and_a_forged_one_does_not(
    cluster: Cluster,
) -> None:
    cluster.contact("cleo", phone="+4915100000002")
    ids = await asyncio.to_thread(cluster.emit, "cleo", "run-1", ("agent_completed",))
    (text,) = await eventually(lambda: cluster.texts_to("+4915100000002"), len, LIMIT)
    await eventually(
        lambda: cluster.outcomes(ids[0]), lambda seen: ("sms", "delivered") in seen, LIMIT
    )
    (sms,) = [a for a in cluster.event(ids[0])["attempts"] if a["channel"] == "sms"]
    callback, sid = text["StatusCallback"], sms["provider_id"]
    assert callback.startswith(cluster.settings["PUBLIC_URL"])

    def report(status: str, token: str | None = None) -> int:
        extra = {} if token is None else {"token": token}
        return report_text(callback, sid, status, **extra).status_code

    assert await asyncio.to_thread(report, "delivered", "forged") == 403
    assert await asyncio.to_thread(report, "sent") == 204
    assert cluster.states(ids) != ["confirmed"], "sent is not delivered"
    assert await asyncio.to_thread(report, "delivered") == 204
    await eventually(lambda: cluster.states(ids), lambda states: states == ["confirmed"])
    (confirmation,) = cluster.event(ids[0])["confirmations"]
    assert (confirmation["channel"], confirmation["evidence"]) == ("sms", f"receipt:{sid}")


async def test_coming_back_midway_delivers_what_was_missed_and_stops_the_chain(
    cluster: Cluster,
) -> None:
    cluster.contact("dora", email="dora@example.org")
    types = ("agent_started", "agent_thinking")  # these open no mail by themselves
    ids = await asyncio.to_thread(cluster.emit, "dora", "run-1", types)
    await eventually(
        lambda: cluster.outcomes(ids[-1]), lambda seen: ("queue", "delivered") in seen, LIMIT
    )
    async with listening(cluster.gateways[1].url, cluster.token("dora")) as page:
        await page.receive(2)
        assert list(dict.fromkeys(page.ids)) == ids
        await eventually(lambda: cluster.states(ids), lambda states: states == ["confirmed"] * 2)
    assert cluster.mails_to("dora@example.org") == []


async def test_an_unconfirmed_event_ends_dead_with_one_alert_and_can_be_replayed(
    cluster: Cluster,
) -> None:
    ids = await asyncio.to_thread(cluster.emit, "nobody", "run-1")
    await eventually(lambda: cluster.states(ids), lambda states: states == ["dead"] * 5, LIMIT)
    for event_id in ids:
        seen = dict(cluster.outcomes(event_id))
        assert seen["email"] == seen["sms"] == seen["emergency"] == "skipped"
        assert seen["alert"] == "delivered"
    labels = {str(sorted(alert["labels"].items())) for alert in cluster.alerts()}
    assert len(labels) == 1, "one group, however many events"

    def replay(event_id: str) -> httpx.Response:
        return cluster.http().post(f"/v1/events/{event_id}/replay", json={})

    async with listening(cluster.gateways[1].url, cluster.token("nobody"), acks=False) as page:
        await page.receive(5)  # unconfirmed is unconfirmed, dead or not
        answer = await asyncio.to_thread(replay, ids[0])
        assert (answer.status_code, answer.json()) == (202, {"id": ids[0], "state": "accepted"})
        await page.until(lambda: page.ids.count(ids[0]) >= 2)
        await page.send({"type": "ack", "ids": ids})
        await eventually(lambda: cluster.states(ids), lambda states: states == ["confirmed"] * 5)
    assert cluster.event(ids[0])["generation"] == 2
    assert (await asyncio.to_thread(replay, ids[0])).status_code == 409


@pytest.mark.parametrize("gateway", [0, 1])
async def test_any_gateway_tells_the_whole_story(cluster: Cluster, gateway: int) -> None:
    ids = await asyncio.to_thread(cluster.emit, "eve", "run-1", ("agent_started",), gateway=gateway)
    answer = cluster.http(1 - gateway).get(f"/v1/events/{ids[0]}")
    assert answer.status_code == 200
    assert answer.json()["user_id"] == "eve"
