"""Acknowledgements read from the bytes of the socket, beside frames that the parser must read."""

from __future__ import annotations

import json

import pytest
from websockets.asyncio.client import connect

from delivery.gateway import session as sessions
from delivery.protocol import Ack, Ping, encode
from tests.fast_path import Node, make_event, serve
from tests.integration.test_websocket import closed_with, events_of, hear, joined
from tests.unit.gateway.test_plain_ack import frame
from tests.waiting import until


def ack(upto: int) -> bytes:
    return frame(encode(Ack(upto=upto)))


async def test_whole_and_cut_and_other_frames_are_handled_in_their_order() -> None:
    async with serve(Node()) as node, joined(node) as (ws, _):
        ids = []
        for number in range(1, 5):
            event = make_event(seq=number)
            node.emit(event)
            ids.append(event.id)
        await events_of(ws, 4)
        cut = frame(encode(Ping()))
        ws.transport.write(ack(1) + ack(2) + cut[:9])
        await until(lambda: node.confirmed == ids[:2])
        ws.transport.write(cut[9:] + ack(3) + ack(4)[:20])
        assert (await hear(ws))["type"] == "pong"
        await until(lambda: node.confirmed == ids[:3])
        ws.transport.write(ack(4)[20:] + ack(9))
        assert (await hear(ws))["code"] == "unknown_ack"
        assert node.confirmed == ids


async def test_an_acknowledgement_inside_of_a_fragmented_message_is_none() -> None:
    async with serve(Node()) as node, joined(node) as (ws, _):
        node.emit(make_event())
        await events_of(ws, 1)
        ws.transport.write(frame(b'{"type":', first=0x01) + ack(1))
        assert await closed_with(ws) == 1002
        assert node.confirmed == []


@pytest.mark.parametrize("is_plain", [True, False])
async def test_a_client_with_its_token_on_the_upgrade_may_only_acknowledge(
    monkeypatch: pytest.MonkeyPatch, is_plain: bool
) -> None:
    monkeypatch.setattr(sessions, "CONNECT_TIMEOUT", 0.1)
    headers = {"Authorization": "Bearer token-ada"}
    async with serve(Node()) as node, connect(node.ws_url, additional_headers=headers) as ws:
        await hear(ws)
        loose = frame(json.dumps({"type": "ack", "upto": 0}).encode())
        ws.transport.write((ack(0) if is_plain else loose) * 60 + frame(encode(Ping())))
        assert (await hear(ws))["type"] == "pong"
