"""When a count may speak for many events."""

from delivery.client.acks import Acks
from delivery.protocol import MAX_ACK_IDS, Ack


def test_what_was_handled_in_order_is_one_count():
    acks = Acks()
    for n in (1, 2, 3):
        acks.on_handled(n, f"e{n}", True)
    assert acks.take() == [Ack(upto=3)]
    assert acks.take() == []


def test_after_a_gap_only_ids_are_safe():
    acks = Acks()
    acks.on_handled(1, "e1", True)
    acks.on_handled(3, "e3", True)
    acks.on_handled(4, "e4", True)
    assert acks.take() == [Ack(upto=1), Ack(ids=["e3", "e4"])]


def test_a_gap_that_closes_later_is_not_trusted_again():
    acks = Acks()
    acks.on_handled(2, "e2", True)
    acks.on_handled(1, "e1", True)
    assert acks.take() == [Ack(ids=["e2", "e1"])]


def test_ephemeral_events_count_and_are_never_named():
    acks = Acks()
    acks.on_handled(1, "e1", False)
    acks.on_handled(3, "e3", False)
    assert acks.take() == [Ack(upto=1)]


def test_a_frame_names_no_more_ids_than_the_wire_allows():
    acks = Acks()
    for n in range(MAX_ACK_IDS + 1):
        acks.add(f"e{n}")
    assert [len(ack.ids or ()) for ack in acks.take()] == [MAX_ACK_IDS, 1]
