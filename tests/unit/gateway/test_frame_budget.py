"""The budgets of a client's frames: every kind counts, however the network cut them."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from delivery.gateway.sockets.frame_budget import ADMITTED, UNADMITTED, Budget, Fault, FrameBudget

TEXT, CONTINUATION, PING, PONG = 0x81, 0x00, 0x89, 0x8A
GENEROUS = Budget(1e9, 10**9, 1e9, 10**9, 1e12, 10**12)


def frame(kind: int, payload: bytes = b"", *, masked: bool = True) -> bytes:
    mask = 0x80 if masked else 0
    size = len(payload)
    if size < 126:
        head = bytes((kind, mask | size))
    elif size < 1 << 16:
        head = bytes((kind, mask | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((kind, mask | 127)) + size.to_bytes(8, "big")
    return head + (b"\0\0\0\0" if masked else b"") + payload


def admitted() -> FrameBudget:
    budget = FrameBudget(0.0)
    budget.admit()
    return budget


def test_pings_pongs_and_empty_fragments_are_counted() -> None:
    for kind in (PING, PONG, CONTINUATION):
        budget = admitted()
        assert budget.take(frame(kind) * ADMITTED.idle_burst, 0.0) is None
        assert budget.take(frame(kind), 0.0) is Fault.BUDGET


def test_what_was_spent_comes_back_with_time() -> None:
    budget = admitted()
    assert budget.take(frame(PING) * ADMITTED.idle_burst, 0.0) is None
    assert budget.take(frame(PING) * int(ADMITTED.idle_frames), 1.0) is None
    assert budget.take(frame(PING), 1.0) is Fault.BUDGET


def test_a_stranger_has_little_and_an_admitted_client_enough() -> None:
    unadmitted = FrameBudget(0.0)
    assert unadmitted.take(frame(TEXT, b"x") * UNADMITTED.frame_burst, 0.0) is None
    assert unadmitted.take(frame(TEXT, b"x"), 0.0) is Fault.BUDGET
    assert admitted().take(frame(TEXT, b"x") * 5_000, 0.0) is None


def test_a_stranger_may_send_a_token_of_the_largest_size() -> None:
    assert FrameBudget(0.0).take(frame(TEXT, b"x" * 9_000), 0.0) is None


def test_bytes_of_a_frame_that_never_ends_count_as_they_come() -> None:
    unadmitted = FrameBudget(0.0)
    endless = bytes((0x02, 0xFF)) + (1 << 40).to_bytes(8, "big") + b"\0\0\0\0"
    assert unadmitted.take(endless, 0.0) is None
    faults = [unadmitted.take(b"x" * 8_192, 0.0) for _ in range(9)]
    assert Fault.BUDGET in faults


def test_an_unmasked_frame_is_a_fault_wherever_it_stands() -> None:
    assert admitted().take(frame(TEXT, b"x", masked=False), 0.0) is Fault.UNMASKED
    mixed = frame(TEXT, b"abc") + frame(PING, masked=False)
    assert admitted().take(mixed, 0.0) is Fault.UNMASKED


@given(
    st.lists(
        st.tuples(
            st.sampled_from([TEXT, CONTINUATION, PING]),
            st.sampled_from([0, 1, 3, 125, 126, 130, 65_535, 65_536]),
        ),
        max_size=8,
    ),
    st.lists(st.integers(1, 70_000), max_size=30),
)
def test_the_count_does_not_depend_on_how_the_network_cut_the_stream(
    kinds: list[tuple[int, int]], cuts: list[int]
) -> None:
    stream = b"".join(frame(kind, os.urandom(size)) for kind, size in kinds)
    whole, cut = FrameBudget(0.0, GENEROUS), FrameBudget(0.0, GENEROUS)
    assert whole.take(stream, 0.0) is None
    start = 0
    for size in [*cuts, len(stream)]:
        assert cut.take(stream[start : start + size], 0.0) is None
        start += size
    assert (cut._frames, cut._idle) == (whole._frames, whole._idle)
    assert GENEROUS.frame_burst - whole._frames == len(kinds)
