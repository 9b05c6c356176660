"""What leaves when: resends, the ledger's page, the live queue, and how an overflow mends."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from delivery.domain.event import Event, EventClass
from delivery.gateway.in_flight import InFlight
from delivery.gateway.outbound import MAX_BATCH_BYTES, RUNS, Outbound, Read, merge_ephemeral
from delivery.gateway.waiting import LARGE_BYTES, WaitingBytes
from tests.fast_path import item, make_event


def leave(outbound: Outbound, in_flight: InFlight) -> list[str]:
    """Take everything that may leave now; the data's ``n`` of each event."""
    left: list[str] = []
    while (batch := outbound.next_batch()) is not None:
        in_flight.on_push(batch[0], 0.0)
        left.extend(event.id for event in batch[0])
    outbound.settle()
    return left


def live(max_in_flight: int = 10, max_queue: int = 5) -> tuple[Outbound, InFlight]:
    in_flight = InFlight(max_in_flight)
    outbound = Outbound(in_flight, max_queue)
    assert outbound.next_read() is Read.MORE
    outbound.take_page([], is_last=True)
    assert leave(outbound, in_flight) == []
    assert outbound.is_live
    return outbound, in_flight


def token(text: str, run_id: str = "run-1") -> Event:
    return make_event(
        event_class=EventClass.EPHEMERAL, type="token", run_id=run_id, data={"delta": text}
    )


def test_pushes_wait_for_the_ledger_and_then_follow_it_without_repetition() -> None:
    in_flight = InFlight(10)
    outbound = Outbound(in_flight, 10)
    old, both, new = make_event(), make_event(), make_event()
    outbound.push(item(both))
    outbound.push(item(new))
    assert leave(outbound, in_flight) == []
    outbound.take_page([item(old), item(both)], is_last=True)
    assert leave(outbound, in_flight) == [old.id, both.id, new.id]
    assert outbound.is_live


def test_a_page_that_is_not_the_last_asks_for_the_next_one_once_it_has_left() -> None:
    in_flight = InFlight(10)
    outbound = Outbound(in_flight, 10)
    event = make_event()
    outbound.take_page([item(event)], is_last=False)
    assert outbound.next_read() is None
    assert leave(outbound, in_flight) == [event.id]
    assert not outbound.is_live
    assert outbound.next_read() is Read.MORE


def test_a_full_flight_holds_the_queue_back_until_acks_make_room() -> None:
    outbound, in_flight = live(max_in_flight=2)
    events = [make_event() for _ in range(4)]
    for event in events:
        assert outbound.push(item(event))
    assert leave(outbound, in_flight) == [event.id for event in events[:2]]
    in_flight.on_ack(2, (), 0.0)
    assert leave(outbound, in_flight) == [event.id for event in events[2:]]


def test_a_gap_in_a_run_is_filled_from_the_ledger_before_what_came_after_it() -> None:
    outbound, in_flight = live()
    first, missed, after = (make_event(seq=number) for number in (1, 2, 3))
    outbound.push(item(first))
    assert leave(outbound, in_flight) == [first.id]
    outbound.push(item(after))
    assert leave(outbound, in_flight) == []
    assert outbound.next_read() is Read.AGAIN
    outbound.take_page([item(missed), item(after)], is_last=True)
    assert leave(outbound, in_flight) == [missed.id, after.id]
    assert outbound.is_live


def test_a_gap_that_the_ledger_cannot_fill_is_asked_about_once() -> None:
    outbound, in_flight = live()
    third, fourth = make_event(seq=3), make_event(seq=4)
    outbound.push(item(third))
    assert outbound.next_read() is Read.AGAIN
    outbound.take_page([], is_last=True)
    assert leave(outbound, in_flight) == [third.id]
    outbound.push(item(fourth))
    assert leave(outbound, in_flight) == [fourth.id]


def test_runs_are_followed_on_their_own_and_repeats_are_no_gap() -> None:
    outbound, in_flight = live()
    events = [
        make_event(seq=1, run_id="a"),
        make_event(seq=1, run_id="b"),
        make_event(seq=2, run_id="a"),
        make_event(seq=2, run_id="a"),
        make_event(seq=1, run_id="a"),
        make_event(seq=3, run_id="a"),
        token("ephemeral"),
    ]
    for event in events:
        outbound.push(item(event))
        leave(outbound, in_flight)
    assert outbound.is_live


