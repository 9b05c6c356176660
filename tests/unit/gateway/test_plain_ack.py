"""The everyday acknowledgement, read without a parser: only from bytes that the parser reads the
same from, and with the same effect on a session as the frame."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.gateway.session import Confirm, Rate, Session
from delivery.gateway.sockets.frame_budget import FrameBudget
from delivery.gateway.sockets.plain_ack import HEADER, NONE, plain_ack
from delivery.protocol import Ack, Connect, Limits, Nack, decode_client, encode
from tests.fast_path import make_event

KEYS = st.binary(min_size=4, max_size=4)


def frame(payload: bytes, key: bytes = b"\1\2\3\4", *, first: int = 0x81) -> bytes:
    masked = bytes(byte ^ key[index % 4] for index, byte in enumerate(payload))
    return bytes((first, 0x80 | len(payload))) + key + masked


@given(st.integers(0, 10**15 - 1), KEYS, st.binary(max_size=9))
def test_what_clients_send_is_read_wherever_it_begins_and_only_as_a_whole(
    upto: int, key: bytes, before: bytes
) -> None:
    whole = frame(encode(Ack(upto=upto)), key)
    assert plain_ack(before + whole, len(before)) == upto
    assert plain_ack(before + whole + b"\x81", len(before)) == upto
    assert HEADER + (whole[1] & 0x7F) == len(whole)
    assert {plain_ack(whole[:size], 0) for size in range(len(whole))} == {NONE}


NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.text("0123456789.eE+- \t_²٣", max_size=20),
)


@given(
    st.sampled_from(
        ('{"type":"ack","upto":%s}', '{"type":"ack","upto":%s,"ids":[]}', '{"type":"ack" ,"u":%s}')
    ),
    NUMBERS,
    KEYS,
)
def test_nothing_is_read_that_the_decoder_refuses_or_reads_otherwise(
    text: str, number: str, key: bytes
) -> None:
    payload = (text % number).encode()
    if len(payload) < 126 and (upto := plain_ack(frame(payload, key), 0)) != NONE:
        assert decode_client(payload) == Ack(upto=upto)


@pytest.mark.parametrize("number", ["007", "00", "-1", "1.0", "1e3", " 1", "1 ", "", "٣", "9" * 16])
def test_other_numbers_are_left_to_the_decoder(number: str) -> None:
    assert plain_ack(frame(b'{"type":"ack","upto":%b}' % number.encode()), 0) == NONE


def test_other_frames_are_left_to_the_parser() -> None:
    payload = b'{"type":"ack","upto":7}'
    for first in (0x01, 0x80, 0x82, 0x88, 0x89, 0x8A, 0xC1, 0x91):
        assert plain_ack(frame(payload, first=first), 0) == NONE
    unmasked = bytes((0x81, len(payload))) + payload
    assert plain_ack(unmasked, 0) == NONE
    assert plain_ack(unmasked + bytes(20), 0) == NONE


RATE = Rate(per_second=2.0, burst=6, tolerance=3)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(1, 4)),
        st.tuples(st.just("ack"), st.integers(0, 30)),
        st.tuples(st.just("nack"), st.integers(0, 5)),
        st.tuples(st.just("release"), st.integers(0, 5)),
        st.tuples(st.just("wait"), st.integers(1, 3)),
        st.tuples(st.just("close"), st.just(0)),
    ),
    max_size=40,
)


@given(STEPS)
def test_the_short_way_does_what_the_frame_does(steps: list[tuple[str, int]]) -> None:
    short, long = (Session("c", Limits(max_in_flight=50), 0.0, rate=RATE) for _ in range(2))
    for session in (short, long):
        session.on_client_frame(Connect(token="t"), 0.0)
        session.on_verified("ada", 1e9, 0.0)
    now, sent = 0.0, [""]
    for step, number in steps:
        if step == "wait":
            now += number
            continue
        if step == "push":
            events = [make_event(seq=None) for _ in range(number)]
            sent += [event.id for event in events]
        expected = _apply(long, step, number, sent, now)
        if step == "ack" and (done := short.on_upto(number, now)) is not None:
            assert [Confirm(tuple(done))] * bool(done) == expected
        else:
            assert _apply(short, step, number, sent, now) == expected
        assert _state(short, now) == _state(long, now)


def _apply(session: Session, step: str, number: int, sent: list[str], now: float) -> Any:
    some_id = sent[min(number, len(sent) - 1)]
    match step:
        case "push":
            events = [make_event(seq=None).evolve(id=one) for one in sent[-number:]]
            session.in_flight.on_push(events, now)
            return []
        case "ack":
            return list(session.on_client_frame(Ack(upto=number), now))
        case "nack":
            return list(session.on_client_frame(Nack(id=some_id), now))
        case "release":
            session.in_flight.release([some_id])
            return []
        case _:
            return session.on_close()


def _state(session: Session, now: float) -> object:
    flight = session.in_flight
    throttle = cast(Any, session)._throttle
    level = throttle._level + (now - throttle._at) * RATE.per_second
    return (
        (session.phase, session.vitals(now, 0.0), flight.ids, flight.n, flight.acked, flight.room),
        (min(level, RATE.burst), throttle.dropped),
    )


@given(st.lists(st.sampled_from((0x81, 0x01, 0x00, 0x80, 0x89)), min_size=1, max_size=8), st.data())
def test_a_message_begins_where_the_bytes_before_it_left_none_open(
    kinds: list[int], data: st.DataObject
) -> None:
    budget = FrameBudget(0.0)
    budget.admit()
    stream = b"".join(frame(b"payload", first=kind) for kind in kinds)
    cut = data.draw(st.integers(0, len(stream)))
    budget.take(stream[:cut], 0.0)
    size = len(frame(b"payload"))
    whole = [kind for kind in kinds[: cut // size] if not kind & 0x8]
    is_open = bool(whole) and not whole[-1] & 0x80
    if cut % size >= HEADER and not (begun := kinds[cut // size]) & 0x8:
        is_open = not begun & 0x80  # counted with its header; its payload keeps it open anyway
    assert budget.is_between_messages == (cut % size == 0 and not is_open)


def test_what_passed_counts_in_the_budget_of_all_frames() -> None:
    budget = FrameBudget(0.0)
    budget.admit()
    budget.note(7_999, 200_000)
    assert budget.take(frame(b"x"), 0.0) is None
    assert budget.take(frame(b"x"), 0.0) is not None
    budget = FrameBudget(0.0)
    budget.admit()
    budget.note(40_000, 200_000)
    assert budget.take(frame(b"x"), 10.0) is None, "what came back meanwhile counts, too"
