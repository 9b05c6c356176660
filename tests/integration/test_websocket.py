"""A real gateway spoken to by a WebSocket client that shares no code with it."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from delivery.bus.in_process import LocalBus, LocalHub
from delivery.domain.event import Event, EventClass
from delivery.domain.lifecycle import State
from delivery.domain.node_messages import (
    Disconnect,
    NodeMessage,
    ResendAnswer,
    ResendRequest,
    Wake,
)
from delivery.domain.users.revocation import Revocation, RevocationKind
from delivery.gateway import session as sessions
from delivery.protocol import Limits
from tests.fast_path import Node, make_event, new_id, serve
from tests.waiting import until

PROTOCOLS = [Subprotocol("delivery.v1")]


async def say(ws: ClientConnection, **frame: Any) -> None:
    await ws.send(json.dumps(frame))


async def hear(ws: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(10):
        frame = json.loads(await ws.recv())
    assert isinstance(frame, dict)
    return frame


async def closed_with(ws: ClientConnection) -> int:
    """Read to the end; the close code."""

    async def read_on() -> None:
        async with asyncio.timeout(15):
            while True:
                await ws.recv()

    with pytest.raises(ConnectionClosed) as end:
        await read_on()
    assert end.value.rcvd is not None
    return end.value.rcvd.code


async def events_of(ws: ClientConnection, count: int) -> tuple[list[str], int]:
    """The next events' ids, and the last ``n``."""
    ids: list[str] = []
    n = 0
    while len(ids) < count:
        frame = await hear(ws)
        assert frame["type"] == "events", frame
        ids += [event["id"] for event in frame["events"]]
        n = frame["n"]
    return ids, n


@asynccontextmanager
async def joined(
    node: Node, user: str = "ada", **connect_frame: Any
) -> AsyncIterator[tuple[ClientConnection, dict[str, Any]]]:
    async with connect(node.ws_url, subprotocols=PROTOCOLS) as ws:
        await say(ws, type="connect", token=f"token-{user}", **connect_frame)
        yield ws, await hear(ws)


async def test_an_event_travels_to_its_user_and_the_ack_confirms_it() -> None:
    async with serve(Node()) as node, joined(node, device="phone") as (ws, welcome):
        assert ws.subprotocol == "delivery.v1"
        assert ws.response is not None
        assert "Sec-WebSocket-Extensions" not in ws.response.headers
        assert welcome["type"] == "connected"
        assert welcome["user_id"] == "ada"
        assert welcome["node"] == "node-1"
        assert welcome["heartbeat"] == 25.0
        assert welcome["recovered"] is True
        assert welcome["max_in_flight"] == 1_000
        assert welcome["expires"].endswith("Z")
        event = make_event(data={"step": 1})
        assert node.emit(event) == 1
        frame = await hear(ws)
        assert frame == {"type": "events", "n": 1, "events": [event.as_wire()]}
        await say(ws, type="ack", upto=1)
        await until(lambda: node.journal.confirmations)
        [confirmation] = node.journal.confirmations
        assert (confirmation.event_id, confirmation.user_id) == (event.id, "ada")
        assert (confirmation.channel, confirmation.by) == ("websocket", "phone")
        assert confirmation.evidence == welcome["connection_id"]
        assert node.confirmed == [event.id]


async def test_events_of_one_turn_come_in_one_frame_and_n_counts_ephemeral_ones() -> None:
    async with serve(Node()) as node, joined(node) as (ws, _):
        durable = [make_event() for _ in range(3)]
        for event in durable:
            node.emit(event)
        node.emit(make_event(event_class=EventClass.EPHEMERAL))
        frame = await hear(ws)
        assert (frame["n"], len(frame["events"])) == (4, 4)
        await say(ws, type="ack", ids=[durable[1].id])
        await say(ws, type="ack", upto=4)
        await until(lambda: len(node.journal.confirmations) == 3)
        assert node.journal.confirmed == [durable[1].id, durable[0].id, durable[2].id]


async def test_a_user_hears_nothing_of_another() -> None:
    async with serve(Node()) as node, joined(node) as (ada, _), joined(node, "eve") as (eve, _):
        hers = make_event("eve")
        node.emit(hers)
        mine = make_event("ada")
        node.emit(mine)
        assert (await events_of(ada, 1))[0] == [mine.id]
        assert (await events_of(eve, 1))[0] == [hers.id]
        await say(ada, type="ack", ids=[hers.id])
        assert (await hear(ada))["code"] == "unknown_ack"
        assert node.journal.confirmations == []


