"""Linger, retries and order between acceptance and the sockets."""

import pytest

from delivery.domain.ports import Pushed
from delivery.emitter.batching import Batcher
from delivery.testing import make_policies
from tests.waiting import until

FAILED = Pushed(0, "send failed", failed=True)


def quick(retries: int = 3, linger: float = 0.0):
    return make_policies(
        standard={
            "retries": retries,
            "linger": linger,
            "backoff": {"base": 0.001, "max": 0.002, "jitter": 0.0},
        }
    )


async def test_a_failed_send_is_tried_again_and_later_events_wait_behind_it(make_world):
    world = make_world(quick())
    await world.know_run()
    world.push.answers = [FAILED, FAILED, Pushed(1)]
    for number in (1, 2):
        world.emitter.emit_nowait("note", {"n": number})
    world.journal.commit()
    await until(lambda: len(world.push.pushed) == 4)
    assert [event.data["n"] for event in world.push.pushed] == [1, 1, 1, 2]
    assert world.journal.hand_overs == []


async def test_after_the_last_retry_the_chain_takes_over(make_world):
    world = make_world(quick(retries=2))
    await world.know_run()
    world.push.answer = FAILED
    receipt = world.emitter.emit_nowait("note")
    world.journal.commit()
    await until(lambda: world.journal.hand_overs)
    assert len(world.push.pushed) == 3
    assert world.journal.hand_overs == [(receipt.id, "send failed")]
    await until(lambda: world.hints == 1)


async def test_a_push_without_a_connection_is_not_worth_a_retry(make_world):
    world = make_world(quick())
    await world.know_run()
    world.push.answer = Pushed(0, "nobody connected")
    world.emitter.emit_nowait("note")
    assert len(world.push.pushed) == 1
    assert world.journal.entries[0][0].hand_over


async def test_an_event_for_a_user_who_is_expected_back_waits(
    make_world,
):
    world = make_world(quick())
    world.push.answer = Pushed(0, "nobody connected", is_expected=True)
    first = world.emitter.emit_nowait("note")
    world.journal.commit()
    second = world.emitter.emit_nowait("note")
    world.journal.commit()
    assert world.push.waiting == [(first.id, True), (second.id, False)]
    assert world.journal.hand_overs == []
    assert not any(entry.hand_over or entry.sent for entry, _ in world.journal.entries)


async def test_performance_mode_retries_once(make_world):
    world = make_world(quick(retries=3))
    await world.know_run()
    world.push.answer = FAILED
    world.core.emitter("u1", "r1", performance=True).emit_nowait("note")
    world.journal.commit()
    await until(lambda: world.journal.hand_overs)
    assert len(world.push.pushed) == 2


async def test_a_burst_lingers_into_batches_and_arrives_whole_and_in_order(make_world):
    world = make_world(quick(linger=0.05))
    await world.know_run()
    for number in range(110):
        world.emitter.emit_nowait("note", {"n": number})
    assert len(world.push.pushed) < 110
    world.journal.commit()
    await until(lambda: len(world.push.pushed) == 110)
    assert [event.data["n"] for event in world.push.pushed] == list(range(110))


async def test_a_batch_whose_push_fails_goes_out_event_by_event(make_world):
    """The event that failed is tried again alone; those before it are not sent again."""
    world = make_world(quick(linger=0.05))
    await world.know_run()
    world.push.answers = [Pushed(1), Pushed(1), FAILED, FAILED]
    for number in range(8):
        world.emitter.emit_nowait("note", {"n": number})
    world.journal.commit()
    await until(lambda: len(world.push.pushed) == 10)
    assert [event.data["n"] for event in world.push.pushed] == [0, 1, 2, 2, 2, 3, 4, 5, 6, 7]
    assert world.journal.hand_overs == []


async def test_a_weak_connection_makes_events_linger_longer(make_world, monkeypatch):
    world = make_world(quick(linger=0.02))
    await world.know_run()
    world.push.score = 50
    held: list[float] = []
    add = Batcher.add
    monkeypatch.setattr(Batcher, "add", lambda *args: held.append(args[-1]) or add(*args))
    world.emitter.emit_nowait("note", {})
    assert held == [pytest.approx(0.03)]


async def test_performance_mode_does_not_linger_and_pulls_what_does(make_world):
    world = make_world(quick(linger=0.1))
    await world.know_run()
    for number in range(3):
        world.emitter.emit_nowait("note", {"n": number})
    before = len(world.push.pushed)
    assert before < 3
    world.core.emitter("u1", "r1", performance=True).emit_nowait("note", {"n": 3})
    assert [event.data["n"] for event in world.push.pushed] == [0, 1, 2, 3]


async def test_a_lingering_event_that_reaches_no_connection_is_handed_over(make_world):
    world = make_world(quick(linger=0.1))
    await world.know_run()
    world.push.answer = Pushed(0, "nobody connected")
    for _ in range(3):
        world.emitter.emit_nowait("note")
    world.journal.commit()
    handed = [entry for entry in world.journal.committed if entry.hand_over]
    await until(lambda: len(world.journal.hand_overs) + len(handed) == 3)
    assert world.journal.hand_overs, "at least one left after its commit"


async def test_close_pushes_what_lingers_and_hands_over_what_is_retried(make_world):
    world = make_world(quick(linger=0.1))
    await world.know_run()
    world.emitter.emit_nowait("note", {"n": 0})
    world.emitter.emit_nowait("note", {"n": 1})
    assert len(world.push.pushed) < 2
    retried = world.core.emitter("u2", "r2")
    world.push.answers = [Pushed(1)] * 8
    world.journal.commit()
    world.push.answers = [FAILED]
    receipt = retried.emit_nowait("note", {"n": 2})
    world.journal.commit()
    world.core.close()
    assert {event.data["n"] for event in world.push.pushed} == {0, 1, 2}
    assert world.journal.hand_overs == [(receipt.id, "the node is shutting down")]
