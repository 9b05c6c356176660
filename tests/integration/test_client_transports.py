"""The listening client where WebSockets do not get through: SSE, and the way back."""

import asyncio
import base64
import json
import time

import pytest
from aiohttp import web

from delivery.client.backoff import FullJitter
from delivery.client.client import Client
from delivery.client.store import FileStore, MemoryStore
from delivery.client.stream import Stream
from delivery.client.sync_client import BlockingClient
from delivery.domain.event import EventClass
from delivery.errors import ConfigError, Unauthenticated, Unreachable
from delivery.testing import make_event, make_id
from tests.contract_server import ContractServer
from tests.waiting import until

AT_ONCE = FullJitter(base=0.001, max=0.01)
NEVER = 3_600.0


@pytest.fixture
async def server():
    async with ContractServer().running() as running:
        yield running


def wire(number, **changes):
    return make_event(id=make_id(number), seq=number, **changes).as_wire()


def listen(server, token="t", **options):
    return Client(server.url, token, **{"backoff": AT_ONCE, "upgrade_after": NEVER} | options)


async def take(client, count):
    """The next events' numbers; the last one stays in hand."""
    async with asyncio.timeout(5.0):
        return [(await anext(client)).seq for _ in range(count)]


def jwt(expires_in: float) -> str:
    claims = json.dumps({"sub": "u1", "exp": time.time() + expires_in}).encode()
    return f"h.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.s"


@pytest.mark.parametrize("obstacle", [400, 403, 426, 502, "cut", "silent"])
async def test_where_sockets_do_not_get_through_it_takes_the_stream(server, obstacle):
    server.blocks = obstacle
    server.events = [wire(1), wire(2)]
    async with listen(server) as client:
        assert await take(client, 2) == [1, 2]
        assert client.status.transport == "sse"
        assert server.upgrades >= 2  # the HTTP library repeats a request that was cut by itself
        assert server.stream_tokens == ["t"]
    assert sorted(server.confirmed) == [make_id(1), make_id(2)]


async def test_a_busy_service_that_gives_signs_of_life_is_waited_for(server, monkeypatch):
    monkeypatch.setattr("delivery.client.connection.SOCKET_TIMEOUT", 0.3)
    server.holds.clear()
    async with listen(server) as client:
        await until(lambda: server.signs >= 10)
        server.holds.set()
        await until(lambda: client.is_connected)
        assert client.status.transport == "websocket"
    assert (server.upgrades, server.streams) == (1, [])


async def test_one_socket_that_fails_is_no_reason_to_leave_sockets(server):
    server.blocks = 403

    def open_the_gate(status):
        if status.state == "waiting":
            server.blocks = None

    async with listen(server, on_status=open_the_gate) as client:
        await until(lambda: client.is_connected)
        assert client.status.transport == "websocket"
    assert (server.upgrades, server.streams) == (2, [])


async def test_a_gateway_that_is_away_is_no_reason_to_leave_sockets(monkeypatch):
    dialled = []
    monkeypatch.setattr(Stream, "open", lambda *args, **options: dialled.append(args))
    async with Client("http://127.0.0.1:9", "t", backoff=AT_ONCE, give_up_after=0.1) as client:
        with pytest.raises(Unreachable, match="cannot connect"):
            await take(client, 1)
    assert dialled == []


async def test_a_stream_that_does_not_get_through_either_leads_back_to_sockets(server):
    server.blocks = "cut"
    server.refuse_stream = lambda: web.Response(status=502, text="no")
    async with listen(server) as client:
        await until(lambda: server.upgrades >= 4)
        server.blocks = None
        await until(lambda: client.is_connected)
        assert client.status.transport == "websocket"


async def test_a_client_gives_up_only_when_both_ways_were_tried(server):
    server.blocks = "cut"
    server.events = [wire(1)]
    async with listen(server, give_up_after=0.0) as client:
        assert await take(client, 1) == [1]


@pytest.mark.parametrize(("transport", "way"), [("sse", (0, 1)), ("websocket", (1, 0))])
async def test_a_transport_that_was_chosen_is_kept(server, transport, way):
    async with listen(server, transport=transport) as client:
        await until(lambda: client.is_connected)
        assert client.status.transport == transport
    assert (server.upgrades, len(server.streams)) == way


async def test_an_unknown_transport_is_refused(server):
    with pytest.raises(ConfigError, match="auto, websocket, sse"):
        listen(server, transport="carrier pigeon")