async def test_a_services_name_is_no_users_and_gets_no_connection() -> None:
    async with serve(Node()) as node, connect(node.ws_url) as ws:
        await say(ws, type="connect", token="service-ada")
        assert await closed_with(ws) == 3500
        assert node.emit(make_event("ada")) == 0


async def test_a_service_does_not_take_over_a_users_connection_by_a_refresh() -> None:
    async with serve(Node()) as node, joined(node) as (ws, _):
        await say(ws, type="refresh", token="service-ada")
        assert (await hear(ws))["code"] == "unauthorized"
        assert node.emit(make_event("ada")) == 1  # still hers, on the token before


async def test_a_client_without_the_subprotocol_is_served() -> None:
    async with serve(Node()) as node, connect(node.ws_url) as ws:
        await say(ws, type="connect", token="token-ada")
        assert (await hear(ws))["type"] == "connected"
        assert ws.subprotocol is None


async def test_two_devices_both_hear_and_both_confirm() -> None:
    async with (
        serve(Node()) as node,
        joined(node, device="a") as (first, _),
        joined(node, device="b") as (second, _),
    ):
        assert node.emit(make_event()) == 2
        for ws in (first, second):
            await events_of(ws, 1)
            await say(ws, type="ack", upto=1)
        await until(lambda: len(node.journal.confirmations) == 2)
        assert sorted(confirmation.by for confirmation in node.journal.confirmations) == ["a", "b"]


async def test_what_is_unconfirmed_is_replayed_on_connect() -> None:
    async with serve(Node()) as node:
        owed = [node.ledger.add(make_event()).event.id for _ in range(250)]
        node.ledger.add(make_event(), State.CONFIRMED)
        async with joined(node) as (ws, welcome):
            assert welcome["recovered"] is True
            assert await events_of(ws, 250) == (owed, 250)
            node.emit(fresh := make_event())
            assert await events_of(ws, 1) == ([fresh.id], 251)


async def test_a_cursor_replays_what_came_around_and_after_it() -> None:
    async with serve(Node()) as node:
        node.ledger.add(make_event(), State.CONFIRMED, age=200.0)
        cursor = node.ledger.add(make_event(), State.CONFIRMED, age=100.0).event.id
        after = node.ledger.add(make_event(), State.CONFIRMED, age=50.0).event.id
        async with joined(node, cursor=cursor) as (ws, welcome):
            assert welcome["recovered"] is True
            assert (await events_of(ws, 2))[0] == [cursor, after]


async def test_an_unknown_cursor_says_so_and_brings_the_unconfirmed() -> None:
    async with serve(Node()) as node:
        owed = node.ledger.add(make_event()).event.id
        async with joined(node, cursor=new_id()) as (ws, welcome):
            assert welcome["recovered"] is False
            assert (await events_of(ws, 1))[0] == [owed]


async def test_without_the_ledger_the_second_copy_is_sent_and_pushes_flow() -> None:
    copy = make_event()

    async def queue_copies(user_id: str) -> list[Event]:
        return [copy]

    async with serve(Node(queue_copies=queue_copies)) as node:
        node.ledger.go_away()
        async with joined(node) as (ws, welcome):
            assert welcome["recovered"] is False
            assert (await events_of(ws, 1))[0] == [copy.id]
            node.registry.push(fresh := make_event(), json.dumps(fresh.as_wire()).encode())
            assert (await events_of(ws, 1))[0] == [fresh.id]


async def test_no_more_than_max_in_flight_leave_and_the_rest_follows_the_acks_in_order() -> None:
    limits = Limits(max_in_flight=10, max_queue=20)
    async with serve(Node(limits=limits)) as node, joined(node) as (ws, _):
        events = [make_event() for _ in range(300)]
        for event in events:
            node.emit(event)
        ids, n = await events_of(ws, 10)
        await say(ws, type="ping")
        assert (await hear(ws))["type"] == "pong", "nothing more may come before an ack"
        while len(ids) < len(events):
            await say(ws, type="ack", upto=n)
            more, n = await events_of(ws, 1)
            ids += more
        assert ids == [event.id for event in events]


