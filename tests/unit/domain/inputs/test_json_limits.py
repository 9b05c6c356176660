"""How deep JSON may be nested, and how much of it is counted before anything is decoded."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.domain.inputs.json_limits import MAX_DEPTH, TooManyItems, check_depth, check_shape
from delivery.errors import InvalidFrame
from delivery.protocol import decode_client, decode_json


def nested(levels: int, mark: str = "[]") -> bytes:
    begin, end = ('{"a":', "}") if mark == "{}" else ("[", "]")
    return (begin * levels + "1" + end * levels).encode()


def depth_of(value: Any) -> int:
    """The plain reading: a scalar is level 0 inside its container."""
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


@pytest.mark.parametrize("mark", ["[]", "{}"])
def test_64_levels_pass_and_one_more_does_not(mark: str) -> None:
    check_depth(nested(MAX_DEPTH, mark))
    decode_json(nested(MAX_DEPTH, mark))
    with pytest.raises(InvalidFrame, match="64 levels"):
        check_depth(nested(MAX_DEPTH + 1, mark))
    with pytest.raises(InvalidFrame, match="64 levels"):
        decode_json(nested(970, mark).decode())


def test_a_client_frame_that_is_nested_too_deeply_is_a_bad_frame() -> None:
    with pytest.raises(InvalidFrame, match="64 levels"):
        decode_client(b'{"type":"ping","x":' + nested(MAX_DEPTH) + b"}")


def test_brackets_in_strings_do_not_count() -> None:
    raw = json.dumps({"a": "[{" * 500, 'b"[[' * 99: '\\"[' * 500, "c": "\\" * 7 + '"'}).encode()
    check_depth(raw)
    assert decode_json(raw)["a"] == "[{" * 500


def test_many_values_beside_each_other_are_not_deep() -> None:
    check_depth(b"[" + b",".join([b'{"a":["x"]}'] * 50_000) + b"]")


JSON = st.recursive(
    st.none() | st.integers() | st.text(alphabet='ab"\\[]{},é', max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(alphabet='a"\\[{', max_size=4), inner, max_size=3)
    ),
    max_leaves=30,
)


@given(JSON, st.integers(50, 70), st.integers(0, 3))
def test_depth_is_counted_as_it_is(inside: Any, levels: int, spaces: int) -> None:
    value: Any = inside
    for _ in range(levels):
        value = ["[", value]
    raw = json.dumps(value, indent=spaces or None, ensure_ascii=spaces % 2 == 0).encode()
    if depth_of(value) <= MAX_DEPTH:
        check_depth(raw)
    else:
        with pytest.raises(InvalidFrame):
            check_depth(raw)


@given(JSON, st.integers(1, 9))
def test_pieces_of_any_size_count_alike(value: Any, size: int) -> None:
    raw = json.dumps([[[value]] * 3, value]).encode()
    check_shape(raw, piece=size)
    with pytest.raises(TooManyItems):
        check_shape(b'{"events":[' + b",".join([raw] * 4) + b"]}", most_items=3, piece=size)


def test_items_are_counted_before_they_are_decoded() -> None:
    check_shape(b'{"events":[' + b",".join([b'{"data":{"a":[1,2,3]}}'] * 1_000) + b"]}")
    with pytest.raises(TooManyItems):
        check_shape(b'{"events":[' + b",".join([b"[]"] * 1_001) + b"]}")
    with pytest.raises(TooManyItems):
        check_shape(b"{" + b",".join([b'"a":1'] * 1_000) + b"}")
    # One event's own data may have as many members as fit.
    check_shape(b'{"data":{' + b",".join([b'"a":[]'] * 5_000) + b"}}")


def test_what_is_refused_costs_little_however_long_it_is() -> None:
    flat = b'{"events":[' + b",".join([b"[]"] * 5_600_000) + b"]}"
    begun = time.process_time()
    with pytest.raises(TooManyItems):
        check_shape(flat)
    assert time.process_time() - begun < 0.05


def test_the_cost_grows_with_the_length_and_no_faster() -> None:
    def cost(times: int) -> float:
        raw = b'{"data":{"a":[' + b",".join([b'["\\\\\\"",{}]'] * times) + b"]}}"
        begun = time.process_time()
        check_shape(raw)
        return time.process_time() - begun

    cost(1_000)
    small = min(cost(20_000) for _ in range(3))
    assert cost(200_000) < 40 * small + 0.05