def test_more_runs_than_are_remembered_cost_a_look_and_no_memory() -> None:
    outbound, in_flight = live()
    for number in range(3 * RUNS):
        outbound.push(item(make_event(seq=1, run_id=f"run-{number}")))
        leave(outbound, in_flight)
        in_flight.on_ack(in_flight.n, (), 0.0)
    assert outbound.is_live
    outbound.push(item(make_event(seq=2, run_id=f"run-{3 * RUNS - 1}")))
    assert outbound.is_live
    # The number of the first run is forgotten: the ledger says what came before.
    outbound.push(item(make_event(seq=2, run_id="run-0")))
    assert not outbound.is_live


def test_an_overflow_drops_the_queue_and_reads_the_ledger_anew() -> None:
    outbound, in_flight = live(max_in_flight=1, max_queue=2)
    events = [make_event() for _ in range(4)]
    assert outbound.push(item(events[0]))
    leave(outbound, in_flight)
    assert [outbound.push(item(event)) for event in events[1:]] == [True, True, False]
    assert not outbound.is_live
    assert outbound.fill == 1.0
    assert leave(outbound, in_flight) == []
    assert outbound.next_read() is Read.AGAIN
    assert outbound.fill == 0.0
    outbound.take_page([item(event) for event in events], is_last=True)
    in_flight.on_ack(1, (), 0.0)
    assert leave(outbound, in_flight) == [events[1].id]


def test_an_overflow_while_catching_up_asks_for_one_more_round() -> None:
    in_flight = InFlight(100)
    outbound = Outbound(in_flight, 1)
    first, second, third = make_event(), make_event(), make_event()
    assert outbound.next_read() is Read.MORE
    outbound.push(item(second))
    outbound.push(item(third))
    outbound.take_page([item(first)], is_last=True)
    assert leave(outbound, in_flight) == [first.id]
    assert not outbound.is_live
    assert outbound.next_read() is Read.AGAIN
    outbound.take_page([item(first), item(second), item(third)], is_last=True)
    assert leave(outbound, in_flight) == [second.id, third.id]
    assert outbound.is_live


def test_without_the_ledger_the_tail_goes_on() -> None:
    in_flight = InFlight(100)
    outbound = Outbound(in_flight, 1)
    lost, kept = make_event(), make_event()
    outbound.push(item(lost))
    outbound.push(item(make_event()))
    outbound.push(item(kept))
    outbound.take_page([], is_last=True)
    outbound.skip_read()
    assert leave(outbound, in_flight) == [kept.id]


def test_a_resend_leaves_again_although_it_is_in_flight_and_the_flight_is_full() -> None:
    outbound, in_flight = live(max_in_flight=1)
    event, other = make_event(), make_event()
    outbound.push(item(event))
    leave(outbound, in_flight)
    outbound.push(item(other))
    outbound.resend([item(event)])
    assert leave(outbound, in_flight) == [event.id]
    assert outbound.end_resend()


def test_a_resend_of_what_never_left_here_comes_in_its_place() -> None:
    outbound, in_flight = live()
    first, second, third = (make_event(seq=number) for number in (1, 2, 3))
    outbound.push(item(first))
    assert leave(outbound, in_flight) == [first.id]
    outbound.resend([item(third)])
    assert leave(outbound, in_flight) == [], "the second was missed, too"
    assert outbound.end_resend(), "it is on its way"
    assert outbound.next_read() is Read.AGAIN
    outbound.take_page([item(first), item(second), item(third)], is_last=True)
    assert leave(outbound, in_flight) == [second.id, third.id]
    assert outbound.is_live


def test_a_resend_without_room_is_dropped_and_says_so() -> None:
    outbound, in_flight = live(max_in_flight=1)
    outbound.push(item(make_event()))
    leave(outbound, in_flight)
    outbound.resend([item(make_event())])
    assert leave(outbound, in_flight) == []
    assert not outbound.end_resend()


def test_a_frame_is_bounded_by_bytes() -> None:
    outbound, _ = live(max_in_flight=100, max_queue=100)
    for _ in range(20):
        outbound.push(item(make_event(data={"text": "x" * 60_000})))
    batch = outbound.next_batch()
    assert batch is not None
    assert MAX_BATCH_BYTES <= sum(map(len, batch[1])) < MAX_BATCH_BYTES + 64 * 1024


def test_the_queue_is_bounded_by_bytes_too() -> None:
    outbound, _ = live(max_queue=10_000)
    big = item(make_event(data={"text": "x" * 60_000}))
    assert not all(outbound.push(big) for _ in range(200))