async def test_from_the_stream_to_a_socket_nothing_is_lost_and_nothing_comes_twice(server):
    server.blocks = "cut"
    server.events = [wire(number) for number in range(1, 6)]
    async with listen(server, upgrade_after=0.05) as client:
        assert await take(client, 2) == [1, 2]
        assert client.status.transport == "sse"
        server.blocks = None
        await until(lambda: client.status.transport == "websocket")
        await until(lambda: server.live_streams == [])
        await server.emit(wire(6))
        assert await take(client, 4) == [3, 4, 5, 6]
        # The second was in hand while the transport changed.
        await until(lambda: len(server.confirmed) == 5)
        assert client.reconnects == 1
    assert sorted(server.confirmed) == [make_id(number) for number in range(1, 7)]
    assert server.connects[0]["cursor"] == make_id(1)


async def test_an_ephemeral_event_that_came_both_ways_is_shown_once(server):
    passing = wire(2, event_class=EventClass.EPHEMERAL)
    server.blocks = "cut"
    async with listen(server, upgrade_after=0.05) as client:
        await until(lambda: server.live_streams)
        await server.emit(passing)
        assert await take(client, 1) == [2]
        server.blocks = None
        await until(lambda: server.sockets)
        await server.emit(wire(3))
        async with asyncio.timeout(5.0):
            assert (await anext(client)).id == make_id(3)


async def test_a_socket_is_tried_again_ever_more_rarely(server):
    server.blocks = 403
    async with listen(server, upgrade_after=0.02, jitter=lambda: 0.5) as client:
        await until(lambda: client.is_connected)
        began = time.monotonic()
        await until(lambda: server.upgrades == 5)  # after 20, 60 and 140 ms
        assert time.monotonic() - began >= 0.1
        assert client.status.transport == "sse"
    assert len(server.streams) == 1


async def test_a_stream_that_ends_is_made_anew_from_the_cursor(server):
    server.events = [wire(1), wire(2)]
    async with listen(server, transport="sse") as client:
        assert await take(client, 2) == [1, 2]
        server.end_streams()
        await until(lambda: len(server.streams) == 2 and client.is_connected)
        await server.emit(wire(3))
        assert await take(client, 1) == [3]
    async with listen(server, transport="sse", cursor=make_id(2)) as client:
        await until(lambda: client.is_connected)
    assert server.streams == [None, make_id(1), make_id(2)]


async def test_a_new_process_goes_on_over_the_stream_where_the_old_one_stopped(server, tmp_path):
    server.events = [wire(1), wire(2)]
    async with listen(server, store=FileStore(tmp_path / "cursor"), transport="sse") as client:
        assert await take(client, 2) == [1, 2]
    server.confirmed.clear()  # the acknowledgements were lost
    server.events.append(wire(3))
    async with listen(server, store=FileStore(tmp_path / "cursor"), transport="sse") as client:
        assert await take(client, 1) == [3]
    assert server.streams == [None, make_id(2)]
    assert sorted(server.confirmed) == [make_id(1), make_id(2), make_id(3)]


async def test_a_reconnect_message_says_when_to_come_back(server):
    async with listen(server, transport="sse") as client:
        await until(lambda: server.live_streams)
        began = time.monotonic()
        await server.tell(
            server.live_streams[0],
            ("reconnect", {"type": "reconnect", "after_ms": 80, "reason": "shutdown"}),
        )
        server.end_streams()
        await until(lambda: len(server.streams) == 2)
        assert time.monotonic() - began >= 0.08
        assert client.status.state in ("connecting", "connected")


async def test_a_silent_stream_is_given_up(server):
    server.heartbeat = 0.02
    async with listen(server, transport="sse"):
        await until(lambda: len(server.streams) >= 2)


async def test_acknowledgements_are_posted_again_until_they_are_taken(server):
    server.ack_replies = [503, 429, 401, 500]
    server.events = [wire(1), wire(2)]
    async with listen(server, transport="sse") as client:
        assert await take(client, 2) == [1, 2]
        await until(lambda: make_id(1) in server.confirmed)
    assert server.ack_replies == []
    assert sorted(server.confirmed) == [make_id(1), make_id(2)]


async def test_acknowledgements_that_are_refused_for_good_are_not_posted_for_ever(server):
    server.ack_replies = [400]
    server.events = [wire(1), wire(2)]
    async with listen(server, transport="sse") as client:
        assert await take(client, 2) == [1, 2]
        await until(lambda: server.ack_replies == [])
    assert server.confirmed == [make_id(2)]


