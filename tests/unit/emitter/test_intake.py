"""Events that came as JSON objects: order and answers."""

import asyncio

from delivery.domain.ports import Accepted, Pushed
from delivery.emitter.intake import HttpIntake
from delivery.errors import IdConflict, InvalidEvent, LedgerUnavailable, Overloaded
from delivery.testing import make_id


def item(number=0, **changes):
    return {"type": "note", "user_id": "u1", "run_id": "r1", "data": {"n": number}, **changes}


async def accept(world, items):
    task = asyncio.create_task(HttpIntake(world.core).accept(items))
    await asyncio.sleep(0)
    world.journal.commit()
    return await task


async def test_answers_come_in_order_with_numbers_of_the_ledger(world):
    world.record_before(3)
    answers = await accept(world, [item(0), item(1), item(2)])
    assert [answer.seq for answer in answers] == [4, 5, 6]
    assert [event.data["n"] for event in world.push.pushed] == [0, 1, 2]


async def test_nothing_is_pushed_before_the_commit(world):
    task = asyncio.create_task(HttpIntake(world.core).accept([item()]))
    await asyncio.sleep(0)
    assert world.push.pushed == []
    world.journal.commit()
    await task
    assert len(world.push.pushed) == 1


async def test_a_bad_item_spoils_nothing_but_itself(world):
    answers = await accept(
        world, [item(0), {"type": "note"}, "text", item(3, colour="red"), item(4)]
    )
    assert [isinstance(answer, Accepted) for answer in answers] == [True, False, False, False, True]
    assert all(isinstance(answer, InvalidEvent) for answer in answers[1:4])
    assert answers[1].field == "user_id"
    assert answers[3].field == "colour"


async def test_a_duplicate_within_one_batch_is_a_duplicate(world):
    answers = await accept(world, [item(0, id=make_id(5)), item(0, id=make_id(5))])
    assert [answer.duplicate for answer in answers] == [False, True]
    assert len(world.push.pushed) == 1


async def test_a_conflict_is_the_items_own_answer(world):
    answers = await accept(world, [item(0, id=make_id(5)), item(1, id=make_id(5))])
    assert isinstance(answers[1], IdConflict)


async def test_ephemeral_items_keep_their_place(world):
    answers = await accept(
        world, [item(0, type="progress"), item(1), item(2, type="progress"), item(3)]
    )
    assert [event.data["n"] for event in world.push.pushed] == [0, 1, 2, 3]
    assert [answer.durable for answer in answers] == [False, True, False, True]
    assert answers[0].seq is None


async def test_when_the_journal_is_full_the_rest_waits_for_another_day(world):
    world.journal.max_pending = 2
    answers = await accept(world, [item(n) for n in range(4)])
    assert [isinstance(answer, Overloaded) for answer in answers] == [False, False, True, True]


async def test_an_event_of_this_process_does_not_overtake_a_batch(world):
    await world.know_run()
    task = asyncio.create_task(HttpIntake(world.core).accept([item(0), item(1)]))
    await asyncio.sleep(0)
    world.emitter.emit_nowait("note", {"n": 2})
    world.journal.commit()
    await task
    assert [event.data["n"] for event in world.push.pushed] == [0, 1, 2]
    assert world.pushed_seqs == [2, 3, 4]


async def test_a_push_without_a_connection_hands_over_after_the_commit(world):
    world.push.answer = Pushed(0, "nobody connected")
    answers = await accept(world, [item()])
    assert world.journal.hand_overs == [(answers[0].id, "nobody connected")]


async def test_an_event_of_an_absent_user_is_handed_over_by_its_insert(world):
    world.push.absent.add("u1")
    await accept(world, [item()])
    [entry] = world.journal.committed
    assert entry.hand_over
    assert (world.journal.hand_overs, world.push.pushed) == ([], [])


async def test_a_user_who_comes_while_an_event_commits_gets_it(world):
    world.push.absent.add("u1")
    task = asyncio.create_task(HttpIntake(world.core).accept([item()], "producer"))
    await asyncio.sleep(0)
    world.push.absent.clear()
    world.journal.commit()
    await task
    assert len(world.push.pushed) == 1


async def test_a_ledger_that_fails_is_said_per_item(world):
    task = asyncio.create_task(HttpIntake(world.core).accept([item(0), {"type": "note"}]))
    await asyncio.sleep(0)
    world.journal.fail(LedgerUnavailable("away"))
    answers = await task
    assert isinstance(answers[0], LedgerUnavailable)
    assert isinstance(answers[1], InvalidEvent)


async def test_an_empty_batch_has_no_answers(world):
    assert await HttpIntake(world.core).accept([]) == []
