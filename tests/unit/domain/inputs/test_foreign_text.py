"""Texts that no database takes: refused or replaced, by one rule."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.domain.inputs.foreign_text import (
    check_text,
    is_storable,
    storable,
    without_surrogates,
)
from delivery.errors import InvalidEvent, InvalidFrame
from delivery.protocol import Connect, Nack, decode_client, decode_json, encode_json

texts = st.text(st.characters())


@given(texts)
def test_what_is_stored_is_utf_8_without_zeros_and_as_long_as_before(text: str) -> None:
    kept = storable(text)
    assert b"\0" not in kept.encode()
    assert len(kept) == len(text)
    assert is_storable(kept)
    assert storable(text, 3) == kept[:3]
    assert (kept == text) is is_storable(text)


def test_noncharacters_and_controls_are_text() -> None:
    assert check_text("name", "\ufffe\uffff\n\x01") == "\ufffe\uffff\n\x01"


@pytest.mark.parametrize("text", ["\x00", "a\ud800", "\udfffb"])
def test_a_name_is_refused_with_its_field(text: str) -> None:
    with pytest.raises(InvalidEvent) as caught:
        check_text("run_id", text)
    assert caught.value.field == "run_id"


@given(texts)
def test_any_json_is_encoded_and_lone_surrogates_alone_are_replaced(text: str) -> None:
    value = {text: [text, {"x": text}], "n": 1}
    assert json.loads(encode_json(value)) == without_surrogates(value)


@given(texts)
def test_json_with_lone_surrogates_is_decoded_as_python_writes_it(text: str) -> None:
    value = {"a": [text, 1.5, None]}
    assert decode_json(json.dumps(value)) == value
    assert decode_json(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    "raw",
    [b"{", b'{"a":"\\ud800"', b'["\\ud800",NaN]', b'["\\ud800",' + b"1" * 5_000 + b"]", b"\xff"],
)
def test_what_is_no_json_is_refused_all_the_same(raw: bytes) -> None:
    with pytest.raises(InvalidFrame):
        decode_json(raw)


def test_a_frame_with_half_a_pair_is_a_frame() -> None:
    """JavaScript writes a text that was cut inside a pair so, and its socket must stay open."""
    assert decode_client('{"type":"nack","id":"a","reason":"cut \\ud83d"}') == Nack(
        "a", "cut \ud83d"
    )
    assert decode_client(b'{"type":"connect","token":"t","device":"\\uDC00"}') == Connect(
        "t", device="\udc00"
    )
    with pytest.raises(InvalidFrame):
        decode_client('{"type":"nack","id":7,"reason":"\\ud83d"}')