async def test_a_nack_starts_the_chain_at_once() -> None:
    async with serve(Node()) as node, joined(node) as (ws, _):
        node.emit(event := make_event())
        await events_of(ws, 1)
        await say(ws, type="nack", id=event.id, reason="cannot show it")
        await until(lambda: node.journal.hand_overs)
        assert node.journal.hand_overs == [(event.id, "nack: cannot show it")]
        assert node.chain_calls == 1


@pytest.mark.parametrize(
    ("first", "code"),
    [
        ('{"type":"connect","token":"rubbish"}', 3500),
        ('{"type":"connect","token":"expired"}', 3005),
        ('{"type":"connect"}', 3500),
        ('{"type":"ack","upto":0}', 3501),
        ('{"type":"dance"}', 3501),
        ("not json", 3501),
        (b"\x00binary", 3501),
        ('{"type":"connect","token":7}', 3501),
    ],
)
async def test_a_wrong_first_frame_closes_with_its_code(first: str | bytes, code: int) -> None:
    async with serve(Node()) as node, connect(node.ws_url) as ws:
        await ws.send(first)
        assert await closed_with(ws) == code
        await until(lambda: node.gateway.path.sockets == 0)


async def test_no_connect_in_time_closes_with_3502(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "CONNECT_TIMEOUT", 0.1)
    async with serve(Node()) as node, connect(node.ws_url) as ws:
        assert await closed_with(ws) == 3502


async def test_a_token_on_the_upgrade_serves_a_connect_without_one() -> None:
    headers = {"Authorization": "Bearer token-ada"}
    async with serve(Node()) as node, connect(node.ws_url, additional_headers=headers) as ws:
        await say(ws, type="connect", device="cli")
        assert (await hear(ws))["user_id"] == "ada"


async def test_a_token_on_the_upgrade_connects_who_says_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sessions, "CONNECT_TIMEOUT", 0.1)
    headers = {"Authorization": "Bearer token-ada"}
    async with serve(Node()) as node, connect(node.ws_url, additional_headers=headers) as ws:
        assert (await hear(ws))["user_id"] == "ada"


async def test_a_bad_token_on_the_upgrade_closes_with_3500() -> None:
    headers = {"Authorization": "Bearer rubbish"}
    async with serve(Node()) as node, connect(node.ws_url, additional_headers=headers) as ws:
        assert await closed_with(ws) == 3500


async def test_a_token_that_runs_out_closes_with_3005_and_a_refreshed_one_does_not() -> None:
    async with serve(Node(limits=Limits(heartbeat=0.4))) as node:
        node.tokens.ttl = 0.6
        async with joined(node) as (idle, _), joined(node) as (fresh, _):
            node.tokens.ttl = 3_600.0
            await say(fresh, type="refresh", token="token-ada")
            assert await closed_with(idle) == 3005
            await say(fresh, type="ping")
            assert (await hear(fresh))["type"] == "pong"


async def test_a_refresh_for_another_user_closes_with_3500() -> None:
    async with serve(Node()) as node, joined(node) as (ws, _):
        await say(ws, type="refresh", token="token-eve")
        assert await closed_with(ws) == 3500


async def test_one_connection_too_many_closes_with_3504() -> None:
    async with serve(Node(max_per_user=1)) as node, joined(node), connect(node.ws_url) as ws:
        await say(ws, type="connect", token="token-ada")
        assert await closed_with(ws) == 3504


async def test_a_message_over_the_limit_is_refused() -> None:
    async with serve(Node()) as node, joined(node) as (ws, _):
        await ws.send("x" * (1 << 20) + "x")
        assert await closed_with(ws) == 1009
        await until(lambda: node.registry.connections == 0)


async def test_pings_of_the_client_are_answered() -> None:
    async with serve(Node()) as node, joined(node) as (ws, _):
        async with asyncio.timeout(5):
            await (await ws.ping(b"hello"))


