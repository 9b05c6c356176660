"""One connection's state machine: what each input is answered with."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.domain.event import EventClass
from delivery.errors import Unauthenticated
from delivery.gateway.session import (
    Action,
    Admit,
    Confirm,
    HandOver,
    Phase,
    Probe,
    Rate,
    Send,
    Session,
    Shut,
    Verify,
)
from delivery.protocol import (
    Ack,
    ClientFrame,
    Connect,
    Error,
    Limits,
    Nack,
    Ping,
    Pong,
    Refresh,
)
from tests.fast_path import make_event

LIMITS = Limits(heartbeat=20.0, max_in_flight=10)


def opened(**options: object) -> Session:
    session = Session("c1", LIMITS, 0.0, **options)  # type: ignore[arg-type]
    session.on_client_frame(Connect(token="t"), 0.0)
    session.on_verified("ada", 1_000.0, 0.0)
    return session


def pushed(
    session: Session, count: int, event_class: EventClass = EventClass.CRITICAL
) -> list[str]:
    events = [make_event(event_class=event_class) for _ in range(count)]
    session.in_flight.on_push(events, 0.0)
    return [event.id for event in events]


def codes(actions: object) -> list[int]:
    return [action.code for action in actions if isinstance(action, Shut)]  # type: ignore[attr-defined]


def errors(actions: object) -> list[str]:
    return [
        action.frame.code
        for action in actions  # type: ignore[attr-defined]
        if isinstance(action, Send) and isinstance(action.frame, Error)
    ]


def test_connect_asks_for_the_token_and_then_admits_with_cursor_and_device() -> None:
    session = Session("c1", LIMITS, 0.0)
    assert session.on_client_frame(Connect("t", "cursor-1", "phone"), 0.0) == (Verify("t"),)
    assert session.on_verified("ada", 99.0, 0.0) == (Admit("ada", "cursor-1"),)
    assert (session.device, session.phase) == ("phone", Phase.OPEN)


@pytest.mark.parametrize("frame", [Ping(), Ack(upto=0), Nack("x"), Refresh("t")])
def test_a_frame_before_connect_closes_with_3501(frame: ClientFrame) -> None:
    session = Session("c1", LIMITS, 0.0)
    assert codes(session.on_client_frame(frame, 0.0)) == [3501]


def test_a_second_connect_closes_with_3501() -> None:
    actions = opened().on_client_frame(Connect("t"), 1.0)
    assert (errors(actions), codes(actions)) == (["bad_frame"], [3501])


@pytest.mark.parametrize("device", ["", "x" * 129, "a\x00b"])
def test_a_device_that_is_no_name_closes_with_3501(device: str) -> None:
    session = Session("c1", LIMITS, 0.0)
    assert codes(session.on_client_frame(Connect("t", device=device), 0.0)) == [3501]


def test_silence_closes_with_3502_after_five_seconds_and_not_before() -> None:
    session = Session("c1", LIMITS, 0.0)
    assert not session.on_tick(4.9)
    assert codes(session.on_tick(5.0)) == [3502]


def test_silence_after_an_upgrade_with_a_token_connects_with_that_token() -> None:
    session = Session("c1", LIMITS, 0.0, header_token=True)
    assert session.on_tick(5.0) == (Verify(None),)


def test_a_slow_verification_is_not_taken_for_silence() -> None:
    session = Session("c1", LIMITS, 0.0)
    session.on_client_frame(Connect("t"), 4.0)
    assert not session.on_tick(60.0)


@pytest.mark.parametrize("code", [3500, 3005, 3011])
def test_a_refused_token_closes_with_the_code_of_the_refusal(code: int) -> None:
    session = Session("c1", LIMITS, 0.0)
    session.on_client_frame(Connect("t"), 0.0)
    actions = session.on_refused(Unauthenticated("no", close_code=code))
    assert (errors(actions), codes(actions)) == (["unauthorized"], [code])


def test_an_ack_up_to_n_confirms_everything_up_to_it_and_nothing_else() -> None:
    session = opened()
    ids = pushed(session, 5)
    assert session.on_client_frame(Ack(upto=3), 1.0) == (Confirm(tuple(ids[:3])),)
    assert session.in_flight.ids == tuple(ids[3:])


def test_an_ack_by_ids_confirms_these() -> None:
    session = opened()
    ids = pushed(session, 3)
    assert session.on_client_frame(Ack(ids=[ids[2], ids[0]]), 1.0) == (Confirm((ids[2], ids[0])),)
    assert session.in_flight.ids == (ids[1],)


def test_a_repeated_ack_confirms_nothing_again_and_is_no_error() -> None:
    session = opened()
    ids = pushed(session, 2)
    session.on_client_frame(Ack(upto=2), 1.0)
    assert not session.on_client_frame(Ack(upto=2), 1.0)
    assert not session.on_client_frame(Ack(ids=ids), 1.0)


@pytest.mark.parametrize("frame", [Ack(upto=3), Ack(upto=1, ids=["never-sent"])])
def test_an_unknown_ack_confirms_nothing_and_stays_open(frame: Ack) -> None:
    session = opened()
    ids = pushed(session, 2)
    assert errors(session.on_client_frame(frame, 1.0)) == ["unknown_ack"]
    assert session.in_flight.ids == tuple(ids)
    assert session.phase is Phase.OPEN


def test_ephemeral_events_count_in_n_and_not_in_flight() -> None:
    session = opened()
    pushed(session, 3, EventClass.EPHEMERAL)
    ids = pushed(session, 1)
    assert session.in_flight.n == 4
    assert session.in_flight.room == LIMITS.max_in_flight - 1
    assert not session.on_client_frame(Ack(upto=3), 1.0)
    assert session.on_client_frame(Ack(upto=4), 1.0) == (Confirm(tuple(ids)),)


def test_an_event_sent_twice_may_be_acknowledged_where_it_came_first() -> None:
    session = opened()
    event = make_event()
    session.in_flight.on_push([event], 0.0)
    session.in_flight.on_push([event], 0.0)
    assert session.in_flight.n == 2
    assert session.on_client_frame(Ack(upto=1), 1.0) == (Confirm((event.id,)),)


def test_a_nack_hands_over_once_with_the_clients_reason() -> None:
    session = opened()
    [event_id] = pushed(session, 1)
    assert session.on_client_frame(Nack(event_id, "no disk"), 1.0) == (
        HandOver(event_id, "nack: no disk"),
    )
    assert not session.on_client_frame(Nack(event_id), 1.0)


def test_what_was_refused_can_still_be_confirmed_by_its_id_alone() -> None:
    session = opened()
    [event_id] = pushed(session, 1)
    session.on_client_frame(Nack(event_id), 1.0)
    assert not session.on_client_frame(Ack(upto=1), 1.0)
    assert session.on_client_frame(Ack(ids=[event_id]), 1.0) == (Confirm((event_id,)),)


def test_a_nack_of_what_was_never_sent_is_an_unknown_ack() -> None:
    assert errors(opened().on_client_frame(Nack("x"), 1.0)) == ["unknown_ack"]


def test_the_token_ends_the_connection_with_3005_unless_it_was_refreshed() -> None:
    session = opened()
    assert session.on_client_frame(Refresh("t2"), 900.0) == (Verify("t2"),)
    session.on_verified("ada", 2_000.0, 900.0)
    session.on_pong(b"1", 900.0)
    assert codes(session.on_tick(1_000.0)) == []
    assert codes(session.on_tick(2_000.0)) == [3005]


@pytest.mark.parametrize("code", [3500, 3005, 3006])
def test_a_refresh_that_is_refused_leaves_the_session_until_its_token_ends(code: int) -> None:
    session = opened()
    session.on_client_frame(Refresh("t2"), 1.0)
    actions = session.on_refused(Unauthenticated("no", close_code=code))
    assert (errors(actions), codes(actions)) == (["unauthorized"], [])
    assert pushed(session, 1)
    session.on_pong(b"1", 900.0)
    assert codes(session.on_tick(1_000.0)) == [3005]


def test_a_refresh_for_another_user_closes_with_3500() -> None:
    session = opened()
    session.on_client_frame(Refresh("t2"), 1.0)
    assert codes(session.on_verified("eve", 2_000.0, 1.0)) == [3500]


def test_a_ping_frame_is_answered_with_a_pong_frame() -> None:
    assert opened().on_client_frame(Ping(), 1.0) == (Send(Pong()),)


def test_pongs_keep_the_connection_and_two_missed_ones_close_it_with_3012() -> None:
    session = opened()
    assert session.on_tick(20.0) == (Probe(b"1"),)
    session.on_pong(b"1", 20.5)
    assert session.on_tick(40.5) == (Probe(b"2"),)
    assert session.on_tick(50.5) == (Probe(b"3"),)
    assert session.missed_pongs == 1
    assert codes(session.on_tick(60.5)) == [3012]


def test_a_stream_is_pinged_and_owes_no_pong() -> None:
    session = Session("c1", LIMITS, 0.0, is_stream=True)
    session.on_verified("ada", 1_000.0, 0.0)
    assert [session.on_tick(20.0 * n) for n in range(1, 5)] == [
        (Probe(b"%d" % n),) for n in range(1, 5)
    ]
    pushed(session, 50)
    assert session.in_flight.room == LIMITS.max_in_flight


def test_a_flood_is_told_once_and_then_closed_with_3505() -> None:
    session = opened(rate=Rate(per_second=1.0, burst=2, tolerance=3))
    seen: list[Action] = []
    for _ in range(10):
        seen.extend(session.on_client_frame(Ping(), 0.0))
    assert errors(seen) == ["rate_limited"]
    assert codes(seen) == [3505]


def test_a_client_within_its_rate_is_never_limited() -> None:
    session = opened(rate=Rate(per_second=10.0, burst=2, tolerance=0))
    for tick in range(1, 200):
        assert session.on_client_frame(Ping(), tick * 0.1) == (Send(Pong()),)


def test_slow_acks_and_missed_pongs_lower_the_score() -> None:
    session = opened()
    assert session.score(0.0, 0.0) == 100
    pushed(session, 1)
    assert session.score(5.0, 0.0) == 80
    session.on_tick(20.0)
    session.on_tick(30.0)
    assert session.score(30.0, 1.0) == 100 - 20 - 25 - 30


IDS = st.sampled_from([f"e{n}" for n in range(12)])
FRAMES = st.one_of(
    st.builds(Connect, st.none() | st.text(max_size=3)),
    st.builds(Ack, st.none() | st.integers(0, 40), st.none() | st.lists(IDS, max_size=4)),
    st.builds(Nack, IDS, st.text(max_size=300)),
    st.builds(Refresh, st.just("t")),
    st.builds(Ping),
)
INPUTS = st.one_of(
    FRAMES,
    st.tuples(st.just("push"), st.lists(st.tuples(IDS, st.booleans()), max_size=4)),
    st.tuples(st.just("verified"), st.sampled_from(["ada", "eve"])),
    st.tuples(st.just("tick"), st.floats(0.0, 30.0)),
    st.tuples(st.just("pong"), st.binary(max_size=2)),
)


@given(st.lists(INPUTS, max_size=60))
def test_no_sequence_of_inputs_raises_or_confirms_what_was_not_sent(inputs: list[object]) -> None:
    session = Session("c1", Limits(heartbeat=5.0, max_in_flight=4), 0.0)
    now, sent = 0.0, set[str]()
    owed = set[str]()
    closed = False
    for one in inputs:
        actions: object = ()
        match one:
            case ("push", list(things)):
                if session.phase is Phase.OPEN:
                    events = [
                        make_event(
                            event_class=EventClass.EPHEMERAL
                            if is_ephemeral
                            else EventClass.STANDARD
                        ).evolve(id=f"{name}-e" if is_ephemeral else name)
                        for name, is_ephemeral in things
                    ]
                    session.in_flight.on_push(events, now)
                    durable = {e.id for e in events if e.event_class.is_durable}
                    sent |= durable
                    owed |= durable
            case ("verified", str(user)):
                if session.phase is not Phase.WAITING:
                    actions = session.on_verified(user, now + 50.0, now)
            case ("tick", float(seconds)):
                now += seconds
                actions = session.on_tick(now)
            case ("pong", bytes(payload)):
                session.on_pong(payload, now)
            case frame:
                actions = session.on_client_frame(frame, now)  # type: ignore[arg-type]
        assert not (closed and actions), "a closed session answered"
        for action in actions:  # type: ignore[attr-defined]
            if isinstance(action, Confirm):
                assert len(set(action.ids)) == len(action.ids)
                assert set(action.ids) <= owed, "confirmed twice, or never sent"
                owed -= set(action.ids)
            if isinstance(action, HandOver):
                assert action.id in sent
        closed = closed or bool(codes(actions))
        assert set(session.in_flight.ids) <= sent