async def test_a_burst_on_the_stream_is_held_back_and_comes_whole(server):
    server.max_in_flight = 10
    server.events = [wire(number, data={"pad": "x" * 1_000}) for number in range(1, 501)]
    async with listen(server, transport="sse") as client:
        for number in range(1, 501):
            assert await take(client, 1) == [number]
            await asyncio.sleep(0)  # time to read on, if it would
            assert len(client._inbox._buffer) <= 10 + 65
    assert len(server.streams) == 1
    assert len(server.confirmed) == 500
    assert len(server.posts) < 250


async def test_a_new_token_comes_with_a_new_stream_before_the_old_one_expires(server, monkeypatch):
    monkeypatch.setattr("delivery.client.tokens.MIN_REFRESH", 0.02)
    tokens = [jwt(3_600), jwt(0.1)]
    second = tokens[0]
    seen = []
    async with listen(server, lambda: tokens.pop(), transport="sse", on_status=seen.append):
        await until(lambda: len(server.streams) == 2)
    assert server.stream_tokens[1] == second
    assert [status.reason for status in seen if status.state == "waiting"] == [
        "another stream for the new token"
    ]


async def test_while_no_new_token_can_be_had_the_stream_is_kept(server, monkeypatch):
    monkeypatch.setattr("delivery.client.tokens.MIN_REFRESH", 0.02)
    monkeypatch.setattr("delivery.client.tokens.REFRESH_AGAIN", (0.02, 0.02))
    asked = []

    def token():
        asked.append(None)
        if len(asked) > 1:
            raise RuntimeError("identity provider away")
        return jwt(0.1)

    async with listen(server, token, transport="sse"):
        await until(lambda: len(asked) > 3)
    assert len(server.streams) == 1


@pytest.mark.parametrize(
    ("status", "detail"),
    [
        (401, "the signature is wrong"),
        (401, "the token has expired"),
        (403, "this is for services"),
    ],
)
async def test_a_plain_token_that_is_refused_ends_the_client(server, status, detail):
    server.refuse_stream = lambda: web.json_response({"detail": detail}, status=status)
    async with listen(server, transport="sse") as client:
        with pytest.raises(Unauthenticated, match=detail):
            await take(client, 1)
        assert (client.status.state, client.status.transport) == ("closed", None)


@pytest.mark.parametrize("code", [3005, 3006, 3500])
async def test_a_token_that_is_refused_is_followed_by_a_newer_one(server, code):
    tokens = ["second", "first"]
    server.refuses = [code]
    async with listen(server, lambda: tokens.pop()) as client:
        await until(lambda: client.is_connected)
    assert [connect["token"] for connect in server.connects] == ["first", "second"]


@pytest.mark.parametrize(
    ("headers", "detail"),
    [({}, "the token has expired"), ({}, "wrong key"), ({"Retry-After": "1"}, "not valid yet")],
)
async def test_a_token_that_is_refused_on_the_stream_is_followed_by_a_newer_one(
    server, monkeypatch, headers, detail
):
    monkeypatch.setattr("delivery.client.stream.seconds", lambda text: 0.01 if text else None)
    tokens = ["second", "first"]

    def once():
        server.refuse_stream = None
        return web.json_response({"detail": detail}, status=401, headers=headers)

    server.refuse_stream = once
    async with listen(server, lambda: tokens.pop(), transport="sse") as client:
        await until(lambda: client.is_connected)
    assert server.stream_tokens == ["second"]


async def test_a_second_token_that_is_refused_ends_the_client(server):
    asked = []
    server.refuse = 3500

    def token():
        asked.append(None)
        return f"t{len(asked)}"

    async with listen(server, token) as client:
        with pytest.raises(Unauthenticated, match="3500"):
            await take(client, 1)
    assert [connect["token"] for connect in server.connects] == ["t1", "t2"]


async def test_what_time_may_mend_is_tried_again_with_a_plain_token_too(server):
    server.refuses = [3006, 3006]
    async with listen(server) as client:
        await until(lambda: client.is_connected)
    assert len(server.connects) == 3


async def test_a_token_that_is_always_expired_is_tried_ever_more_rarely(server):
    server.refuse = 3005
    seen = []
    backoff = FullJitter(base=0.01, max=0.04)
    async with listen(
        server, lambda: "old", backoff=backoff, jitter=lambda: 0.99, on_status=seen.append
    ):
        await until(lambda: len(server.connects) == 4)
    waits = [status for status in seen if status.state == "waiting"][:3]
    assert {status.code for status in waits} == {3005}
    assert len(server.connects) == 4
    assert server.upgrades == 4  # an expired token is no reason to try the stream


