"""Whatever comes over the wire is a frame of the contract or an ``InvalidFrame``."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delivery.errors import InvalidFrame, UnknownAck
from delivery.gateway.session import Confirm, Session
from delivery.protocol import ClientFrame, Limits, decode_client

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
KEYS = st.sampled_from(["type", "token", "cursor", "device", "upto", "ids", "id", "reason", "x"])
TYPES = st.sampled_from(["connect", "ack", "nack", "refresh", "ping", "events", ""])
ALMOST = st.builds(
    lambda kind, rest: json.dumps({**rest, "type": kind}), TYPES, st.dictionaries(KEYS, JSON)
)
RAW = st.one_of(st.text(max_size=40), st.binary(max_size=40), JSON.map(json.dumps), ALMOST)


def decoded(raw: str | bytes) -> ClientFrame | None:
    try:
        return decode_client(raw)
    except InvalidFrame:
        return None


@given(RAW)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_nothing_but_an_invalid_frame_is_raised(raw: str | bytes) -> None:
    decoded(raw)


@given(st.lists(RAW, max_size=20))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_a_session_outlives_any_frames_and_confirms_nothing_that_it_never_sent(
    frames: list[Any],
) -> None:
    session = Session("c1", Limits(), 0.0)
    for raw in frames:
        frame = decoded(raw)
        if frame is None:
            continue
        actions = session.on_client_frame(frame, 1.0)
        assert not any(isinstance(action, Confirm) for action in actions), "nothing was sent"


@pytest.mark.parametrize("raw", ["", "{", "[]", "null", '{"type": "ack", "upto": 1e999}', b"\xff"])
def test_what_is_no_frame_is_said_to_be_none(raw: str | bytes) -> None:
    with pytest.raises((InvalidFrame, UnknownAck)):
        decode_client(raw)
