"""The bus's envelopes: what is in them, what is ignored, and what is malformed."""

from __future__ import annotations

import json
import logging
import typing
from typing import Any

import msgspec
import pytest

from delivery.bus import envelope
from delivery.bus.envelope import Reader, kind_of, pack, seal
from delivery.domain.event import decode_event
from delivery.domain.node_messages import (
    Acked,
    Bye,
    Confirmed,
    ConnectionInfo,
    ConnectionsAsked,
    ConnectionsTold,
    Disconnect,
    Gap,
    Heartbeat,
    Hello,
    InboxMarked,
    NodeMessage,
    PresenceChange,
    PresenceReport,
    Pushes,
    ResendAnswer,
    ResendRequest,
    Revoked,
    Wake,
)
from delivery.protocol import encode_event
from tests.fast_path import make_event

HELLO = Hello(node="one")
EVERY_KIND: list[NodeMessage] = [
    Pushes(node="one", users=["ada"], events=[msgspec.Raw(b'{"id":1}')], to=["two"]),
    Pushes(node="one", users=[], events=[]),
    HELLO,
    Bye(node="one"),
    Heartbeat(node="one"),
    PresenceReport(node="one", users=["ada"], is_first=True),
    PresenceChange(node="one", joined=["ada"], left=["eve"]),
    Wake(node="one", users=["ada"]),
    Gap(node="one"),
    Confirmed(node="one", ids=["id-1"]),
    Acked(node="one", user="ada", ids=["id-1"]),
    ResendRequest(node="w", request="r", user="ada", ids=["id-1"], reply="channel", timeout=2.5),
    ResendAnswer(node="one", request="r", count=2),
    Disconnect(node="one", user="ada"),
    ConnectionsAsked(node="n1", request="r1", user="ada"),
    ConnectionsTold(
        node="n1",
        request="r1",
        connections=[ConnectionInfo(node="n1", user="ada", id="c", since=1.5, health=100)],
    ),
    InboxMarked(node="one", user="ada"),
    Revoked(node="one", what="user", subject="ada", before=1.5, until=2.5),
]
DEEP = b"[" * 100_000 + b"]" * 100_000


def enveloped(*messages: bytes) -> bytes:
    return b'{"v":1,"sender":"one#1","body":[%b]}' % b",".join(messages)


def read(raw: bytes, reader: Reader | None = None) -> list[NodeMessage]:
    reader = reader or Reader()
    envelope = reader.unseal(raw)
    return [] if envelope is None else reader.unpack(envelope)


def changed(message: NodeMessage, **fields: Any) -> bytes:
    return json.dumps(json.loads(pack(message)) | fields).encode()


def test_every_kind_is_tried_here() -> None:
    assert {type(message) for message in EVERY_KIND} == set(typing.get_args(NodeMessage))


@pytest.mark.parametrize("message", EVERY_KIND, ids=kind_of)
def test_a_message_arrives_as_it_was_sent(message: NodeMessage) -> None:
    assert read(seal("one#1", [pack(message)])) == [message]


@pytest.mark.parametrize("message", EVERY_KIND, ids=kind_of)
def test_a_message_and_its_envelope_say_their_versions(message: NodeMessage) -> None:
    found = json.loads(seal("one#1", [pack(message)]))
    assert (found["v"], found["body"][0]["v"]) == (1, 1)


@pytest.mark.parametrize("message", EVERY_KIND, ids=kind_of)
def test_neither_the_order_of_fields_nor_their_number_means_anything(message: NodeMessage) -> None:
    fields = {"later": {"x": [1]}} | json.loads(pack(message))
    backwards = json.dumps(dict(reversed(fields.items()))).encode()
    envelope = {"body": [json.loads(backwards)], "later": 1, "sender": "one#1", "v": 1}
    [found] = read(json.dumps(envelope).encode())
    if isinstance(found, Pushes):  # its events stay as they were spelled
        assert isinstance(message, Pushes)
        assert (found.users, found.to) == (message.users, message.to)
        assert [json.loads(bytes(raw)) for raw in found.events] == [
            json.loads(bytes(raw)) for raw in message.events
        ]
    else:
        assert found == message


