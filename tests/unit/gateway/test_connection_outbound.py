"""What leaves when: resends, the ledger's page, the live queue, and how an overflow mends."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from delivery.domain.event import Event, EventClass
from delivery.gateway.in_flight import Flight
from delivery.gateway.outbound import MAX_BATCH_BYTES, RUNS, Lanes, Read, merge_ephemeral
from tests.fast_path import item, make_event


def leave(lanes: Lanes, flight: Flight) -> list[str]:
    """Take everything that may leave now; the data's ``n`` of each event."""
    left: list[str] = []
    while (batch := lanes.next_batch()) is not None:
        flight.on_push(batch[0], 0.0)
        left.extend(event.id for event in batch[0])
    lanes.settle()
    return left


def live(max_in_flight: int = 10, max_queue: int = 5) -> tuple[Lanes, Flight]:
    flight = Flight(max_in_flight)
    lanes = Lanes(flight, max_queue)
    assert lanes.next_read() is Read.MORE
    lanes.take_page([], is_last=True)
    assert leave(lanes, flight) == []
    assert lanes.is_live
    return lanes, flight


def token(text: str, run_id: str = "run-1") -> Event:
    return make_event(
        event_class=EventClass.EPHEMERAL, type="token", run_id=run_id, data={"delta": text}
    )


def test_pushes_wait_for_the_ledger_and_then_follow_it_without_repetition() -> None:
    flight = Flight(10)
    lanes = Lanes(flight, 10)
    old, both, new = make_event(), make_event(), make_event()
    lanes.push(item(both))
    lanes.push(item(new))
    assert leave(lanes, flight) == []
    lanes.take_page([item(old), item(both)], is_last=True)
    assert leave(lanes, flight) == [old.id, both.id, new.id]
    assert lanes.is_live


def test_a_page_that_is_not_the_last_asks_for_the_next_one_once_it_has_left() -> None:
    flight = Flight(10)
    lanes = Lanes(flight, 10)
    event = make_event()
    lanes.take_page([item(event)], is_last=False)
    assert lanes.next_read() is None
    assert leave(lanes, flight) == [event.id]
    assert not lanes.is_live
    assert lanes.next_read() is Read.MORE


def test_a_full_flight_holds_the_queue_back_until_acks_make_room() -> None:
    lanes, flight = live(max_in_flight=2)
    events = [make_event() for _ in range(4)]
    for event in events:
        assert lanes.push(item(event))
    assert leave(lanes, flight) == [event.id for event in events[:2]]
    flight.on_ack(2, (), 0.0)
    assert leave(lanes, flight) == [event.id for event in events[2:]]


def test_a_gap_in_a_run_is_filled_from_the_ledger_before_what_came_after_it() -> None:
    lanes, flight = live()
    first, missed, after = (make_event(seq=number) for number in (1, 2, 3))
    lanes.push(item(first))
    assert leave(lanes, flight) == [first.id]
    lanes.push(item(after))
    assert leave(lanes, flight) == []
    assert lanes.next_read() is Read.AGAIN
    lanes.take_page([item(missed), item(after)], is_last=True)
    assert leave(lanes, flight) == [missed.id, after.id]
    assert lanes.is_live


def test_a_gap_that_the_ledger_cannot_fill_is_asked_about_once() -> None:
    lanes, flight = live()
    third, fourth = make_event(seq=3), make_event(seq=4)
    lanes.push(item(third))
    assert lanes.next_read() is Read.AGAIN
    lanes.take_page([], is_last=True)
    assert leave(lanes, flight) == [third.id]
    lanes.push(item(fourth))
    assert leave(lanes, flight) == [fourth.id]


def test_runs_are_followed_on_their_own_and_repeats_are_no_gap() -> None:
    lanes, flight = live()
    events = [
        make_event(seq=1, run_id="a"), make_event(seq=1, run_id="b"), make_event(seq=2, run_id="a"),
        make_event(seq=2, run_id="a"), make_event(seq=1, run_id="a"), make_event(seq=3, run_id="a"),
        token("ephemeral"),
    ]  # fmt: skip
    for event in events:
        lanes.push(item(event))
        leave(lanes, flight)
    assert lanes.is_live


def test_more_runs_than_are_remembered_cost_a_look_and_no_memory() -> None:
    lanes, flight = live()
    for number in range(3 * RUNS):
        lanes.push(item(make_event(seq=1, run_id=f"run-{number}")))
        leave(lanes, flight)
        flight.on_ack(flight.n, (), 0.0)
    assert lanes.is_live
    assert lanes.known_runs <= RUNS


def test_an_overflow_drops_the_queue_and_reads_the_ledger_anew() -> None:
    lanes, flight = live(max_in_flight=1, max_queue=2)
    events = [make_event() for _ in range(4)]
    assert lanes.push(item(events[0]))
    leave(lanes, flight)
    assert [lanes.push(item(event)) for event in events[1:]] == [True, True, False]
    assert not lanes.is_live
    assert lanes.fill == 1.0
    assert leave(lanes, flight) == []
    assert lanes.next_read() is Read.AGAIN
    assert lanes.fill == 0.0
    lanes.take_page([item(event) for event in events], is_last=True)
    flight.on_ack(1, (), 0.0)
    assert leave(lanes, flight) == [events[1].id]


def test_an_overflow_while_catching_up_asks_for_one_more_round() -> None:
    flight = Flight(100)
    lanes = Lanes(flight, 1)
    first, second, third = make_event(), make_event(), make_event()
    assert lanes.next_read() is Read.MORE
    lanes.push(item(second))
    lanes.push(item(third))
    lanes.take_page([item(first)], is_last=True)
    assert leave(lanes, flight) == [first.id]
    assert not lanes.is_live
    assert lanes.next_read() is Read.AGAIN
    lanes.take_page([item(first), item(second), item(third)], is_last=True)
    assert leave(lanes, flight) == [second.id, third.id]
    assert lanes.is_live


