"""What operators ask: figures over time, who is connected, what a user is owed."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from delivery.domain.lifecycle import Outcome, State
from delivery.domain.node_messages import ConnectionInfo
from delivery.domain.operators.history import Point
from delivery.domain.records import Rendered
from delivery.domain.users.contact import Contact
from delivery.domain.webhooks.endpoints import Endpoint
from delivery.domain.webhooks.messages import WebhookAnswer
from delivery.tasks.history import HistoryRecorder
from delivery.testing import make_id
from tests.integration.http_api_standins import (
    CLIENT,
    EMIT,
    EVERYTHING,
    NOW,
    OPERATE,
    OTHER,
    READ,
    Client,
    World,
)

LIVE = ConnectionInfo(
    node="n1",
    user="u1",
    id="c1",
    device="phone",
    transport="websocket",
    since=NOW.timestamp(),
    health=99,
)
RANGE = {"from": "2026-01-31T11:00:00Z", "to": "2026-01-31T13:00:00Z"}


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


@pytest.fixture
async def client(world: World) -> AsyncIterator[Client]:
    async with world.client() as client:
        yield client


async def answer(client: Client, path: str, headers: dict[str, str], **query: str) -> Any:
    response = await client.get(path, params=query, headers=headers)
    assert response.status == 200, await response.text()
    return await response.json()


def minute(number: int, events: int, rate: float | None) -> Point:
    at = NOW + timedelta(minutes=number)
    return Point(at, events, rate, rate, rate, rate, number, number, number)


async def test_figures_come_by_minute_and_hour_and_gaps_stay(client: Client, world: World) -> None:
    for point in (minute(-61, 4, 0.5), minute(0, 3, 1.0), minute(1, 1, 0.0), minute(5, 0, None)):
        world.ledger.history.record(point)
    minutes = (await answer(client, "/v1/history", READ, step="minute", **RANGE))["points"]
    assert [one["at"][11:16] for one in minutes] == ["12:00", "12:01", "12:05"]
    hours = await answer(client, "/v1/history", READ, step="3600", **RANGE)
    [hour] = hours["points"]
    assert (hour["events"], hour["delivery_rate"], hour["ack_ms"]["p99"]) == (4, 0.75, 1.0)
    assert (hour["connections"], hour["dead"], hours["step"]) == (5, 5, 3_600)
    chosen = await answer(client, "/v1/history", READ, **RANGE)
    assert chosen["step"] == 60
    five = (await answer(client, "/v1/history", READ, step="300", **RANGE))["points"]
    assert [one["events"] for one in five] == [4, 0]
    world.ledger.history.record(minute(31 * 1_440, 1, 1.0))
    assert (await answer(client, "/v1/history", READ, step="minute", **RANGE))["points"] == []


async def test_a_worker_records_the_minute_before_once(client: Client, world: World) -> None:
    world.ledger.figures = world.ledger.statistics.figures
    recorder = HistoryRecorder(world.ledger)
    recorder.look()
    recorder.look()
    [point] = world.ledger.history.read(60, NOW - timedelta(hours=1), NOW)
    assert (point.at, point.events, point.open_breakers) == (NOW - timedelta(minutes=1), 750, 1)
    world.ledger.figures = replace(world.ledger.figures, events_per_s=0.0)
    HistoryRecorder(world.ledger).look()  # of a worker that starts later: the first figures stand
    assert world.ledger.history.read(60, NOW - timedelta(hours=1), NOW) == [point]
    world.ledger.advance(105)
    recorder.look()  # these would be the figures of another minute
    assert len(world.ledger.history.read(60, NOW - timedelta(hours=1), world.ledger.now())) == 1
    world.ledger.advance(15)
    world.ledger.go_away()
    recorder.look()  # a gap, and no error
    world.ledger.come_back()
    assert len(world.ledger.history.read(60, NOW - timedelta(hours=1), NOW)) == 1


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"step": "61"}, "step"),
        ({"step": "0"}, "step"),
        ({"step": "day"}, "step"),
        ({"step": "minute", "from": "2026-01-01T00:00:00Z"}, "step"),
        ({"from": "soon"}, "from"),
        ({"from": "2026-02-01T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "from"),
        ({"from": "0001-01-01T00:00:00Z"}, "from"),
        ({"to": "0001-01-01T00:00:00Z"}, "to"),
        ({"since": "2026-01-01T00:00:00Z"}, "since"),
    ],
)
async def test_a_wrong_range_is_422_and_named(
    client: Client, query: dict[str, str], field: str
) -> None:
    response = await client.get("/v1/history", params=query, headers=READ)
    assert response.status == 422
    assert (await response.json())["field"] == field


async def test_a_user_is_shown_with_connections_contact_and_events(
    client: Client, world: World
) -> None:
    world.live = [LIVE, ConnectionInfo(node="n2", user="u1"), ConnectionInfo(node="n2", user="u2")]
    world.ledger.add(*range(1, 31), state=State.DEAD)
    world.ledger.add(31, state=State.CONFIRMED)
    push = ("ntfy://secret-topic",)
    world.ledger.contacts.put(
        Contact("u1", email="ada@example.org", phone="+491701234567", push=push)
    )
    user = await answer(client, "/v1/users/u1", READ)
    assert user["open"] == {"dead": 30}
    assert [len(user["events"]), user["events"][0]["id"]] == [20, make_id(31)]
    assert [(one["node"], one["device"], one["health"]) for one in user["connections"]] == [
        ("n1", "phone", 99),
        ("n2", None, None),
    ]
    assert user["connections"][0]["since"] == "2026-01-31T12:00:00Z"
    assert user["contact"]["email"] == "a…@example.org"
    assert (user["contact"]["phone"], user["contact"]["push"]) == ("+49…67", ["ntfy://…"])
    for headers in (EVERYTHING, CLIENT):
        own = await answer(client, "/v1/users/u1", headers)
        assert own["contact"]["email"] == "ada@example.org"
    nothing = await answer(client, "/v1/users/stranger", READ)
    assert nothing == {
        "user_id": "stranger",
        "connections": [],
        "contact": None,
        "open": {},
        "events": [],
    }


async def test_a_message_is_shown_as_it_was_sent(client: Client, world: World) -> None:
    world.ledger.add(1)
    digest_id = world.ledger.send("email", 1)
    mail = Rendered("Done", "See https://x/confirm/secret.token", "<head></head><b>Done</b>")
    world.ledger.sent_messages.keep(digest_id, "u1", "email", "ada@example.org", 1, mail)
    path = f"/v1/events/{make_id(1)}/messages"
    [told] = (await answer(client, path, READ))["messages"]
    assert (told["to"], told["subject"], told["number"]) == ("a…@example.org", "Done", 1)
    assert told["text"] == "See https://x/confirm/…"
    [told] = (await answer(client, path, EVERYTHING))["messages"]
    assert told["to"] == "ada@example.org"
    page = await client.get(f"/{told['view']}", headers=READ)
    assert "<b>Done</b>" in await page.text()
    assert "sandbox" in page.headers["Content-Security-Policy"]
    for path in ("/v1/messages/999", "/v1/messages/x", f"/v1/messages/{'9' * 30}"):
        assert (await client.get(path, headers=READ)).status == 404
    assert await answer(client, f"/v1/events/{make_id(2)}/messages", READ) == {"messages": []}


async def test_connections_are_listed(client: Client, world: World) -> None:
    world.live = [LIVE]
    page = await answer(client, "/v1/connections", READ, limit="10")
    assert ([one["id"] for one in page["connections"]], page["next"]) == (["c1"], None)
    assert page["total"] == 3
    response = await client.get("/v1/connections", params={"after": "x" * 601}, headers=READ)
    assert response.status == 422


async def test_scopes_deny_first(client: Client) -> None:
    for path, allowed in (
        ("/v1/history", (READ,)),
        ("/v1/connections", (READ,)),
        ("/v1/users/u1", (READ, CLIENT)),
        (f"/v1/events/{make_id(1)}/messages", (READ,)),
        ("/v1/messages/1", ()),
    ):
        for headers in (CLIENT, OTHER, EMIT, OPERATE, READ, {}):
            status = (await client.get(path, headers=headers)).status
            if path == "/v1/messages/1" and headers is READ:
                assert status == 404
                continue
            assert status == (200 if headers in allowed else 403 if headers else 401), path


HOOK = Endpoint("app", "https://app.example.org/hooks/as-good-as-a-password?key=1", b"k" * 32)


def failed_at(world: World, now: Endpoint) -> None:
    """One outcome, whose message the endpoint refused."""
    store = world.ledger.webhooks
    store.follow(now, timedelta(days=1))
    lease = store.lease(now.name, 60.0)
    assert lease is not None
    [message] = store.due(lease, 10)
    assert store.begin(lease, [message])
    store.end(lease, message, WebhookAnswer(Outcome.FAILED, 500, "500: no"), 0.0)
    store.release(lease)


async def test_webhooks_are_listed_with_what_failed_and_their_url_as_far_as_it_may_be_seen(
    client: Client, world: World
) -> None:
    assert await answer(client, "/v1/webhooks", READ) == {"webhooks": []}
    store = world.ledger.webhooks
    store.register(["app"])
    [unknown] = (await answer(client, "/v1/webhooks", READ))["webhooks"]
    assert (unknown["url"], unknown["state"]) == (None, "on")
    store.describe([HOOK])
    world.ledger.add(1)
    world.ledger.confirm(1)
    failed_at(world, HOOK)
    [listed] = (await answer(client, "/v1/webhooks", READ))["webhooks"]
    assert listed["url"] == "https://app.example.org/…"
    assert (listed["waiting"], listed["last_error"]) == (1, "500: no")
    assert listed["last_error_at"] == listed["failing_since"]
    shown = await answer(client, "/v1/webhooks/app", EVERYTHING)
    assert shown["url"] == "https://app.example.org/hooks/as-good-as-a-password"
    [message] = shown["messages"]
    assert message["id"] == f"msg_{make_id(1)}_1_confirmed"
    assert [one["status"] for one in message["attempts"]] == [500]
    assert (await client.get("/v1/webhooks/apq", headers=READ)).status == 404
    for headers in (CLIENT, EMIT, OPERATE):
        assert (await client.get("/v1/webhooks", headers=headers)).status == 403


async def test_a_webhook_is_switched_and_told_again_by_its_operator_alone(
    client: Client, world: World
) -> None:
    async def post(act: str, body: Any = None, status: int = 200) -> Any:
        response = await client.post(f"/v1/webhooks/app/{act}", json=body, headers=EVERYTHING)
        assert response.status == status, await response.text()
        return await response.json()

    store = world.ledger.webhooks
    store.register(["app"])
    since = {"since": "2026-01-01T00:00:00Z"}
    assert "no worker has told" in (await post("replay", since, 422))["detail"]
    store.describe([HOOK])
    assert (await post("disable", {}))["state"] == "off"
    assert store.off() == ["app"]
    world.ledger.add(1)
    world.ledger.confirm(1)
    assert (await post("enable"))["off_since"] is not None
    assert (await post("enable"))["off_since"] is None
    assert store.off() == []
    told = await post("replay", since, 202)
    assert (told["messages"], told["next"], told["state"]) == (1, None, "on")
    assert [row.state for row in store.messages("app")] == ["pending"]
    assert (await post("replay", {}, 422))["field"] == "since"
    for act in ("enable", "disable", "replay"):
        for headers in (CLIENT, READ):
            refused = await client.post(f"/v1/webhooks/app/{act}", json=since, headers=headers)
            assert refused.status == 403
        unknown = await client.post(f"/v1/webhooks/x/{act}", json=since, headers=EVERYTHING)
        assert unknown.status == (404 if act == "replay" else 422)