def test_many_messages_travel_together_in_order() -> None:
    assert read(seal("one#1", [pack(message) for message in EVERY_KIND])) == EVERY_KIND


def test_the_events_of_pushes_stay_encoded_until_a_node_needs_them() -> None:
    event = make_event()
    encoded = msgspec.Raw(encode_event(event))
    pushes = Pushes(node="one", users=["ada"], events=[encoded], to=["two"])
    [found, _] = read(seal("one#1", [pack(pushes), pack(HELLO)]))
    assert isinstance(found, Pushes)
    [raw] = found.events
    assert bytes(raw) == encode_event(event)
    assert decode_event(raw) == event


def test_the_messages_of_an_envelope_stay_encoded_until_they_are_unpacked() -> None:
    reader = Reader()
    assert reader.unseal(enveloped(b'{"kind":"wake","users":7}')) is not None
    assert reader.malformed == 0


def test_a_probe_carries_nothing() -> None:
    reader = Reader()
    envelope = reader.unseal(seal("one", probe=True))
    assert envelope is not None
    assert envelope.probe
    assert reader.unpack(envelope) == []


@pytest.mark.parametrize(
    "message",
    [
        b"null",
        b"7",
        b"[]",
        b"{}",
        b'{"node":"one"}',
        b'{"kind":7,"node":"one"}',
        b'{"kind":"hello"}',
        b'{"kind":"hello","node":null}',
        b'{"kind":"hello","node":"one","v":"1"}',
        b'{"kind":"hello","node":"one","v":0}',
        b'{"kind":"hello","node":"\xff"}',
        b'{"kind":"wake","node":"one","users":null}',
        b'{"kind":"wake","node":"one","users":[7]}',
        b'{"kind":"wake","node":"one","users":' + DEEP + b"}",
        b'{"kind":"pushes","node":"one","users":["ada"]}',
        b'{"kind":"pushes","node":"one","users":["ada","eve"],"events":[{}]}',
        b'{"kind":"pushes","node":"one","users":["ada"],"events":' + DEEP + b"}",
        b'{"kind":"presence_report","node":"one","users":["ada"]}',
        b'{"kind":"resend","node":"w","request":"r","user":"ada","ids":[],"timeout":-1}',
        b'{"kind":"resent","node":"one","request":"r","count":-1}',
    ],
    ids=lambda message: message[:50].decode(errors="replace"),
)
def test_a_malformed_message_is_counted_and_does_not_cost_its_neighbours(
    message: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    reader = Reader()
    hello = pack(HELLO)
    assert read(enveloped(hello, message, hello), reader) in ([HELLO, HELLO], [])
    assert (reader.malformed, reader.ignored) == (1, 0)
    assert "malformed" in caplog.text
    assert "'one'" in caplog.text or "envelope" in caplog.text


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff",
        b"not json",
        b"[1]",
        b"{}",
        b'{"v":1}',
        b'{"v":1,"sender":7}',
        b'{"v":1,"sender":"one","probe":"yes"}',
        b'{"v":"1","sender":"one"}',
        b'{"v":1,"sender":"one","body":7}',
        b'{"v":1,"sender":"one","body":{}}',
        b'{"v":1,"sender":"one","other":' + DEEP + b"}",
        b'{"v":1,"sender":"one","body":' + DEEP + b"}",
    ],
    ids=lambda raw: raw[:50].decode(errors="replace"),
)
def test_what_is_no_envelope_is_counted_as_malformed(raw: bytes) -> None:
    reader = Reader()
    assert read(raw, reader) == []
    assert (reader.malformed, reader.ignored) == (1, 0)