def test_without_the_ledger_the_tail_goes_on() -> None:
    flight = Flight(100)
    lanes = Lanes(flight, 1)
    lost, kept = make_event(), make_event()
    lanes.push(item(lost))
    lanes.push(item(make_event()))
    lanes.push(item(kept))
    lanes.take_page([], is_last=True)
    lanes.forgive()
    assert leave(lanes, flight) == [kept.id]


def test_a_resend_leaves_again_although_it_is_in_flight_and_the_flight_is_full() -> None:
    lanes, flight = live(max_in_flight=1)
    event, other = make_event(), make_event()
    lanes.push(item(event))
    leave(lanes, flight)
    lanes.push(item(other))
    lanes.resend([item(event)])
    assert leave(lanes, flight) == [event.id]
    assert lanes.end_resend()


def test_a_resend_of_what_never_left_here_comes_in_its_place() -> None:
    lanes, flight = live()
    first, second, third = (make_event(seq=number) for number in (1, 2, 3))
    lanes.push(item(first))
    assert leave(lanes, flight) == [first.id]
    lanes.resend([item(third)])
    assert leave(lanes, flight) == [], "the second was missed, too"
    assert lanes.end_resend(), "it is on its way"
    assert lanes.next_read() is Read.AGAIN
    lanes.take_page([item(first), item(second), item(third)], is_last=True)
    assert leave(lanes, flight) == [second.id, third.id]
    assert lanes.is_live


def test_a_resend_without_room_is_dropped_and_says_so() -> None:
    lanes, flight = live(max_in_flight=1)
    lanes.push(item(make_event()))
    leave(lanes, flight)
    lanes.resend([item(make_event())])
    assert leave(lanes, flight) == []
    assert not lanes.end_resend()


def test_a_frame_is_bounded_by_bytes() -> None:
    lanes, _ = live(max_in_flight=100, max_queue=100)
    for _ in range(20):
        lanes.push(item(make_event(data={"text": "x" * 60_000})))
    batch = lanes.next_batch()
    assert batch is not None
    assert MAX_BATCH_BYTES <= sum(map(len, batch[1])) < MAX_BATCH_BYTES + 64 * 1024


def test_the_queue_is_bounded_by_bytes_too() -> None:
    lanes, _ = live(max_queue=10_000)
    big = item(make_event(data={"text": "x" * 60_000}))
    assert not all(lanes.push(big) for _ in range(200))


def test_closing_names_what_was_pushed_and_never_left() -> None:
    lanes, flight = live(max_in_flight=1)
    sent, unsent = make_event(), make_event()
    lanes.push(item(sent))
    lanes.push(item(unsent))
    lanes.push(item(token("x")))
    leave(lanes, flight)
    assert lanes.close() == [unsent.id]


def test_ephemeral_text_that_waits_is_merged_and_nothing_else_is() -> None:
    lanes, flight = live(max_in_flight=1, max_queue=10)
    lanes.push(item(make_event()))
    lanes.push(item(make_event()))
    leave(lanes, flight)
    for text in ("he", "ll", "o"):
        lanes.push(item(token(text)))
    lanes.push(item(token("!", run_id="run-2")))
    flight.on_ack(1, (), 0.0)
    batch = lanes.next_batch()
    assert batch is not None
    assert [event.data for event in batch[0][1:]] == [{"delta": "hello"}, {"delta": "!"}]
    assert b'"hello"' in batch[1][1]


def test_ephemeral_text_of_one_turn_is_not_merged() -> None:
    lanes, flight = live()
    tokens = [token("a"), token("b")]
    for one in tokens:
        lanes.push(item(one))
    assert leave(lanes, flight) == [one.id for one in tokens]


def test_a_full_queue_drops_ephemeral_events_and_does_not_overflow() -> None:
    lanes, flight = live(max_in_flight=1, max_queue=1)
    lanes.push(item(make_event()))
    leave(lanes, flight)
    lanes.push(item(make_event()))
    assert lanes.push(item(make_event(event_class=EventClass.EPHEMERAL)))
    assert lanes.is_live


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
    flight = Flight(3)
    lanes = Lanes(flight, 2)
    recorded: list[Event] = []
    confirmed: set[str] = set()
    left: list[str] = []
    position = 0

    def read() -> None:
        nonlocal position
        what = lanes.next_read()
        if what is None:
            return
        position = 0 if what is Read.AGAIN else position
        page = [
            (index, event)
            for index, event in enumerate(recorded, 1)
            if index > position and event.id not in confirmed
        ][:2]
        position = page[-1][0] if page else position
        lanes.take_page([item(event) for _, event in page], is_last=len(page) < 2)

    def ack() -> None:
        confirmed.update(flight.on_ack(flight.n, (), 0.0))

    for step in steps:
        if step == "push":
            recorded.append(make_event())
            lanes.push(item(recorded[-1]))
        elif step == "ack":
            ack()
        elif step == "leave":
            left += leave(lanes, flight)
        elif step == "wake":
            lanes.ask_again()
        else:
            read()
    for _ in range(3 * len(recorded) + 10):
        left += leave(lanes, flight)
        ack()
        read()
    assert left == [event.id for event in recorded]


def test_a_push_of_what_already_left_is_sent_again_once_live() -> None:
    lanes, flight = live(max_in_flight=1)
    event = make_event()
    lanes.push(item(event))
    lanes.push(item(event))
    assert leave(lanes, flight) == [event.id, event.id]
    assert (flight.n, flight.in_flight) == (2, (event.id,))