async def raw_client(node: Node, receive_buffer: int | None = None) -> socket.socket:
    """A socket that has connected as ada and then neither reads nor answers."""
    loop = asyncio.get_running_loop()
    raw = socket.socket()
    if receive_buffer is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    raw.setblocking(False)
    await loop.sock_connect(raw, ("127.0.0.1", node.port))
    await loop.sock_sendall(
        raw,
        b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    )
    payload = b'{"type":"connect","token":"token-ada"}'
    await loop.sock_sendall(raw, bytes([0x81, 0x80 | len(payload)]) + bytes(4) + payload)
    await until(lambda: node.registry.connections == 1)
    return raw


async def test_a_client_that_answers_no_ping_is_closed_with_3012() -> None:
    async with serve(Node(limits=Limits(heartbeat=0.2))) as node:
        with await raw_client(node) as raw:
            received = b""
            async with asyncio.timeout(10):
                while chunk := await asyncio.get_running_loop().sock_recv(raw, 65_536):
                    received += chunk
        assert b"\x88" in received
        assert (3012).to_bytes(2, "big") + b"no pong" in received
        assert node.registry.connections == 0


async def test_a_client_that_reads_nothing_is_dropped_and_keeps_no_other_waiting() -> None:
    node = Node(limits=Limits(max_in_flight=10_000, max_queue=10_000), send_timeout=2.0)
    async with serve(node):
        stuck = await raw_client(node, 4_096)
        async with joined(node) as (ws, _):
            events = [make_event(data={"text": "x" * 60_000}) for _ in range(200)]
            for event in events:  # a commit before each push would hold up the loop
                node.ledger.add(event)
            for event in events:
                node.emit(event, record=False)
                await asyncio.sleep(0)
            sent = [event.id for event in events]
            received: list[str] = []
            while len(received) < len(sent):
                ids, n = await events_of(ws, 1)
                received += ids
                await say(ws, type="ack", upto=n)
            assert received == sent
            await until(lambda: node.registry.connections == 1)
        await until(lambda: node.gateway.path.sockets == 0, timeout=15)
        stuck.close()


async def test_the_chain_resends_to_live_sockets_and_the_client_sees_the_event_again() -> None:
    async with serve(Node()) as node, joined(node) as (ws, _):
        node.emit(event := make_event())
        assert await events_of(ws, 1) == ([event.id], 1)
        reading = asyncio.create_task(events_of(ws, 1))
        assert await node.gateway.resend("ada", [event.id], 5.0) == 1
        assert await reading == ([event.id], 2)


async def test_a_drain_names_a_time_to_come_back_and_closes_with_3001() -> None:
    node = Node()
    async with serve(node), joined(node) as (ws, _), connect(node.ws_url) as undecided:
        await until(lambda: node.gateway.path.sockets == 2)
        stopping = asyncio.create_task(node.gateway.stop(5.0))
        frame = await hear(ws)
        assert frame["type"] == "reconnect"
        assert 0 <= frame["after_ms"] <= 5_000
        assert await closed_with(ws) == 3001
        assert await closed_with(undecided) == 3001
        async with asyncio.timeout(3):
            await stopping
        assert node.journal.flushes == 1
        with pytest.raises(OSError, match=r"refused|Connect"):
            await connect(node.ws_url)


async def test_an_event_emitted_on_one_node_reaches_a_client_of_another() -> None:
    hub = LocalHub()
    first = Node("n1", bus=LocalBus(hub))
    second = Node("n2", bus=LocalBus(hub), ledger=first.ledger)
    async with serve(first), serve(second), joined(second) as (ws, welcome):
        assert welcome["node"] == "n2"
        await until(lambda: first.registry.peers.hosts_of("ada"))
        event = make_event(data={"text": "über"})
        assert first.emit(event) == 1
        frame = await hear(ws)
        assert frame["events"] == [event.as_wire()]
        await say(ws, type="ack", upto=1)
        await until(lambda: first.confirmed == [event.id])
        first.registry.peers.publish(Disconnect(node="n1", user="ada"))
        assert await closed_with(ws) == 3503


async def test_an_ack_over_http_at_one_node_makes_room_on_another() -> None:
    hub = LocalHub()
    first = Node("n1", bus=LocalBus(hub))
    second = Node("n2", bus=LocalBus(hub), ledger=first.ledger, limits=Limits(max_in_flight=1))
    async with serve(first), serve(second), joined(second) as (ws, _):
        await until(lambda: first.registry.peers.hosts_of("ada"))
        events = [make_event(), make_event()]
        for event in events:
            first.emit(event)
        assert (await events_of(ws, 1))[0] == [events[0].id]
        first.registry.acknowledged("ada", [events[0].id])
        assert (await events_of(ws, 1))[0] == [events[1].id]
        assert second.confirmed == [events[0].id]


