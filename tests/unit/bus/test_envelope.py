"""The bus's envelopes: what is in them, and what is in none."""

from __future__ import annotations

import logging

import pytest

from delivery.bus.envelope import pack, seal, unpack, unseal
from delivery.domain.event import decode_event
from delivery.protocol import encode_event
from tests.fast_path import make_event

HELLO = {"kind": "hello", "node": "one"}


def opened(raw: bytes) -> list[dict[str, object]]:
    envelope = unseal(raw)
    assert envelope is not None
    return unpack(envelope)


def test_one_message_travels_as_version_0_1_reads_it() -> None:
    raw = seal("one", [pack(HELLO)], has_inbox=True)
    assert raw == b'{"sender":"one","message":{"kind":"hello","node":"one"},"has_inbox":true}'
    assert opened(raw) == [HELLO]


def test_many_messages_travel_together_in_order() -> None:
    messages = [{"kind": "wake", "node": "one", "users": [str(n)]} for n in range(3)]
    assert opened(seal("one", [pack(message) for message in messages])) == messages


def test_the_events_of_pushes_stay_encoded_until_somebody_needs_them() -> None:
    event = make_event()
    pushes = {"kind": "pushes", "node": "one", "users": ["ada"], "events": [event], "to": ["two"]}
    [found, _] = opened(seal("one", [pack(pushes), pack(HELLO)]))
    [raw] = [bytes(one) for one in found["events"]]  # type: ignore[attr-defined]
    assert raw == encode_event(event)
    assert decode_event(raw) == event
    assert (found["users"], found["to"]) == (["ada"], ["two"])


def test_a_probe_carries_nothing() -> None:
    envelope = unseal(seal("one", probe=True))
    assert envelope is not None
    assert envelope.probe
    assert unpack(envelope) == []


@pytest.mark.parametrize(
    ("raw", "left"),
    [
        (b'{"sender":"one","message":null}', []),
        (b'{"sender":"one","message":7}', []),
        (b'{"sender":"one","messages":7}', []),
        (b'{"sender":"one","messages":[7,{"kind":"hello","node":"one"}]}', [HELLO]),
        (b'{"sender":"one","messages":[{"kind":"pushes","x":1}]}', [{"kind": "pushes", "x": 1}]),
    ],
)
def test_what_is_no_message_is_left_out(raw: bytes, left: list[dict[str, object]]) -> None:
    assert opened(raw) == left


def test_what_is_no_envelope_is_said_and_dropped(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert unseal(b"\xff") is None
        assert unseal(b'{"message":{}}') is None
    assert "no envelope" in caplog.text


def test_what_is_no_event_is_refused() -> None:
    with pytest.raises(ValueError, match="no event"):
        decode_event(b'{"id":1}')
