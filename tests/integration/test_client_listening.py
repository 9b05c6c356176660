"""The listening client against a real server: acknowledgements, reconnects, refusals."""

import asyncio
import base64
import json
import time
from datetime import UTC, datetime

import pytest

from delivery.client.backoff import FullJitter
from delivery.client.client import Client
from delivery.client.store import FileStore, MemoryStore
from delivery.client.sync_client import BlockingClient
from delivery.domain.event import EventClass
from delivery.errors import ProtocolError, Unauthenticated, Unreachable
from delivery.testing import make_event, make_id
from tests.contract_server import ContractServer
from tests.waiting import until

AT_ONCE = FullJitter(base=0.001, max=0.01)


@pytest.fixture
async def server():
    async with ContractServer().running() as running:
        yield running


def wire(number, **changes):
    return make_event(id=make_id(number), seq=number, **changes).as_wire()


def listen(server, token="t", **options):
    return Client(server.url, token, backoff=AT_ONCE, **options)


async def take(client, count):
    """The next events' numbers; the last one stays in hand."""
    async with asyncio.timeout(5.0):
        return [(await anext(client)).seq for _ in range(count)]


async def test_an_event_is_acknowledged_after_the_body_and_not_before(server):
    server.events = [wire(1), wire(2)]
    async with listen(server) as client:
        async for event in client:
            if event.seq == 1:
                assert server.confirmed == []
            else:
                await until(lambda: server.confirmed == [make_id(1)])
                break
    assert server.confirmed == [make_id(1), make_id(2)]


async def test_leaving_waits_until_the_last_acknowledgements_have_been_read(server):
    server.events = [wire(1), wire(2)]
    server.reads.clear()
    async with listen(server) as client:
        assert await take(client, 2) == [1, 2]
        asyncio.get_running_loop().call_later(0.05, server.reads.set)
    assert server.confirmed == [make_id(1), make_id(2)]


async def test_a_body_that_raises_is_not_acknowledged_and_sees_the_event_again(server):
    server.events = [wire(1), wire(2)]
    store = MemoryStore()

    async def fail_at_the_second():
        async with listen(server, store=store) as client:
            async for event in client:
                if event.seq == 2:
                    raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        await fail_at_the_second()
    await until(lambda: server.confirmed == [make_id(1)])
    async with listen(server, store=store) as client:
        assert await take(client, 1) == [2]
    assert server.confirmed == [make_id(1), make_id(2)]


async def test_after_a_failed_body_later_acks_do_not_include_it(server):
    server.events = [wire(1), wire(2), wire(3)]
    async with listen(server) as client:
        assert await take(client, 1) == [1]
        # Its body raised: the loop was left, and another one begins.
        async for event in client:
            if event.seq == 3:
                break
    assert server.confirmed == [make_id(2), make_id(3)]


async def test_a_burst_is_acknowledged_by_count_in_few_frames(server):
    server.events = [wire(number) for number in range(1, 501)]
    async with listen(server) as client:
        assert await take(client, 500) == list(range(1, 501))
    assert len(server.confirmed) == 500
    acks = [frame for frame in server.frames if frame["type"] == "ack"]
    assert all("upto" in frame for frame in acks)
    assert len(acks) <= 10


async def test_after_a_lost_connection_the_handler_sees_nothing_twice(server):
    server.events = [wire(1), wire(2)]
    async with listen(server) as client:
        assert await take(client, 2) == [1, 2]
        await server.drop(3011)
        await until(lambda: len(server.connects) == 2)
        await server.emit(wire(3))
        assert await take(client, 1) == [3]
        assert server.connects[1]["cursor"] == make_id(1)
    assert sorted(server.confirmed) == [make_id(1), make_id(2), make_id(3)]


async def test_events_that_waited_through_a_reconnect_come_once_and_in_order(server):
    server.events = [wire(number) for number in range(1, 6)]
    async with listen(server) as client:
        assert await take(client, 1) == [1]
        await server.drop(1012)
        await until(lambda: len(server.connects) == 2 and client.is_connected)
        assert await take(client, 4) == [2, 3, 4, 5]
    assert sorted(server.confirmed) == [make_id(number) for number in range(1, 6)]


async def test_a_reconnect_frame_says_when_to_come_back(server):
    async with listen(server) as client:
        await until(lambda: client.is_connected)
        began = time.monotonic()
        await server.sockets[0].send_json(
            {"type": "reconnect", "after_ms": 80, "reason": "shutdown"}
        )
        await server.drop(3001)
        await until(lambda: len(server.connects) == 2)
        assert time.monotonic() - began >= 0.08


async def test_a_bad_token_is_an_error_and_not_a_loop(server):
    server.refuse = 3500
    async with listen(server) as client:
        with pytest.raises(Unauthenticated, match="bad token"):
            await take(client, 1)
    assert len(server.connects) == 1


@pytest.mark.parametrize("code", [3501, 3503, 3504, 3505])
async def test_a_server_that_says_do_not_come_back_is_obeyed(server, code):
    async with listen(server) as client:
        await until(lambda: client.is_connected)
        await server.drop(code)
        with pytest.raises(ProtocolError) as caught:
            await take(client, 1)
        assert caught.value.close_code == code
    assert len(server.connects) == 1


async def test_a_token_function_is_asked_for_every_connection(server):
    tokens = iter(["first", "second"])

    async def token():
        return next(tokens)

    async with listen(server, token) as client:
        await until(lambda: client.is_connected)
        await server.drop(3005)
        await until(lambda: len(server.connects) == 2)
    assert [frame["token"] for frame in server.connects] == ["first", "second"]