def test_closing_names_what_was_pushed_and_never_left() -> None:
    outbound, in_flight = live(max_in_flight=1)
    sent, unsent = make_event(), make_event()
    outbound.push(item(sent))
    outbound.push(item(unsent))
    outbound.push(item(token("x")))
    leave(outbound, in_flight)
    assert outbound.close() == [unsent.id]


def test_ephemeral_text_that_waits_is_merged_and_nothing_else_is() -> None:
    outbound, in_flight = live(max_in_flight=1, max_queue=10)
    outbound.push(item(make_event()))
    outbound.push(item(make_event()))
    leave(outbound, in_flight)
    for text in ("he", "ll", "o"):
        outbound.push(item(token(text)))
    outbound.push(item(token("!", run_id="run-2")))
    in_flight.on_ack(1, (), 0.0)
    batch = outbound.next_batch()
    assert batch is not None
    assert [event.data for event in batch[0][1:]] == [{"delta": "hello"}, {"delta": "!"}]
    assert b'"hello"' in batch[1][1]


def test_ephemeral_text_of_one_turn_is_not_merged() -> None:
    outbound, in_flight = live()
    tokens = [token("a"), token("b")]
    for one in tokens:
        outbound.push(item(one))
    assert leave(outbound, in_flight) == [one.id for one in tokens]


def test_a_full_queue_drops_ephemeral_events_and_does_not_overflow() -> None:
    outbound, in_flight = live(max_in_flight=1, max_queue=1)
    outbound.push(item(make_event()))
    leave(outbound, in_flight)
    outbound.push(item(make_event()))
    assert outbound.push(item(make_event(event_class=EventClass.EPHEMERAL)))
    assert outbound.is_live


def test_merging_needs_one_and_the_same_text_field() -> None:
    def data(value: dict[str, object]) -> Event:
        return make_event(event_class=EventClass.EPHEMERAL, data=value)

    merged = merge_ephemeral(data({"text": "a"}), last := data({"text": "b"}))
    assert merged is not None
    assert (merged.id, merged.data) == (last.id, {"text": "ab"})
    for first, second in (
        ({"text": "a"}, {"delta": "b"}),
        ({"text": "a", "n": 1}, {"text": "b"}),
        ({"text": 1}, {"text": 2}),
        ({"other": "a"}, {"other": "b"}),
        ({}, {}),
    ):
        assert merge_ephemeral(data(first), data(second)) is None
    assert merge_ephemeral(make_event(data={"text": "a"}), make_event(data={"text": "b"})) is None


@given(st.lists(st.sampled_from(["push", "ack", "leave", "read", "wake"]), max_size=120))
def test_every_recorded_event_leaves_exactly_once_and_in_order(steps: list[str]) -> None:
    in_flight = InFlight(3)
    outbound = Outbound(in_flight, 2)
    recorded: list[Event] = []
    confirmed: set[str] = set()
    left: list[str] = []
    position = 0

    def read() -> None:
        nonlocal position
        what = outbound.next_read()
        if what is None:
            return
        position = 0 if what is Read.AGAIN else position
        page = [
            (index, event)
            for index, event in enumerate(recorded, 1)
            if index > position and event.id not in confirmed
        ][:2]
        position = page[-1][0] if page else position
        outbound.take_page([item(event) for _, event in page], is_last=len(page) < 2)

    def ack() -> None:
        confirmed.update(in_flight.on_ack(in_flight.n, (), 0.0))

    for step in steps:
        if step == "push":
            recorded.append(make_event())
            outbound.push(item(recorded[-1]))
        elif step == "ack":
            ack()
        elif step == "leave":
            left += leave(outbound, in_flight)
        elif step == "wake":
            outbound.read_again()
        else:
            read()
    for _ in range(3 * len(recorded) + 10):
        left += leave(outbound, in_flight)
        ack()
        read()
    assert left == [event.id for event in recorded]


def test_a_push_of_what_already_left_is_sent_again_once_live() -> None:
    outbound, in_flight = live(max_in_flight=1)
    event = make_event()
    outbound.push(item(event))
    outbound.push(item(event))
    assert leave(outbound, in_flight) == [event.id, event.id]
    assert (in_flight.n, in_flight.ids) == (2, (event.id,))


def test_memory_is_given_back_once_much_less_waits_than_lately() -> None:
    waiting = WaitingBytes()
    seen = []
    for total in (0, LARGE_BYTES - 1, 0, 2 * LARGE_BYTES, LARGE_BYTES, 1_000, 1_000, 0):
        waiting.total = total
        seen.append(waiting.has_fallen())
    assert seen == [False, False, False, False, False, True, False, False]