def test_a_flood_of_malformed_messages_does_not_flood_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reader = Reader()
    for _ in range(1_000):
        read(b"x" * 10_000, reader)
        read(enveloped(b'{"kind":"hello","node":["%b"]}' % (b"x" * 10_000)), reader)
    assert reader.malformed == 2_000
    assert len(caplog.records) == 11
    assert all(len(record.getMessage()) < 500 for record in caplog.records)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"sender":"old#1","message":{"kind":"push","node":"old","user":"ada","event":{}}}',
        b'{"sender":"old#1","message":{"kind":"presence","node":"old"},"has_inbox":true}',
        b'{"sender":"old#1","probe":true}',
        b'{"sender":"old#1","messages":[{"kind":"hello","node":"old"}]}',
        b'{"v":2,"sender":"new#1","body":[{"kind":"hello","node":"new","v":1}]}',
        b'{"v":2,"sender":"new#1","body":"packed otherwise","probe":"otherwise"}',
    ],
    ids=["0.1.0", "0.1.0 presence", "0.1.0 probe", "unreleased", "newer", "newer, unreadable"],
)
def test_an_envelope_of_another_release_is_ignored_and_logged_once_per_node(
    raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    reader = Reader()
    for _ in range(3):
        assert read(raw, reader) == []
    again = raw.replace(b"#1", b"#2")  # the same node, restarted
    assert read(again, reader) == []
    assert (reader.ignored, reader.malformed) == (4, 0)
    [record] = caplog.records
    assert record.levelno == logging.INFO
    assert "'old'" in record.getMessage() or "'new'" in record.getMessage()


@pytest.mark.parametrize(("oldest", "is_read"), [(1, True), (2, False), (0, False)])
def test_an_envelope_of_a_newer_release_that_serves_this_one_is_read(
    oldest: int, is_read: bool
) -> None:
    reader = Reader()
    newer = b'{"kind":"telepathy","node":"new","v":1}'
    raw = b'{"v":2,"oldest":%d,"sender":"new#1","colour":1,"body":[%b,%b]}'
    assert read(raw % (oldest, newer, pack(HELLO)), reader) == ([HELLO] if is_read else [])
    assert (reader.ignored, reader.malformed) == (1, 0)


def test_a_release_with_the_next_version_and_this_one_read_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours = seal("this#1", [pack(HELLO)])
    monkeypatch.setattr(envelope, "VERSION", envelope.VERSION + 1)
    theirs = seal("next#1", [pack(HELLO)])
    assert read(ours) == [HELLO]
    monkeypatch.undo()
    assert read(theirs) == [HELLO]


def test_what_is_skipped_is_told_by_reason() -> None:
    told: list[str] = []
    reader = Reader(told.append)
    for raw in (
        b'{"sender":"old#1","v":0}',
        enveloped(b'{"kind":"telepathy"}', changed(HELLO, v=2), b'{"kind":"wake","users":7}'),
        b"{",
    ):
        read(raw, reader)
    assert told == ["envelope", "kind", "version", "malformed", "malformed"]
    assert set(told) == set(envelope.SKIPPED)


@pytest.mark.parametrize(
    "message",
    [
        b'{"kind":"telepathy","node":"one","v":1}',
        b'{"kind":"telepathy","v":7,"whatever":[1,{}]}',
        *(changed(message, v=2) for message in EVERY_KIND),
        changed(Wake(node="one", users=[]), v=2, users="another form"),
    ],
)
def test_a_message_of_a_newer_kind_or_version_is_ignored_and_its_neighbours_are_read(
    message: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    reader = Reader()
    hello = pack(HELLO)
    for _ in range(2):
        assert read(enveloped(hello, message, hello), reader) == [HELLO, HELLO]
    assert (reader.ignored, reader.malformed) == (2, 0)
    [record] = caplog.records
    assert record.levelno == logging.INFO


def test_a_reader_remembers_a_bounded_number_of_nodes_that_it_ignores(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    reader = Reader()
    for number in [*range(1_500), 0]:
        read(b'{"sender":"node-%d"}' % number, reader)
    assert reader.ignored == 1_501
    assert sum("'node-0'" in record.getMessage() for record in caplog.records) == 2


@pytest.mark.parametrize("raw", [b'{"id":1}', b"7", b"\xff", b'{"id":' + DEEP + b"}"])
def test_what_is_no_event_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"no event|invalid start byte|0xff"):
        decode_event(raw)