async def test_a_worker_asks_over_the_bus_for_a_resend_and_gets_the_count() -> None:
    hub = LocalHub()
    node = Node("n1", bus=LocalBus(hub))
    worker = LocalBus(hub)
    heard: list[NodeMessage] = []
    await worker.start(heard.append)
    async with serve(node), joined(node) as (ws, _):
        stored = node.ledger.add(make_event())
        reading = asyncio.create_task(events_of(ws, 1))
        ids = [stored.event.id]
        worker.publish(ResendRequest(node="w", request="r1", user="ada", ids=ids, timeout=5.0))
        assert (await reading)[0] == [stored.event.id]
        await until(lambda: ResendAnswer(node="n1", request="r1", count=1) in heard)
        woken = node.ledger.add(make_event()).event.id
        worker.publish(Wake(node="w", users=["ada"]))
        assert (await events_of(ws, 1))[0] == [woken]
    await worker.stop()


async def raw_socket(node: Node) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """An upgraded connection whose frames the test writes by itself."""
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    writer.write(
        b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    assert b"101" in (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0]
    return reader, writer


async def close_code(reader: asyncio.StreamReader) -> int:
    """The code of the server's close frame, whatever comes before it."""
    async with asyncio.timeout(10):
        data = await reader.read()
    start = data.index(b"\x88")
    return int.from_bytes(data[start + 2 : start + 4], "big")


@pytest.mark.parametrize(
    "flood",
    [b"\x89\x80\0\0\0\0", b"\x8a\x80\0\0\0\0", b"\x01\x80\0\0\0\0" + b"\0\x80\0\0\0\0" * 7],
    ids=["pings", "pongs", "empty fragments"],
)
async def test_frames_of_any_kind_before_connect_close_with_3505(flood: bytes) -> None:
    async with serve(Node()) as node:
        reader, writer = await raw_socket(node)
        writer.write(flood * 100)
        assert await close_code(reader) == 3505
        writer.close()


async def test_an_unmasked_frame_closes_with_3501() -> None:
    async with serve(Node()) as node:
        reader, writer = await raw_socket(node)
        writer.write(b"\x81\x02{}")
        assert await close_code(reader) == 3501
        writer.close()


async def test_a_flood_in_the_packet_of_the_upgrade_is_closed_as_well() -> None:
    async with serve(Node()) as node:
        reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
        writer.write(
            b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            + b"\x89\x80\0\0\0\0"
            * 100
        )
        await reader.readuntil(b"\r\n\r\n")
        assert await close_code(reader) == 3505
        writer.close()


async def test_a_client_that_was_admitted_and_floods_is_closed_with_3505() -> None:
    async with serve(Node()) as node, joined(node) as (ws, _):
        for _ in range(400):
            await ws.ping()
        assert await closed_with(ws) == 3505


async def test_a_revocation_on_one_node_closes_the_sockets_of_both_without_the_ledger() -> None:
    hub = LocalHub()
    one, two = (Node(name, bus=LocalBus(hub)) for name in ("node-1", "node-2"))
    async with serve(one), serve(two), joined(one) as (here, _), joined(two) as (there, _):
        expires_at = datetime.now(UTC) + timedelta(hours=1)
        revoked = Revocation(RevocationKind.JTI, "token-ada", None, expires_at)
        one.gateway.path.revoke(revoked)
        assert [await closed_with(ws) for ws in (here, there)] == [3500, 3500]


async def test_a_token_that_is_revoked_between_upgrade_and_connect_is_refused() -> None:
    node = Node()
    async with serve(node), connect(node.ws_url, subprotocols=PROTOCOLS) as ws:
        expires_at = datetime.now(UTC) + timedelta(hours=1)
        node.revocations.add([Revocation(RevocationKind.JTI, "token-ada", None, expires_at)])
        await say(ws, type="connect", token="token-ada")
        assert (await hear(ws))["code"] == "unauthorized"
        assert await closed_with(ws) == 3500