def jwt(expires_in: float) -> str:
    claims = json.dumps({"sub": "u1", "exp": time.time() + expires_in}).encode()
    return f"h.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.s"


async def test_a_token_is_refreshed_before_it_expires(server):
    tokens = [jwt(3600), jwt(0.1)]
    async with listen(server, lambda: tokens.pop()):
        await until(lambda: any(frame["type"] == "refresh" for frame in server.frames))
    assert len(server.connects) == 1


async def test_a_function_that_goes_on_giving_an_expired_token_leaves_the_good_one_in_use(
    server, monkeypatch
):
    monkeypatch.setattr("delivery.client.tokens.MIN_REFRESH", 0.01)
    monkeypatch.setattr("delivery.client.tokens.REFRESH_AGAIN", (0.01, 0.05))
    asked = []

    def token():
        asked.append(None)
        return jwt(0.1 if len(asked) == 1 else -600)

    for transport in ("websocket", "sse"):
        asked.clear()
        async with listen(server, token, transport=transport) as client:
            await until(lambda: len(asked) >= 4)
            assert client.reconnects == 0
    assert not any(frame["type"] == "refresh" for frame in server.frames)


async def test_an_expired_token_without_end_makes_the_pauses_grow(server):
    server.refuse = 3005
    ceilings = FullJitter(base=0.05, max=0.4)
    pauses = []

    def on_status(status):
        if status.retry_at is not None:
            pauses.append((status.retry_at - datetime.now(UTC)).total_seconds())

    client = Client(
        server.url,
        lambda: jwt(-600),
        transport="websocket",
        backoff=ceilings,
        jitter=lambda: 1.0,
        on_status=on_status,
    )
    async with client:
        await until(lambda: any(pause > 0.2 for pause in pauses))
    assert len(pauses) >= 4, "the first ones are shorter"


async def test_a_token_function_that_fails_once_is_asked_again(server):
    answers = [RuntimeError("identity provider away"), "token"]

    def token():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with listen(server, token) as client:
        await until(lambda: client.is_connected)


async def test_a_service_that_is_away_is_unreachable_after_the_time_to_give_up():
    async with Client("http://127.0.0.1:9", "t", backoff=AT_ONCE, give_up_after=0.1) as client:
        with pytest.raises(Unreachable):
            await take(client, 1)


async def test_a_silent_line_is_given_up(server, monkeypatch):
    monkeypatch.setattr("delivery.client.connection.SILENCE_GRACE", 0.05)
    server.heartbeat, server.is_mute = 0.05, True
    async with listen(server):
        await until(lambda: len(server.connects) >= 2)


async def test_a_quiet_line_that_answers_pings_is_kept(server, monkeypatch):
    monkeypatch.setattr("delivery.client.connection.SILENCE_GRACE", 0.2)
    server.heartbeat = 0.05
    async with listen(server):
        await until(lambda: [frame["type"] for frame in server.frames].count("ping") >= 10)
    assert len(server.connects) == 1


async def test_a_nack_hands_the_event_back(server):
    server.events = [wire(1), wire(2)]
    async with listen(server) as client:
        async for event in client:
            if event.seq == 1:
                await client.nack(event, "cannot show this")
            else:
                break
    assert server.nacks == [make_id(1)]
    assert server.confirmed == [make_id(2)]


async def test_ephemeral_events_count_but_are_never_acknowledged_by_id(server):
    ephemeral = wire(2, event_class=EventClass.EPHEMERAL)
    server.events = [wire(1), ephemeral, wire(3)]
    async with listen(server) as client:
        assert await take(client, 3) == [1, 2, 3]
    acks = [frame for frame in server.frames if frame["type"] == "ack"]
    assert acks[-1] == {"type": "ack", "upto": 3}


async def test_a_wait_that_is_cancelled_loses_no_event(server):
    async with listen(server) as client:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await anext(client)
        await until(lambda: client.is_connected)
        await server.emit(wire(1))
        assert await take(client, 1) == [1]


async def test_a_file_store_survives_the_process(server, tmp_path):
    server.events = [wire(1), wire(2)]
    async with listen(server, store=FileStore(tmp_path / "cursor")) as client:
        assert await take(client, 2) == [1, 2]
    server.confirmed.clear()
    server.events.append(wire(3))
    async with listen(server, store=FileStore(tmp_path / "cursor")) as client:
        assert await take(client, 1) == [3]
    assert server.connects[1]["cursor"] == make_id(2)
    assert sorted(server.confirmed) == [make_id(1), make_id(2), make_id(3)]


async def test_after_close_the_loop_ends(server):
    client = listen(server)
    async with client:
        await until(lambda: client.is_connected)
    assert [event async for event in client] == []


async def test_the_blocking_twin_acknowledges_after_the_body_too(server):
    server.events = [wire(1), wire(2)]

    def work():
        seen = []
        with BlockingClient(server.url, "t", backoff=AT_ONCE) as client:
            for event in client:
                seen.append(event.seq)
                if event.seq == 2:
                    break
        return seen

    assert await asyncio.to_thread(work) == [1, 2]
    assert server.confirmed == [make_id(1), make_id(2)]


async def test_the_blocking_twin_waits_no_longer_than_asked(server):
    def work():
        with BlockingClient(server.url, "t") as client:
            return client.next(timeout=0.05)

    assert await asyncio.to_thread(work) is None
