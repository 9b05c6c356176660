"""CloudEvents of a foreign producer, and traces, against a gateway with its ledger."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent

import delivery
from delivery.config import load_settings
from delivery.tokens import make_token

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
OTHER_TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b8-00"
STRUCTURED = {"Content-Type": "application/cloudevents+json; charset=utf-8"}
BATCHED = {"Content-Type": "application/cloudevents-batch+json"}
PLAIN = {"Content-Type": "application/json"}


class Service:
    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http, self._url = http, url

    async def post(self, headers: dict[str, str], body: Any) -> tuple[int, Any]:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self._http.post(self._url, data=raw, headers=headers) as answer:
            return answer.status, await answer.json(content_type=None)

    async def accepted(self, headers: dict[str, str], body: Any) -> dict[str, Any]:
        status, document = await self.post(headers, body)
        assert status == 202, document
        [one] = document["accepted"]
        return dict(one)

    async def event(self, event_id: str) -> dict[str, Any]:
        async with self._http.get(f"{self._url}/{event_id}") as answer:
            return dict(await answer.json())


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    app = web.Application()
    delivery.embed(app, load_settings(data_dir=str(tmp_path)))
    secret = (tmp_path / "dev-secret").read_text().strip()
    headers = {"Authorization": f"Bearer {make_token(secret, 'producer', 'emit read')}"}
    async with TestServer(app) as server, aiohttp.ClientSession(headers=headers) as http:
        yield Service(http, str(server.make_url("/v1/events")))


def made(**changes: Any) -> dict[str, Any]:
    """The attributes of one CloudEvent."""
    return {
        "specversion": "1.0",
        "source": "/shop/orders?näme",
        "id": "A-17 %41",
        "type": "com.shop/order/paid",
        "time": datetime(2026, 1, 31, 12, tzinfo=UTC),
        "subject": 'order "17"',
        "datacontenttype": "application/json",
        "userid": "user-ü",
        "runid": "run-1",
        "threadid": "thread-1",
        "traceparent": TRACE,
        "partitionkey": "p1",
    } | changes


def wire(**changes: Any) -> dict[str, Any]:
    """The same with data, in structured mode, by hand."""
    return made(time="2026-01-31T12:00:00Z", data={"n": 1}) | changes


async def test_one_event_is_the_same_in_every_mode(service: Service) -> None:
    foreign = CloudEvent(made(), {"n": 1})
    structured, binary = to_structured_event(foreign), to_binary_event(foreign)
    first = await service.accepted(structured.headers, structured.body)
    second = await service.accepted(binary.headers, binary.body)
    third = await service.accepted(BATCHED, [json.loads(structured.body)])
    encoded = wire(data_base64=base64.b64encode(b'{"n":1}').decode())
    del encoded["data"]
    fourth = await service.accepted(STRUCTURED, encoded)
    assert [one["duplicate"] for one in (first, second, third, fourth)] == [False] + [True] * 3
    assert len({one["id"] for one in (first, second, third, fourth)}) == 1
    event = await service.event(first["id"])
    assert {name: event[name] for name in ("type", "user_id", "run_id", "thread_id", "data")} == {
        "type": "com.shop.order.paid",
        "user_id": "user-ü",
        "run_id": "run-1",
        "thread_id": "thread-1",
        "data": {"n": 1},
    }
    assert event["traceparent"] == TRACE
    assert event["meta"]["cloudevent"] == {
        "source": "/shop/orders?näme",
        "id": "A-17 %41",
        "type": "com.shop/order/paid",
        "time": "2026-01-31T12:00:00Z",
        "subject": 'order "17"',
        "partitionkey": "p1",
    }


async def test_source_and_id_together_are_the_key(service: Service) -> None:
    first = await service.accepted(STRUCTURED, wire())
    other = await service.accepted(STRUCTURED, wire(source="/elsewhere"))
    assert other["id"] != first["id"]
    status, document = await service.post(STRUCTURED, wire(data={"n": 2}))
    assert (status, document["type"]) == (409, "/problems/id-conflict")
    status, document = await service.post(
        BATCHED, [wire(id="new"), wire(id="new"), wire(id="new", data={}), wire(id=""), 7]
    )
    assert status == 202
    assert [one["duplicate"] for one in document["accepted"]] == [False, True]
    assert [
        (one["index"], one["error"]["status"], one["error"].get("field"))
        for one in document["rejected"]
    ] == [(2, 409, "id"), (3, 422, "id"), (4, 422, None)]


async def test_a_refused_event_may_come_again_mended(service: Service) -> None:
    status, document = await service.post(STRUCTURED, wire(runid="registry"))
    assert (status, document["field"]) == (422, "run_id")
    assert not (await service.accepted(STRUCTURED, wire()))["duplicate"]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"specversion": "0.3"}, "specversion"),
    ({"specversion": None}, "specversion"),
    ({"source": ""}, "source"),
    ({"source": "s" * 256}, "source"),
    ({"source": "a\u0000b"}, "source"),
    ({"id": None}, "id"),
    ({"id": {"a": 1}}, "id"),
    ({"type": None}, "type"),
    ({"type": "1/2"}, "type"),
    ({"userid": None}, "userid"),
    ({"userid": "u" * 129}, "user_id"),
    ({"runid": None}, "runid"),
    ({"data": [1]}, "data"),
    ({"data": "text"}, "data"),
    ({"datacontenttype": "text/xml"}, "datacontenttype"),
    ({"data_base64": "e30="}, "data_base64"),
    ({"data": None, "data_base64": "%%"}, "data_base64"),
    ({"time": "yesterday"}, "time"),
    ({"traceparent": "00-0-0-0"}, "traceparent"),
    ({"Upper": "x"}, "Upper"),
]


async def test_what_is_wrong_is_named(service: Service) -> None:
    for changes, field in WRONG:
        status, document = await service.post(STRUCTURED, wire(**changes))
        assert (status, document.get("field")) == (422, field), (changes, document)


async def test_other_formats_and_shapes_are_refused(service: Service) -> None:
    avro = {"Content-Type": "application/cloudevents+avro"}
    assert (await service.post(avro, b"x"))[1]["field"] == "content-type"
    assert (await service.post(STRUCTURED, b"{"))[0] == 400
    assert (await service.post(STRUCTURED, b"[]"))[0] == 422
    assert (await service.post(BATCHED, b"{}"))[0] == 422
    assert (await service.post(BATCHED, b"[]"))[0] == 422
    assert (await service.post(BATCHED, [wire()] * 1_001))[0] == 413
    binary = dict(to_binary_event(CloudEvent(made(), {"n": 1})).headers)
    assert (await service.post(binary | {"content-type": "text/plain"}, b"hello"))[0] == 422
    assert (await service.post(binary | {"ce-subject": "%ff"}, {"n": 1}))[1]["field"] == "subject"
    assert (await service.post({"ce-id": "1", **PLAIN}, {}))[1]["field"] == "specversion"
    assert (await service.post(binary, b""))[0] == 202  # without data


async def test_a_trace_is_kept_and_is_no_part_of_the_content(service: Service) -> None:
    plain = {"type": "note", "user_id": "u1", "run_id": "r1", "id": str(delivery_id())}
    first = await service.accepted(PLAIN, plain | {"traceparent": TRACE})
    again = await service.accepted(PLAIN | {"traceparent": OTHER_TRACE}, plain)
    assert (first["duplicate"], again["duplicate"]) == (False, True)
    assert (await service.event(first["id"]))["traceparent"] == TRACE
    fresh = {name: value for name, value in plain.items() if name != "id"}
    of_header = await service.accepted(PLAIN | {"traceparent": TRACE}, fresh)
    assert (await service.event(of_header["id"]))["traceparent"] == TRACE
    ignored = await service.accepted(PLAIN | {"traceparent": "no-trace"}, fresh)
    assert "traceparent" not in await service.event(ignored["id"])
    status, document = await service.post(PLAIN, fresh | {"traceparent": TRACE.upper()})
    assert (status, document["field"]) == (422, "traceparent")


def delivery_id() -> str:
    from uuid_utils import uuid7

    return str(uuid7())


async def test_a_batch_is_a_json_list_and_no_part_of_another_text(service: Service) -> None:
    first, second = json.dumps(sent()), json.dumps(sent(id="other"))
    for raw in (f'[{first}],"events":[{second}]', f"[{first}] ,"):
        status, document = await service.post(BATCHED, raw.encode())
        assert (status, document["type"]) == (400, "/problems/not-json"), document
    status, document = await service.post(BATCHED, b'[{"id":"\\ud800"}]')
    assert (status, document["rejected"][0]["index"]) == (422, 0), document


async def test_data_that_is_no_json_costs_its_own_event_alone(service: Service) -> None:
    good, deep = sent(id="good"), b"[" * 80 + b"]" * 80
    for data in (b"{}}", b"", deep, b"\xff"):
        bad = sent(id="bad", data_base64=base64.b64encode(data).decode())
        status, document = await service.post(BATCHED, [bad, good])
        assert status == 202, document
        assert [one["index"] for one in document["accepted"]] == [1]
        [rejected] = document["rejected"]
        assert (rejected["index"], rejected["error"]["field"]) == (0, "data_base64")


def sent(**changes: Any) -> dict[str, Any]:
    """A CloudEvent as JSON."""
    required = {"specversion": "1.0", "source": "s", "id": "a", "type": "note"}
    return required | {"userid": "u1", "runid": "r1"} | changes
