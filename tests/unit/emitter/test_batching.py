"""The batcher, on a clock of its own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.emitter.batching import MAX_BATCH, MIN_BATCH, Batcher


def feed(batcher, count, gap, linger, start=0.0):
    """Add ``count`` numbers, ``gap`` seconds apart, ticking on the way; the batches that left."""
    batches, now = [], start
    for number in range(count):
        now = start + number * gap
        batches += batcher.on_tick(now)
        ready = batcher.add("u1", number, now, linger)
        if ready:
            batches.append(ready)
    return batches, now


def test_a_lone_event_waits_for_nothing():
    assert Batcher().add("u1", "a", 0.0, 0.1) == ["a"]


def test_rare_events_wait_for_nothing():
    batches, _ = feed(Batcher(), 10, gap=1.0, linger=0.1)
    assert batches == [[n] for n in range(10)]


@pytest.mark.parametrize(("gap", "size"), [(0.019, MIN_BATCH), (0.01, 10), (0.001, MAX_BATCH)])
def test_the_size_follows_the_rate(gap, size):
    batches, _ = feed(Batcher(), 200, gap=gap, linger=0.1)
    assert {len(batch) for batch in batches[2:]} == {size}


def test_a_batch_that_does_not_fill_leaves_on_time():
    batcher = Batcher()
    _, now = feed(batcher, 3, gap=0.01, linger=0.1)
    due = batcher.next_due()
    assert due is not None
    assert due <= now + 0.1
    assert batcher.on_tick(due - 0.001) == []
    assert batcher.on_tick(due) == [[1, 2]]
    assert batcher.next_due() is None


def test_users_do_not_share_a_batch():
    batcher = Batcher()
    for number in range(4):
        batcher.add("u1", number, number * 0.001, 0.1)
        batcher.add("u2", -number, number * 0.001, 0.1)
    assert batcher.take("u1") == [1, 2, 3]
    assert batcher.take("u2") == [-1, -2, -3]


def test_linger_is_capped_at_100_ms():
    batcher = Batcher()
    feed(batcher, 2, gap=0.09, linger=60.0)
    assert batcher.next_due() == pytest.approx(0.09 + 0.1)


def test_idle_users_are_forgotten_and_waiting_ones_are_not():
    batcher = Batcher(capacity=2)
    batcher.add("kept", 0, 0.0, 0.1)
    batcher.add("kept", 1, 0.001, 0.1)
    for number in range(50):
        batcher.add(f"u{number}", number, 1.0, 0.1)
    assert batcher.take("kept") == [1]


@given(
    gaps=st.lists(st.floats(0.0, 0.3), max_size=60),
    linger=st.floats(0.0, 0.2),
)
def test_nothing_is_lost_reordered_or_late(gaps, linger):
    batcher: Batcher[int] = Batcher()
    out: list[int] = []
    added: dict[int, float] = {}
    now = 0.0
    for number, gap in enumerate(gaps):
        target = now + gap
        while (due := batcher.next_due()) is not None and due <= target:
            for batch in batcher.on_tick(due):
                assert all(due - added[item] <= 0.1 + 1e-9 for item in batch)
                out += batch
        now = target
        added[number] = now
        ready = batcher.add("u1", number, now, linger)
        assert len(ready) <= MAX_BATCH
        out += ready
    out += batcher.take("u1")
    assert out == list(range(len(gaps)))