async def test_a_refresh_that_is_refused_leaves_the_socket_open_and_is_tried_again(
    server, monkeypatch
):
    monkeypatch.setattr("delivery.client.tokens.MIN_REFRESH", 0.02)
    monkeypatch.setattr("delivery.client.tokens.REFRESH_AGAIN", (0.02, 0.02))
    server.refuse_refresh = True
    tokens = [jwt(3_600), "bad", "bad", jwt(0.1)]
    async with listen(server, lambda: tokens.pop()) as client:

        def refreshes():
            return [frame["token"] for frame in server.frames if frame["type"] == "refresh"]

        await until(lambda: refreshes() == ["bad", "bad"])
        server.refuse_refresh = False
        await until(lambda: tokens == [])
        await server.emit(wire(1))
        assert await take(client, 1) == [1]
    assert len(server.connects) == 1


async def test_acknowledgements_that_are_refused_are_posted_with_a_newer_token(server):
    server.ack_replies = [401]
    server.events = [wire(1), wire(2)]
    tokens = ["second", "first"]
    async with listen(server, lambda: tokens.pop(), transport="sse") as client:
        assert await take(client, 2) == [1, 2]
        await until(lambda: make_id(1) in server.confirmed)
    assert tokens == []


async def test_what_only_later_versions_send_is_ignored(server):
    later = {"type": "append", "id": make_id(9), "offset": 0, "text": "x"}
    async with listen(server) as client:
        await until(lambda: server.sockets)
        await server.sockets[0].send_json(later)
        await server.emit(wire(1))
        assert await take(client, 1) == [1]
        assert client.reconnects == 0
    async with listen(server, transport="sse") as client:
        await until(lambda: server.live_streams)
        await server.tell(server.live_streams[0], ("append", later))
        await server.live_streams[0].write(b"event: heartbeat\ndata: now\n\n")
        await server.emit(wire(2))
        assert await take(client, 1) == [2]
        assert client.reconnects == 0


async def test_a_token_that_expires_on_the_stream_is_replaced(server):
    tokens = ["second", "first"]
    async with listen(server, lambda: tokens.pop(), transport="sse"):
        await until(lambda: server.live_streams)
        gone = {"type": "error", "code": "unauthorized", "message": "the token has expired"}
        await server.tell(server.live_streams[0], ("error", gone))
        await until(lambda: len(server.streams) == 2)
    assert server.stream_tokens == ["first", "second"]


async def test_a_plain_token_that_expires_on_a_socket_ends_the_client(server):
    async with listen(server) as client:
        await until(lambda: client.is_connected)
        await server.drop(3005)
        with pytest.raises(Unauthenticated, match="3005"):
            await take(client, 1)


async def test_a_full_gateway_is_left_alone_for_as_long_as_it_asks(server):
    busy = {"Retry-After": "1"}
    server.refuse_stream = lambda: web.Response(status=503, headers=busy, text="{}")
    seen = []
    async with listen(server, transport="sse", on_status=seen.append):
        await until(lambda: any(status.state == "waiting" for status in seen))
    waiting = next(status for status in seen if status.state == "waiting")
    assert 0.5 <= (waiting.retry_at.timestamp() - time.time()) <= 2.0


async def test_a_badge_is_told_every_change_and_nothing_twice(server):
    seen = []
    async with listen(server, store=MemoryStore(), on_status=seen.append) as client:
        await until(lambda: client.is_connected)
        await server.drop(3011)
        await until(lambda: len(server.connects) == 2 and client.is_connected)
    assert [status.state for status in seen] == [
        "connected",
        "waiting",
        "connecting",
        "connected",
        "closed",
    ]
    assert (seen[0].transport, seen[0].user_id, seen[0].node) == ("websocket", "u1", "n1")
    assert (seen[1].code, seen[1].transport) == (3011, None)
    assert seen[1].retry_at is not None
    assert seen[-1] == client.status


async def test_a_badge_that_fails_does_not_end_the_client(server, caplog):
    def broken(status):
        raise RuntimeError("no such widget")

    server.events = [wire(1)]
    async with listen(server, on_status=broken) as client:
        assert await take(client, 1) == [1]
    assert "no such widget" in caplog.text


async def test_the_blocking_twin_takes_the_stream_as_well(server):
    server.blocks = 403
    server.events = [wire(1), wire(2)]

    def work():
        with BlockingClient(server.url, "t", backoff=AT_ONCE) as client:
            seen = [client.next(timeout=5.0).seq for _ in range(2)]
            return seen, client.status.transport, client.is_connected

    assert await asyncio.to_thread(work) == ([1, 2], "sse", True)
    assert sorted(server.confirmed) == [make_id(1), make_id(2)]
