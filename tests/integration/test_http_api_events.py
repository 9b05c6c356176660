"""Events over a real server: accepting, showing, listing, replaying, acknowledging."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import pytest

from delivery.api import requests
from delivery.api.problems import CONTENT_TYPE
from delivery.domain.event import EventClass
from delivery.domain.lifecycle import Outcome, State
from delivery.domain.ports import Accepted
from delivery.errors import (
    IdConflict,
    InvalidContext,
    InvalidEvent,
    LedgerUnavailable,
    Overloaded,
    PayloadTooLarge,
    SpoolFull,
)
from delivery.ledger.sql.memory import OUTAGE
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
    bearer,
)

EVENT = {"type": "note", "user_id": "u1", "run_id": "r1"}


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


@pytest.fixture
async def client(world: World) -> AsyncIterator[Client]:
    async with world.client() as client:
        yield client


async def problem(response: Any, status: int, slug: str) -> dict[str, Any]:
    assert response.status == status, await response.text()
    assert response.content_type == CONTENT_TYPE
    document: dict[str, Any] = json.loads(await response.read())
    assert document["type"] == f"/problems/{slug}"
    assert document["status"] == status
    assert document["title"]
    assert document["detail"]
    return document


# ---- accepting


async def test_one_event_is_accepted(client: Client, world: World) -> None:
    response = await client.post("/v1/events", json=EVENT, headers=EMIT)
    assert response.status == 202
    assert await response.json() == {
        "accepted": [{"index": 0, "id": make_id(0), "seq": 1, "duplicate": False, "durable": True}],
        "rejected": [],
    }
    assert world.intake.items == [EVENT]


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", ""])
async def test_json_is_json_whatever_it_is_called(
    client: Client, world: World, content_type: str
) -> None:
    headers = EMIT | {"Content-Type": content_type}
    response = await client.post("/v1/events", data=json.dumps(EVENT), headers=headers)
    assert response.status == 202
    assert world.intake.items == [EVENT]


async def test_a_batch_keeps_its_order(client: Client, world: World) -> None:
    events = [EVENT | {"run_id": f"r{n}"} for n in range(1_000)]
    response = await client.post("/v1/events", json={"events": events}, headers=EMIT)
    assert response.status == 202
    assert [a["index"] for a in (await response.json())["accepted"]] == list(range(1_000))
    assert world.intake.items == events


async def test_lines_of_json_are_a_batch(client: Client, world: World) -> None:
    body = b'{"type":"a"}\n\n{"type":"b"}\r\n'
    headers = EMIT | {"Content-Type": "application/x-ndjson; charset=utf-8"}
    response = await client.post("/v1/events", data=body, headers=headers)
    assert response.status == 202
    assert world.intake.items == [{"type": "a"}, {"type": "b"}]


async def test_a_batch_in_part_accepted_names_both_parts(client: Client, world: World) -> None:
    world.intake.answers = [
        Accepted(make_id(1), 1, True, True),
        InvalidEvent("type is missing", field="type"),
        Accepted(make_id(3), None, False, False),
    ]
    response = await client.post("/v1/events", json={"events": [EVENT] * 3}, headers=EMIT)
    assert response.status == 202
    answer = await response.json()
    assert [(a["index"], a["duplicate"], a["durable"]) for a in answer["accepted"]] == [
        (0, True, True),
        (2, False, False),
    ]
    (rejected,) = answer["rejected"]
    assert rejected["index"] == 1
    assert rejected["error"]["type"] == "/problems/invalid-event"
    assert rejected["error"]["field"] == "type"


async def test_a_batch_of_which_nothing_was_accepted_is_422(client: Client, world: World) -> None:
    world.intake.answers = [InvalidEvent("a"), IdConflict("b")]
    response = await client.post("/v1/events", json={"events": [EVENT] * 2}, headers=EMIT)
    document = await problem(response, 422, "batch-rejected")
    assert [r["error"]["status"] for r in document["rejected"]] == [422, 409]


@pytest.mark.parametrize(
    ("error", "status", "slug"),
    [
        (InvalidEvent("unknown field 'x'", field="x"), 422, "invalid-event"),
        (InvalidContext("user_id is empty", field="user_id"), 422, "invalid-context"),
        (IdConflict("known with other content", field="id"), 409, "id-conflict"),
        (PayloadTooLarge("data is too large", field="data"), 413, "payload-too-large"),
    ],
)
async def test_a_single_event_has_its_own_status(
    client: Client, world: World, error: InvalidEvent, status: int, slug: str
) -> None:
    world.intake.answers = [error]
    response = await client.post("/v1/events", json=EVENT, headers=EMIT)
    document = await problem(response, status, slug)
    assert document["field"] == error.field
    assert "rejected" not in document


@pytest.mark.parametrize("body", [EVENT, {"events": [EVENT]}])
@pytest.mark.parametrize(
    ("error", "status", "slug", "seconds"),
    [
        (Overloaded("full", retry_after=2.5), 429, "overloaded", "3"),
        (LedgerUnavailable("hunter2"), 503, "unavailable", "2"),
        (SpoolFull("full"), 503, "spool-full", "2"),
    ],
)
async def test_what_passes_says_when_to_try_again(
    client: Client,
    world: World,
    body: dict[str, Any],
    error: Exception,
    status: int,
    slug: str,
    seconds: str,
) -> None:
    world.intake.answers = [error]
    response = await client.post("/v1/events", json=body, headers=EMIT)
    assert response.headers["Retry-After"] == seconds
    assert "hunter2" not in str(await problem(response, status, slug))


async def test_a_bug_behind_the_door_is_a_500_that_tells_nothing(
    client: Client, world: World
) -> None:
    world.intake.answers = [RuntimeError("hunter2")]
    for body in (EVENT, {"events": [EVENT]}):
        response = await client.post("/v1/events", json=body, headers=EMIT)
        assert "hunter2" not in str(await problem(response, 500, "internal"))


@pytest.mark.parametrize(
    "body",
    [b"", b"  ", b"{", b"\xff\xfe", b'{"a":NaN}', b"{} {}", b"[" * 100_000, b"type=note"],
)
async def test_what_is_not_json_is_400(client: Client, world: World, body: bytes) -> None:
    await problem(await client.post("/v1/events", data=body, headers=EMIT), 400, "not-json")
    assert world.intake.items == []


async def test_a_line_that_is_not_json_is_named_and_nothing_is_accepted(
    client: Client, world: World
) -> None:
    headers = EMIT | {"Content-Type": "application/x-ndjson"}
    response = await client.post("/v1/events", data=b"{}\n{}\n{oops\n", headers=headers)
    assert "line 3" in (await problem(response, 400, "not-json"))["detail"]
    assert world.intake.items == []


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"3",
        b'"text"',
        b"null",
        b'{"events":{}}',
        b'{"events":[]}',
        b'{"events":[{}],"more":1}',
    ],
)
async def test_json_of_another_shape_is_422(client: Client, body: bytes) -> None:
    await problem(await client.post("/v1/events", data=body, headers=EMIT), 422, "invalid-request")


async def test_more_than_a_thousand_events_are_413(client: Client, world: World) -> None:
    response = await client.post("/v1/events", json={"events": [{}] * 1_001}, headers=EMIT)
    await problem(response, 413, "payload-too-large")
    headers = EMIT | {"Content-Type": "application/x-ndjson"}
    response = await client.post("/v1/events", data=b"{}\n" * 1_001, headers=headers)
    await problem(response, 413, "payload-too-large")
    assert world.intake.items == []


async def test_a_body_over_the_limit_is_413_with_and_without_its_length(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("delivery.api.events.MAX_BODY_BYTES", 1_000)
    body = json.dumps(EVENT | {"data": {"text": "x" * 2_000}}).encode()

    async def pieces() -> AsyncIterator[bytes]:
        yield body[:500]
        yield body[500:]

    for data in (body, pieces()):
        response = await client.post("/v1/events", data=data, headers=EMIT)
        await problem(response, 413, "payload-too-large")


async def test_a_small_body_that_unpacks_to_a_large_one_is_413(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("delivery.api.events.MAX_BODY_BYTES", 100_000)
    headers = EMIT | {"Content-Encoding": "gzip"}
    response = await client.post("/v1/events", data=gzip.compress(b" " * 10**7), headers=headers)
    await problem(response, 413, "payload-too-large")


async def test_a_body_that_cannot_be_unpacked_is_400(client: Client) -> None:
    headers = EMIT | {"Content-Encoding": "gzip"}
    response = await client.post("/v1/events", data=b"no gzip", headers=headers)
    await problem(response, 400, "bad-request")


async def test_a_body_that_does_not_come_is_408(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "BODY_TIMEOUT", 0.01)
    assert client.port is not None
    reader, writer = await _raw(
        client, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n", EMIT
    )
    head = await reader.readuntil(b"\r\n")
    assert b" 408 " in head
    writer.close()
    await writer.wait_closed()


async def _raw(client: Client, head: bytes, headers: dict[str, str]) -> Any:
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    lines = b"".join(f"{name}: {value}\r\n".encode() for name, value in headers.items())
    writer.write(head + lines + b"\r\n{")
    return reader, writer


# ---- who may


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/events"),
        ("GET", "/v1/events"),
        ("GET", f"/v1/events/{make_id(1)}"),
        ("POST", f"/v1/events/{make_id(1)}/replay"),
        ("POST", "/v1/replay"),
        ("POST", "/v1/acks"),
        ("GET", "/v1/stats"),
        ("PUT", "/v1/users/u1/contacts"),
        ("GET", "/v1/users/u1/contacts"),
        ("DELETE", "/v1/users/u1/contacts"),
    ],
)
async def test_no_token_or_a_bad_one_is_401(client: Client, method: str, path: str) -> None:
    for headers in (
        {},
        {"Authorization": "Basic dTpw"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer a.b.c"},
    ):
        response = await client.request(method, path, headers=headers)
        await problem(response, 401, "unauthenticated")
        assert response.headers["WWW-Authenticate"].startswith("Bearer")


async def test_an_expired_token_is_401_and_says_so(client: Client) -> None:
    response = await client.get("/v1/events", headers=bearer("u1", ttl=-5))
    await problem(response, 401, "token-expired")


@pytest.mark.parametrize("headers", [CLIENT, READ, OPERATE, bearer("x", "")])
async def test_emitting_needs_its_scope(
    client: Client, world: World, headers: dict[str, str]
) -> None:
    response = await client.post("/v1/events", json=EVENT, headers=headers)
    await problem(response, 403, "forbidden")
    assert world.intake.items == []


# ---- showing


async def test_an_event_is_shown_with_all_that_happened(client: Client, world: World) -> None:
    world.ledger.advance(1.5)
    world.ledger.add(1, pushes=[(Outcome.FAILED, "no ack")])
    digest = world.ledger.begin("email", 1).digest
    for headers in (CLIENT, READ):
        response = await client.get(f"/v1/events/{make_id(1).upper()}", headers=headers)
        assert response.status == 200
        shown = await response.json()
        assert shown["id"] == make_id(1)
        assert (shown["state"], shown["step"], shown["generation"]) == ("falling_back", "email", 1)
        assert shown["due_at"] == "2026-01-31T12:00:01.500000Z"
        assert shown["attempts"][0] == {
            "channel": "websocket",
            "step": "websocket",
            "provider": None,
            "number": 1,
            "outcome": "failed",
            "error": "no ack",
            "started_at": "2026-01-31T12:00:00Z",
            "ended_at": "2026-01-31T12:00:01.500000Z",
            "latency_ms": 1500.0,
            "provider_id": None,
            "digest_id": None,
        }
        assert (shown["attempts"][1]["channel"], shown["attempts"][1]["outcome"]) == (
            "email",
            "started",
        )
        assert shown["attempts"][1]["digest_id"] == digest.id
        assert shown["attempts"][1]["latency_ms"] is None
        assert shown["confirmations"] == []
    world.ledger.confirm(1)
    shown = await (await client.get(f"/v1/events/{make_id(1)}", headers=CLIENT)).json()
    assert (shown["state"], shown["due_at"]) == ("confirmed", None)
    assert shown["confirmations"] == [
        {
            "channel": "websocket",
            "by": "x",
            "evidence": "connection",
            "at": "2026-01-31T12:00:01.500000Z",
        }
    ]


@pytest.mark.parametrize("id_", [make_id(1), make_id(9), "nonsense", "1", "a" * 500])
async def test_another_users_event_and_none_at_all_look_the_same(
    client: Client, world: World, id_: str
) -> None:
    world.ledger.add(1)
    answer = await problem(await client.get(f"/v1/events/{id_}", headers=OTHER), 404, "not-found")
    assert answer["detail"] == "no event has this id"


@pytest.mark.parametrize("path", ["/v1/events", f"/v1/events/{make_id(1)}"])
async def test_a_service_reads_with_its_scope_only(client: Client, path: str) -> None:
    for headers in (EMIT, OPERATE):
        await problem(await client.get(path, headers=headers), 403, "forbidden")


# ---- listing


async def test_a_list_is_filtered_and_paged(client: Client, world: World) -> None:
    world.ledger.add(1, 2, 3, state=State.DEAD)
    world.ledger.add(4)
    world.ledger.add(5, state=State.DEAD, user_id="u2")
    world.ledger.add(6, state=State.DEAD, run_id="r2")
    world.ledger.add(7, state=State.DEAD, type="note")
    query = "user_id=u1&run_id=r1&state=dead&type=agent_completed&limit=2"
    response = await client.get(f"/v1/events?{query}", headers=READ)
    assert response.status == 200
    answer = await response.json()
    assert [event["id"] for event in answer["events"]] == [make_id(3), make_id(2)]
    assert answer["events"][0]["state"] == "dead"
    response = await client.get(f"/v1/events?{query}&after={answer['next']}", headers=READ)
    answer = await response.json()
    assert [event["id"] for event in answer["events"]] == [make_id(1)]
    assert answer["next"] is None


async def test_a_list_has_fifty_unless_asked(client: Client, world: World) -> None:
    world.ledger.add(*range(1, 52))
    answer = await (await client.get("/v1/events", headers=READ)).json()
    assert len(answer["events"]) == 50
    assert answer["next"] is not None


async def test_a_client_lists_its_own_events_only(client: Client, world: World) -> None:
    world.ledger.add(1, user_id="u1")
    world.ledger.add(2, user_id="u2")
    for query in ("", "?user_id=u1"):
        answer = await (await client.get(f"/v1/events{query}", headers=CLIENT)).json()
        assert [event["user_id"] for event in answer["events"]] == ["u1"]
    response = await client.get("/v1/events?user_id=u2", headers=CLIENT)
    await problem(response, 403, "forbidden")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=-1", "limit"),
        ("limit=many", "limit"),
        ("limit=", "limit"),
        ("limit=00000000001", "limit"),
        ("limit=%D9%A1", "limit"),
        ("state=gone", "state"),
        ("after=", "after"),
        ("after=bogus", "after"),
        ("after=" + "x" * 600, "after"),
        ("page=2", "page"),
    ],
)
async def test_a_wrong_parameter_is_422_and_named(client: Client, query: str, field: str) -> None:
    response = await client.get(f"/v1/events?{query}", headers=READ)
    assert (await problem(response, 422, "invalid-request"))["field"] == field


@pytest.mark.parametrize("limit", [1, 1000])
async def test_the_ends_of_the_limit_are_inside(client: Client, world: World, limit: int) -> None:
    world.ledger.add(*range(1, 1_002))
    response = await client.get(f"/v1/events?limit={limit}", headers=READ)
    assert response.status == 200
    assert len((await response.json())["events"]) == limit


# ---- replaying


async def test_a_replayed_event_is_pushed_anew(client: Client, world: World) -> None:
    world.ledger.add(1, state=State.DEAD)
    response = await client.post(f"/v1/events/{make_id(1)}/replay", headers=OPERATE)
    assert response.status == 202
    assert await response.json() == {"id": make_id(1), "state": "accepted"}
    ((pushed, encoded),) = world.registry.pushed
    assert pushed == make_id(1)
    assert json.loads(encoded)["id"] == make_id(1)


async def test_a_confirmed_event_is_not_replayed(client: Client, world: World) -> None:
    world.ledger.add(1, state=State.CONFIRMED)
    response = await client.post(f"/v1/events/{make_id(1)}/replay", headers=OPERATE)
    await problem(response, 409, "already-confirmed")
    assert world.registry.pushed == []


async def test_replaying_needs_its_scope_and_an_event(client: Client) -> None:
    for headers in (CLIENT, EMIT, READ):
        response = await client.post(f"/v1/events/{make_id(1)}/replay", headers=headers)
        await problem(response, 403, "forbidden")
        response = await client.post("/v1/replay", json={"state": "dead"}, headers=headers)
        await problem(response, 403, "forbidden")
    for id_ in (make_id(1), "nonsense"):
        response = await client.post(f"/v1/events/{id_}/replay", headers=OPERATE)
        await problem(response, 404, "not-found")


async def test_a_replay_by_filter_pushes_what_it_matched(client: Client, world: World) -> None:
    world.ledger.add(*range(1, 451), state=State.DEAD)
    world.ledger.add(500, state=State.PARKED)
    world.ledger.add(501, state=State.DEAD, user_id="u2")
    world.ledger.add(502, state=State.DEAD, run_id="r2")
    world.ledger.advance(11 * 3_600)
    world.ledger.add(503, state=State.DEAD)
    body = {"state": "dead", "user_id": "u1", "run_id": "r1", "before": "2026-02-01T00:00:00+01:00"}
    response = await client.post("/v1/replay", json=body, headers=OPERATE)
    assert response.status == 200
    assert await response.json() == {"matched": 450, "replayed": 450}
    assert [id_ for id_, _ in world.registry.pushed] == [make_id(n) for n in range(1, 451)]
    assert {world.ledger.state(n) for n in (501, 502, 503)} == {State.DEAD}


@pytest.mark.parametrize(
    ("body", "replayed"),
    [
        ({"type": "note"}, [2]),
        ({"class": "auth"}, [3]),
        ({"user_prefix": "u"}, [1, 2, 3]),
        ({"run_prefix": "other"}, [3]),
        ({"id_prefix": make_id(2)[:-1]}, [1, 2, 3]),
        ({"channel": "websocket", "error": "NOBODY"}, [1]),
        ({"channel": "sms"}, []),
        ({"from": "2026-01-31T12:00:01Z"}, [3]),
        ({"to": "2026-01-31T12:00:01Z", "state": "dead"}, [1, 2]),
        ({"ids": [make_id(1), "nonsense", make_id(9)]}, [1]),
    ],
)
async def test_a_replay_takes_any_filter(
    client: Client, world: World, body: dict[str, Any], replayed: list[int]
) -> None:
    world.ledger.add(1, state=State.DEAD, pushes=[(Outcome.FAILED, "nobody connected")])
    world.ledger.add(2, state=State.DEAD, type="note", pushes=[(Outcome.FAILED, "no room")])
    later = {"at": NOW + timedelta(seconds=1), "run_id": "other run"}
    world.ledger.add(3, state=State.DEAD, event_class=EventClass.AUTH, **later)
    world.ledger.add(4, state=State.CONFIRMED)
    query = {name: value for name, value in body.items() if name != "ids"}
    if query:
        listed = await client.get("/v1/events", params=query | {"count": "true"}, headers=READ)
        page = await listed.json()
        found = [int(event["id"][-2:], 16) for event in page["events"]]
        assert sorted(set(found) - {4}) == replayed
        assert (page["count"], page["count_is_exact"]) == (len(found), True)
    dry = await client.post("/v1/replay", json=body | {"dry_run": True}, headers=OPERATE)
    assert (await dry.json())["matched"] == len(replayed)
    response = await client.post("/v1/replay", json=body, headers=OPERATE)
    assert (await response.json())["replayed"] == len(replayed)
    assert [id_ for id_, _ in world.registry.pushed] == [make_id(n) for n in replayed]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("user_prefix", ""),
        ("id_prefix", "0190-"),
        ("channel", "pigeon"),
        ("class", "No Class"),
        ("error", "x" * 201),
        ("from", "yesterday"),
        ("count", "yes"),
    ],
)
async def test_a_wrong_filter_of_a_listing_is_422_and_named(
    client: Client, name: str, value: str
) -> None:
    response = await client.get("/v1/events", params={name: value}, headers=READ)
    assert (await problem(response, 422, "invalid-request"))["field"] == name


async def test_a_client_filters_its_own_events_only(client: Client, world: World) -> None:
    world.ledger.add(1)
    world.ledger.add(2, user_id="u2")
    query = {"user_prefix": "u", "count": "true"}
    page = await (await client.get("/v1/events", params=query, headers=CLIENT)).json()
    assert [event["user_id"] for event in page["events"]] == ["u1"]
    assert page["count"] == 1


async def test_a_replay_in_pages_says_where_the_next_one_goes_on(
    client: Client, world: World
) -> None:
    world.ledger.add(*range(1, 6), state=State.DEAD)
    seen, after = [], None
    for matched in (2, 2, 1):
        body = {"state": "dead", "limit": 2} | ({"after": after} if after else {})
        response = await client.post("/v1/replay", json=body, headers=OPERATE)
        answer = await response.json()
        assert (answer["matched"], answer["replayed"]) == (matched, matched)
        seen.append(after := answer["next"])
    assert seen == [make_id(2), make_id(4), None]
    assert len(world.registry.pushed) == 5


async def test_a_page_of_a_replay_after_nothing_known_is_refused(client: Client) -> None:
    body = {"state": "dead", "limit": 2, "after": make_id(9)}
    response = await client.post("/v1/replay", json=body, headers=OPERATE)
    assert (await problem(response, 422, "invalid-request"))["field"] == "after"


async def test_a_dry_run_changes_nothing(client: Client, world: World) -> None:
    world.ledger.add(1, state=State.DEAD)
    body = {"state": "dead", "dry_run": True}
    response = await client.post("/v1/replay", json=body, headers=OPERATE)
    assert await response.json() == {"matched": 1, "replayed": 0}
    assert world.registry.pushed == []
    assert world.ledger.state(1) is State.DEAD


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "state"),
        ({"state": "confirmed"}, "state"),
        ({"state": ["dead"]}, "state"),
        ({"state": "dead", "user_id": 7}, "user_id"),
        ({"state": "dead", "before": "yesterday"}, "before"),
        ({"state": "dead", "before": "2026-01-01T00:00:00"}, "before"),
        ({"state": "dead", "before": 7}, "before"),
        ({"state": "dead", "dry_run": "yes"}, "dry_run"),
        ({"state": "dead", "limit": 0}, "limit"),
        ({"state": "dead", "limit": True}, "limit"),
        ({"state": "dead", "limit": 1001}, "limit"),
        ({"state": "dead", "limit": 1, "after": 5}, "after"),
        ({"state": "dead", "type": 7}, "type"),
        ({"dry_run": True}, "state"),
        ({"user_prefix": ""}, "user_prefix"),
        ({"id_prefix": "x"}, "id_prefix"),
        ({"channel": "pigeon"}, "channel"),
        ({"class": "No Class"}, "class"),
        ({"error": "x" * 201}, "error"),
        ({"error": "a\u0000b"}, "error"),
        ({"from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "from"),
        ({"ids": []}, "ids"),
        ({"ids": [1]}, "ids"),
        ({"ids": [make_id(1)], "state": "dead"}, "ids"),
        ({"state": "dead", "colour": "red"}, "colour"),
    ],
)
async def test_a_wrong_replay_filter_is_422_and_named(
    client: Client, body: dict[str, Any], field: str
) -> None:
    response = await client.post("/v1/replay", json=body, headers=OPERATE)
    assert (await problem(response, 422, "invalid-request"))["field"] == field


# ---- acknowledging


async def test_a_service_acknowledges_nothing_though_it_bears_a_users_name(
    client: Client, world: World
) -> None:
    world.ledger.add(1, user_id="u1")
    body = {"ids": [make_id(1)]}
    response = await client.post("/v1/acks", json=body, headers=bearer("u1", "emit read"))
    await problem(response, 403, "forbidden")
    assert world.ledger.confirmed_by(1, 2) == []


async def test_an_ack_confirms_ones_own_events_only(client: Client, world: World) -> None:
    world.ledger.add(1, user_id="u1")
    world.ledger.add(2, user_id="u2")
    ids = [make_id(1), make_id(2), make_id(3), "nonsense", make_id(1)]
    response = await client.post("/v1/acks", json={"ids": ids}, headers=CLIENT)
    assert response.status == 200
    assert await response.json() == {
        "confirmed": [make_id(1)],
        "unknown": [make_id(2), make_id(3), "nonsense"],
    }
    assert world.confirmed == [make_id(1)]
    assert world.registry.acknowledgements == [("u1", [make_id(1)])]
    assert world.ledger.state(2) is not State.CONFIRMED


async def test_a_repeated_ack_has_no_second_effect(client: Client, world: World) -> None:
    world.ledger.add(1)
    for _ in range(2):
        response = await client.post("/v1/acks", json={"ids": [make_id(1)]}, headers=CLIENT)
        assert (await response.json())["confirmed"] == [make_id(1)]
    assert len(world.ledger.confirmed_by(1)) == 1


async def test_an_ack_that_beats_the_commit_waits_for_it(client: Client, world: World) -> None:
    world.journal.backlog = 1
    world.journal.on_flush = lambda: world.ledger.add(1)
    response = await client.post("/v1/acks", json={"ids": [make_id(1)]}, headers=CLIENT)
    assert await response.json() == {"confirmed": [make_id(1)], "unknown": []}


@pytest.mark.parametrize("ids", [None, "x", [], [1], [None], ["x"] * 1_001, {}])
async def test_wrong_ack_ids_are_422(client: Client, ids: Any) -> None:
    response = await client.post("/v1/acks", json={"ids": ids}, headers=CLIENT)
    assert (await problem(response, 422, "invalid-request"))["field"] == "ids"


# ---- whatever else is asked


@pytest.mark.parametrize("path", ["/v2/events", "/v1/", "/v1/events/a/b/c", "/.git/config"])
async def test_an_unknown_address_is_404(client: Client, path: str) -> None:
    await problem(await client.get(path, headers=READ), 404, "not-found")


async def test_an_unknown_method_is_405_and_names_the_known_ones(client: Client) -> None:
    response = await client.patch("/v1/events", headers=READ)
    await problem(response, 405, "method-not-allowed")
    assert set(response.headers["Allow"].split(",")) >= {"GET", "POST"}


async def test_a_ledger_that_is_away_is_503_and_stays_inside(client: Client, world: World) -> None:
    world.ledger.go_away()
    for method, path, body in (
        ("GET", "/v1/events", None),
        ("GET", f"/v1/events/{make_id(1)}", None),
        ("POST", f"/v1/events/{make_id(1)}/replay", None),
        ("POST", "/v1/replay", {"state": "dead"}),
        ("POST", "/v1/acks", {"ids": [make_id(1)]}),
        ("GET", "/v1/users/u1/contacts", None),
        ("GET", "/v1/stats", None),
    ):
        headers = CLIENT if path == "/v1/acks" else EVERYTHING
        response = await client.request(method, path, json=body, headers=headers)
        assert OUTAGE not in str(await problem(response, 503, "unavailable"))
        assert int(response.headers["Retry-After"]) >= 1


async def test_an_unexpected_error_is_500_and_tells_nothing(
    client: Client, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("hunter2")

    monkeypatch.setattr(world.ledger.events, "find", broken)
    response = await client.get("/v1/events", headers=READ)
    assert "hunter2" not in str(await problem(response, 500, "internal"))


async def test_answers_are_not_kept_by_caches(client: Client) -> None:
    response = await client.get("/v1/events", headers=READ)
    assert response.headers["Cache-Control"] == "no-store"
