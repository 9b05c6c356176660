"""The remote emitter against a real server: batches, retries, answers."""

import asyncio
import json
import threading

import pytest
from aiohttp import web

from delivery.client.remote import connect
from delivery.client.sync import connect_sync
from delivery.errors import (
    ConfigError,
    IdConflict,
    InvalidContext,
    InvalidEvent,
    Overloaded,
    PayloadTooLarge,
    RemoteError,
    Unauthenticated,
    Unreachable,
)
from delivery.testing import make_id
from tests.contract_server import ContractServer
from tests.waiting import until


@pytest.fixture
async def server():
    async with ContractServer().running() as running:
        yield running


def answer(status, problem=None, **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda items: web.json_response(problem or {}, status=status, headers=named)


def problem(slug, status, **more):
    return {"type": f"/problems/{slug}", "title": slug, "status": status, **more}


async def test_emit_returns_when_the_service_has_accepted(server):
    async with connect(server.url, "t") as d:
        receipt = await d.emitter("u1", "r1", "th1").emit("note", {"x": 1}, meta={"m": 1})
    assert (receipt.seq, receipt.durable, receipt.duplicate) == (1, True, False)
    sent = server.accepted[receipt.id]
    assert {name: sent[name] for name in ("type", "user_id", "run_id", "thread_id")} == {
        "type": "note",
        "user_id": "u1",
        "run_id": "r1",
        "thread_id": "th1",
    }
    assert (sent["data"], sent["meta"]) == ({"x": 1}, {"m": 1})
    assert server.tokens == ["t"]


async def test_both_twins_send_what_the_caller_chooses(server):
    async with connect(server.url, "t") as d:
        one = await d.emitter("u1", "r1").emit("note", class_="orders", ttl=60)
        for wrong in ({"ttl": float("nan")}, {"class_": 5j}, {"class_": "\ud800"}):
            with pytest.raises(InvalidEvent):
                await d.emitter("u1", "r1").emit("note", **wrong)

    def blocking():
        with connect_sync(server.url, "t") as d:
            return d.emitter("u1", "r1").emit("note", **{"class": "orders"}, ttl=60)

    other = await asyncio.to_thread(blocking)
    for receipt in (one, other):
        sent = server.accepted[receipt.id]
        assert (sent["class"], sent["ttl"]) == ("orders", 60)


async def test_what_waits_leaves_in_one_request_in_order(server):
    async with connect(server.url, "t") as d:
        emitter = d.emitter("u1", "r1")
        receipts = [emitter.emit_nowait("note", {"n": number}) for number in range(1_500)]
        await asyncio.gather(*(receipt.accepted() for receipt in receipts))
    assert [len(body) for body in server.bodies] == [1_000, 500]
    assert [item["data"]["n"] for item in server.accepted.values()] == list(range(1_500))


async def test_a_request_stays_under_a_megabyte(server):
    async with connect(server.url, "t") as d:
        emitter = d.emitter("u1", "r1")
        receipts = [emitter.emit_nowait("note", {"x": "y" * 60_000}) for _ in range(40)]
        await asyncio.gather(*(receipt.accepted() for receipt in receipts))
    assert sum(len(body) for body in server.bodies) == 40
    assert max(len(body) for body in server.bodies) <= 16


@pytest.mark.parametrize("status", [429, 500, 502, 503])
async def test_a_busy_or_broken_service_is_asked_again_under_the_same_id(server, status):
    server.replies = [answer(status)]
    async with connect(server.url, "t") as d:
        receipt = await d.emitter("u1", "r1").emit("note")
    assert server.bodies == [[receipt.id], [receipt.id]]


async def test_retry_after_is_honoured(server):
    server.replies = [answer(503, Retry_After="1")]
    loop = asyncio.get_running_loop()
    async with connect(server.url, "t") as d:
        began = loop.time()
        await d.emitter("u1", "r1").emit("note")
    assert loop.time() - began >= 1.0


async def test_a_service_that_stays_busy_is_overloaded(server):
    server.replies = [answer(503, Retry_After="60")]
    async with connect(server.url, "t", deadline=1.0) as d:
        with pytest.raises(Overloaded) as caught:
            await d.emitter("u1", "r1").emit("note")
    assert caught.value.retry_after == 60.0


async def test_a_lost_answer_leads_to_a_duplicate_and_not_to_two_events(server):
    def lose(items):
        server.take(items)
        return web.json_response({}, status=502)

    server.replies = [lose]
    async with connect(server.url, "t") as d:
        receipt = await d.emitter("u1", "r1").emit("note")
    assert receipt.duplicate
    assert len(server.accepted) == 1


async def test_a_service_that_is_away_is_unreachable_by_the_deadline():
    async with connect("http://127.0.0.1:9", "t", deadline=0.3) as d:
        with pytest.raises(Unreachable):
            await d.emitter("u1", "r1").emit("note")


async def test_each_rejected_event_has_its_own_error(server):
    def reply(items):
        errors = [
            problem("invalid-event", 422, detail="type is wrong", field="type"),
            problem("id-conflict", 409),
            problem("payload-too-large", 413),
            problem("forbidden", 403, detail="not yours"),
        ]
        document = {
            "accepted": [
                {"index": 0, "id": items[0]["id"], "seq": 5, "duplicate": False, "durable": True}
            ],
            "rejected": [{"index": i + 1, "error": error} for i, error in enumerate(errors)],
        }
        return web.json_response(document, status=202)

    server.replies = [reply]
    async with connect(server.url, "t") as d:
        emitter = d.emitter("u1", "r1")
        receipts = [emitter.emit_nowait("note", {"n": n}) for n in range(6)]
        assert (await receipts[0].accepted()).seq == 5
        with pytest.raises(InvalidEvent, match="type is wrong") as caught:
            await receipts[1].accepted()
        assert caught.value.field == "type"
        for receipt, kind in zip(
            receipts[2:], [IdConflict, PayloadTooLarge, RemoteError, RemoteError], strict=True
        ):
            with pytest.raises(kind):
                await receipt.accepted()


async def test_events_that_found_the_service_full_are_sent_again_alone(server):
    def reply(items):
        taken = server.take(items[:1])
        rows = [
            {"index": index, "error": problem("overloaded", 429)} for index in range(1, len(items))
        ]
        document = json.loads(taken.body)
        return web.json_response({**document, "rejected": rows}, status=202)

    server.replies = [reply]
    async with connect(server.url, "t") as d:
        emitter = d.emitter("u1", "r1")
        receipts = [emitter.emit_nowait("note", {"n": n}) for n in range(3)]
        await asyncio.gather(*(receipt.accepted() for receipt in receipts))
    ids = [receipt.id for receipt in receipts]
    assert server.bodies == [ids, ids[1:]]
    assert not any(receipt.duplicate for receipt in receipts)


async def test_a_proxy_that_takes_less_gets_halves(server):
    server.replies = [answer(413)]
    async with connect(server.url, "t") as d:
        emitter = d.emitter("u1", "r1")
        receipts = [emitter.emit_nowait("note", {"n": n}) for n in range(4)]
        await asyncio.gather(*(receipt.accepted() for receipt in receipts))
    assert [len(body) for body in server.bodies] == [4, 2, 2]


async def test_a_refused_token_is_an_error_at_once(server):
    server.replies = [answer(401, problem("unauthenticated", 401))]
    async with connect(server.url, "t") as d:
        with pytest.raises(Unauthenticated):
            await d.emitter("u1", "r1").emit("note")
    assert len(server.bodies) == 1


async def test_an_expired_token_is_followed_by_a_fresh_one(server):
    tokens = iter(["old", "new", "new"])
    server.replies = [answer(401, problem("token-expired", 401))]
    async with connect(server.url, lambda: next(tokens)) as d:
        await d.emitter("u1", "r1").emit("note")
    assert server.tokens == ["old", "new"]


async def test_a_full_buffer_refuses_and_loses_nothing_that_it_took(server):
    async with connect(server.url, "t", max_buffered=2) as d:
        emitter = d.emitter("u1", "r1")
        taken = [emitter.emit_nowait("note"), emitter.emit_nowait("note")]
        with pytest.raises(Overloaded):
            emitter.emit_nowait("note")
        await asyncio.gather(*(receipt.accepted() for receipt in taken))
    assert len(server.accepted) == 2


async def test_leaving_sends_what_waits(server):
    async with connect(server.url, "t") as d:
        emitter = d.emitter("u1", "r1")
        receipts = [emitter.emit_nowait("note") for _ in range(10)]
    assert all(receipt.durable for receipt in receipts)
    with pytest.raises(Unreachable):
        emitter.emit_nowait("note")


async def test_confirmed_asks_until_the_user_has_it(server):
    async with connect(server.url, "t") as d:
        receipt = await d.emitter("u1", "r1").emit("note")
        wait = asyncio.create_task(receipt.confirmed(timeout=5.0))
        await asyncio.sleep(0)
        server.states[receipt.id] = "confirmed"
        assert await wait is True


async def test_confirmed_says_no_when_the_time_is_over_or_the_event_expired(server):
    async with connect(server.url, "t") as d:
        receipt = await d.emitter("u1", "r1").emit("note")
        assert await receipt.confirmed(timeout=0.05) is False
        server.states[receipt.id] = "expired"
        assert await receipt.confirmed(timeout=60.0) is False


async def test_an_event_can_be_read(server):
    async with connect(server.url, "t") as d:
        receipt = await d.emitter("u1", "r1").emit("note")
        event = await d.event(receipt.id)
        assert event is not None
        assert event["state"] == "accepted"
        assert await d.event(make_id(99)) is None


async def test_what_cannot_be_an_event_never_leaves(server):
    async with connect(server.url, "t") as d:
        with pytest.raises(InvalidContext):
            d.emitter("", "r1")
        with pytest.raises(InvalidContext):
            d.emitter("\ud800", "r1")
        emitter = d.emitter("u1", "r1")
        with pytest.raises(InvalidEvent):
            await emitter.emit("note", {"x": float("nan")})
        with pytest.raises(PayloadTooLarge):
            await emitter.emit("note", {"x": "y" * 70_000})
        with pytest.raises(InvalidEvent):
            await emitter.emit("note", id="nope")
    assert server.bodies == []


def test_a_url_that_is_none_is_a_configuration_error():
    with pytest.raises(ConfigError, match="http"):
        connect("localhost:8080", "t")


async def test_the_blocking_twin_emits_and_ends_its_thread(server):
    before = threading.active_count()

    def work():
        with connect_sync(server.url, "t") as d:
            emitter = d.emitter("u1", "r1")
            first = emitter.emit_agent_started("researcher")
            second = emitter.emit_nowait("note", {"x": 1})
            assert second.accepted().seq == 2
            server.states[first.id] = "confirmed"
            assert first.confirmed(timeout=5.0)
            with pytest.raises(InvalidEvent):
                emitter.emit("bad type")
        with pytest.raises(Unreachable):
            emitter.emit("note")
        return first.seq

    assert await asyncio.to_thread(work) == 1
    await until(lambda: threading.active_count() <= before + 1)  # the executor's own thread stays
