"""Every decoder, with its corpus and inputs derived from it: decoded, or told what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from delivery.gateway.sockets.frame_budget import ADMITTED, FrameBudget
from tests.fuzz import decoders
from tests.fuzz.decoders import DECODERS, HOSTILE

EXAMPLES = 40

_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["", "\x00", "a" * 300, "2026-13-01T00:00:00Z", "-1", "1e999", "٣"])
)
_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@st.composite
def changed_bytes(draw: st.DrawFn, corpus: list[bytes]) -> bytes:
    """A sample with a piece cut, doubled, moved or replaced, up to four times."""
    raw = draw(st.sampled_from(corpus))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(raw)))
        end = draw(st.integers(start, min(len(raw), start + 20)))
        piece = draw(
            st.sampled_from([b"", raw[start:end] * 2, raw[:start][-9:], b"\x00", b"\xff", b"\n"])
            | st.binary(max_size=6)
            | st.sampled_from(HOSTILE)
        )
        raw = raw[:start] + piece + raw[end:]
    return raw


@st.composite
def changed_values(draw: st.DrawFn, corpus: list[bytes]) -> bytes:
    """A sample of JSON with one of its values, at any depth, replaced by another one."""
    value = msgspec.json.decode(draw(st.sampled_from(corpus)))

    def change(node: Any) -> Any:
        if isinstance(node, dict) and node and draw(st.integers(0, 3)):
            name = draw(st.sampled_from(sorted(node)))
            return node | {name: change(node[name])}
        if isinstance(node, list) and node and draw(st.integers(0, 3)):
            place = draw(st.integers(0, len(node) - 1))
            return [change(one) if n == place else one for n, one in enumerate(node)]
        return draw(_values)

    return msgspec.json.encode(change(value))


def is_json(raw: bytes) -> bool:
    return raw.startswith((b"{", b"[")) and b"\n" not in raw


@pytest.mark.parametrize("name", DECODERS)
def test_the_corpus(name: str) -> None:
    for raw in [*DECODERS[name].corpus, *HOSTILE]:
        decoders.run(name, raw)


@pytest.mark.parametrize("name", DECODERS)
def test_inputs_derived_from_the_corpus(name: str) -> None:
    corpus = DECODERS[name].corpus
    inputs = changed_bytes(corpus) | st.binary(max_size=60)
    structured = [raw for raw in corpus if is_json(raw)]
    if structured:
        inputs |= changed_values(structured)

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs)
    def decode(raw: bytes) -> None:
        decoders.run(name, raw)

    decode()


HEADER_OF_2_63 = b"\x82\xff\x80\x00\x00\x00\x00\x00\x00\x00mask"
FRAGMENTED_PING = b"\x09\x80mask" + b"\x80\x80mask"


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.binary(max_size=200), st.lists(st.integers(1, 40), max_size=20))
@example(HEADER_OF_2_63, [1])
@example(FRAGMENTED_PING * 20, [7])
@example(b"\x81\xfe\xff\xffmask" + b"x" * 100, [2, 1, 1])
@example(b"\x81\x05hello", [])
def test_the_frame_budget_counts_the_same_however_the_bytes_are_cut(
    raw: bytes, cuts: list[int]
) -> None:
    whole = FrameBudget(0.0, ADMITTED)
    found = whole.take(raw, 0.0)
    parts = FrameBudget(0.0, ADMITTED)
    faults, start = [], 0
    for size in [*cuts, len(raw)]:
        piece = raw[start : start + size]
        start += size
        if piece and not any(faults):
            faults.append(parts.take(piece, 0.0))
    assert next(filter(None, faults), None) == found


def _nested(kind: Callable[[bytes], bytes], levels: int) -> bytes:
    raw = b"1"
    for _ in range(levels):
        raw = kind(raw)
    return raw


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("levels", [63, 64, 65, 1_000, 50_000])
def test_any_depth_is_taken_or_refused(name: str, levels: int) -> None:
    decoders.run(name, _nested(lambda inner: b"[" + inner + b"]", levels))
    decoders.run(name, b'{"type":"ack","data":' * levels)
