"""The one emitter: what is pushed when, what is recorded how, what the caller learns."""

import asyncio
import json
from datetime import timedelta

import pytest

from delivery.domain.lifecycle import Outcome
from delivery.domain.options import Options
from delivery.domain.ports import Pushed
from delivery.errors import (
    IdConflict,
    InvalidContext,
    InvalidEvent,
    LedgerUnavailable,
    Overloaded,
)
from delivery.testing import make_id, make_policies


async def test_the_first_event_of_a_run_is_numbered_by_the_ledger_and_pushed_after(world):
    world.record_before(7)
    receipt = world.emitter.emit_nowait("note", {"x": 1})
    assert world.push.pushed == []
    assert world.journal.entries[0][0].event.seq is None
    world.journal.commit()
    assert world.pushed_seqs == [8]
    assert (receipt.seq, receipt.durable, receipt.duplicate) == (8, True, False)


async def test_later_events_are_pushed_while_they_commit(world):
    await world.know_run()
    receipt = world.emitter.emit_nowait("note", {"x": 1})
    assert world.pushed_seqs == [2]
    entry = world.journal.entries[0][0]
    assert (entry.event.seq, entry.sent) == (2, True)
    assert not receipt.is_settled
    world.journal.commit()
    assert receipt.seq == 2


async def test_nothing_overtakes_an_event_that_the_ledger_is_numbering(world):
    await world.know_run()
    world.emitter.emit_nowait("note", {"n": 1}, id=make_id(100))
    world.emitter.emit_nowait("note", {"n": 2})
    world.emitter.emit_nowait("note", {"n": 3})
    assert world.push.pushed == []
    world.journal.commit()
    assert [event.data["n"] for event in world.push.pushed] == [1, 2, 3]
    assert world.pushed_seqs == [2, 3, 4]
    world.emitter.emit_nowait("note", {"n": 4})
    assert world.pushed_seqs[-1] == 5, "the counter takes over when nothing is outstanding"


async def test_two_runs_have_two_counters(world):
    await world.know_run()
    other = world.core.emitter("u1", "r2")
    other.emit_nowait("note")
    world.emitter.emit_nowait("note")
    assert [(e.run_id, e.seq) for e in world.push.pushed] == [("r1", 2)]
    world.journal.commit()
    assert [(e.run_id, e.seq) for e in world.push.pushed] == [("r1", 2), ("r2", 1)]


async def test_emit_returns_when_the_event_is_durable(world):
    task = asyncio.create_task(world.emitter.emit("note", {"x": 1}))
    await asyncio.sleep(0)
    assert not task.done()
    world.journal.commit()
    receipt = await task
    assert receipt.durable
    assert receipt.seq == 1


async def test_accepted_gives_the_receipt_back_at_once_when_the_answer_is_in(world):
    receipt = world.emitter.emit_nowait("note")
    world.journal.commit()
    assert await receipt.accepted() is receipt


async def test_a_duplicate_is_reported_and_not_pushed_again(world):
    for _ in range(2):
        receipt = world.emitter.emit_nowait("note", {"x": 1}, id=make_id(9))
        world.journal.commit()
    assert receipt.duplicate
    assert receipt.seq == 1
    assert len(world.push.pushed) == 1


async def test_an_id_with_other_content_is_a_conflict(world):
    world.emitter.emit_nowait("note", {"x": 1}, id=make_id(9))
    receipt = world.emitter.emit_nowait("note", {"x": 2}, id=make_id(9))
    world.journal.commit()
    with pytest.raises(IdConflict):
        await receipt.accepted()
    assert len(world.push.pushed) == 1


async def test_a_duplicate_teaches_the_counter_nothing(world):
    world.record_before(41)
    first = world.emitter.emit_nowait("note", {"x": 1}, id=make_id(9))
    world.journal.commit()
    fresh = world.core.emitter("u1", "r1")
    fresh.emit_nowait("note", {"x": 1}, id=make_id(9))
    world.journal.commit()
    fresh.emit_nowait("note", {"x": 2})
    assert first.seq == 42
    assert world.pushed_seqs == [42, 43]


async def test_a_push_without_a_connection_hands_over_with_the_insert(world):
    await world.know_run()
    world.push.answer = Pushed(0, "nobody connected")
    world.emitter.emit_nowait("note")
    entry = world.journal.entries[0][0]
    assert (entry.sent, entry.hand_over) == (False, True)
    assert entry.pushes == [(Outcome.FAILED, "nobody connected")]
    world.journal.commit()
    await asyncio.sleep(0)
    assert world.hints == 1
    assert world.journal.hand_overs == []


async def test_no_connection_after_the_commit_hands_over_through_the_journal(world):
    world.push.answer = Pushed(0, "nobody connected")
    receipt = world.emitter.emit_nowait("note")
    world.journal.commit()
    assert world.journal.hand_overs == [(receipt.id, "nobody connected")]
    await asyncio.sleep(0)
    assert world.hints == 1


async def test_many_hand_overs_of_one_loop_turn_are_one_hint(world):
    world.push.answer = Pushed(0, "nobody connected")
    for _ in range(50):
        world.emitter.emit_nowait("note")
    world.journal.commit()
    await asyncio.sleep(0)
    assert len(world.journal.hand_overs) == 50
    assert world.hints == 1


async def test_a_push_that_raises_costs_the_event_nothing(world):
    world.push.answers = [RuntimeError("boom")]
    receipt = world.emitter.emit_nowait("note")
    world.journal.commit()
    assert receipt.durable
    assert world.journal.hand_overs == [(receipt.id, "push raised RuntimeError")]


async def test_an_ephemeral_event_is_pushed_and_never_recorded(world):
    receipt = await world.emitter.emit("progress", {"percent": 5})
    assert (receipt.seq, receipt.durable) == (None, False)
    assert world.journal.entries == []
    assert world.pushed_seqs == [None]
    assert await receipt.confirmed(timeout=10.0) is False


async def test_an_ephemeral_event_without_a_connection_is_dropped(world):
    world.push.answer = Pushed(0, "nobody connected")
    await world.emitter.emit("progress")
    assert world.journal.hand_overs == []
    await asyncio.sleep(0)
    assert world.hints == 0


async def test_an_auth_event_has_its_push_on_the_record_and_its_copy_at_once(make_world):
    copies = []
    world = make_world(on_auth=copies.append)
    await world.know_run()
    world.emitter.emit_nowait("auth_failed", {"why": "password"})
    entry = world.journal.entries[0][0]
    assert entry.sent
    assert entry.pushes == [(Outcome.DELIVERED, None)]
    assert [event.type for event in copies] == ["auth_failed"]


async def test_a_full_journal_refuses_before_anything_is_pushed(make_world):
    world = make_world(max_backlog=1)
    await world.know_run()
    world.emitter.emit_nowait("note")
    with pytest.raises(Overloaded):
        world.emitter.emit_nowait("note")
    assert world.pushed_seqs == [2]
    world.journal.commit()
    world.emitter.emit_nowait("note")
    assert world.pushed_seqs == [2, 3], "the refused event took no number"


async def test_a_failed_commit_reaches_the_caller_and_the_ledger_numbers_the_next(world):
    await world.know_run()
    receipt = world.emitter.emit_nowait("note")
    world.journal.fail(LedgerUnavailable("away"))
    with pytest.raises(LedgerUnavailable):
        await receipt.accepted()
    world.emitter.emit_nowait("note")
    assert world.journal.entries[0][0].event.seq is None


async def test_a_loss_whose_receipt_is_not_awaited_is_logged(world, caplog):
    receipt = world.emitter.emit_nowait("note")
    world.journal.fail(LedgerUnavailable("away"))
    assert receipt.id in caplog.text


async def test_while_the_ledger_is_away_events_go_out_without_a_number(world):
    world.journal.is_spooling = True
    receipt = world.emitter.emit_nowait("note")
    world.journal.commit()
    assert (receipt.durable, receipt.seq) == (True, None)
    assert world.pushed_seqs == [None]
    world.journal.is_spooling = False
    world.emitter.emit_nowait("note")
    assert world.journal.entries[0][0].event.seq is None


async def test_what_the_caller_does_with_the_data_afterwards_changes_nothing(world):
    data = {"list": [1]}
    world.emitter.emit_nowait("note", data)
    data["list"].append(2)
    world.journal.commit()
    assert world.push.pushed[0].data == {"list": [1]}
    assert json.loads(world.push.encoded[0])["data"] == {"list": [1]}


async def test_the_pushed_bytes_are_the_event_of_the_contract(world):
    emitter = world.core.emitter("u1", "r1", "t1")
    emitter.emit_nowait("note", {"x": 1}, meta={"trace": "abc"})
    world.journal.commit()
    assert json.loads(world.push.encoded[0]) == {
        "id": make_id(1),
        "type": "note",
        "user_id": "u1",
        "run_id": "r1",
        "thread_id": "t1",
        "seq": 1,
        "at": "2026-01-01T12:00:00Z",
        "class": "standard",
        "data": {"x": 1},
        "meta": {"trace": "abc"},
    }


async def test_placeholder_ids_are_flagged_and_refused_for_sign_ins(world):
    emitter = world.core.emitter("u1", "undefined")
    emitter.emit_nowait("note", meta={"trace": "abc"})
    assert world.journal.entries[0][0].event.meta == {
        "trace": "abc",
        "flags": ["placeholder:run_id"],
    }
    with pytest.raises(InvalidContext) as caught:
        emitter.emit_nowait("auth_started")
    assert caught.value.field == "run_id"


async def test_the_shorthands_say_what_happened(world):
    world.journal.auto = True
    await world.emitter.emit_agent_started("researcher", model="m")
    await world.emitter.emit_agent_thinking("hm")
    await world.emitter.emit_tool_executing("search", {"q": "x"})
    await world.emitter.emit_tool_completed("search", [1, 2])
    await world.emitter.emit_agent_completed("done")
    await world.emitter.emit_auth("completed", {"method": "sso"})
    assert [(event.type, dict(event.data)) for event in world.push.pushed] == [
        ("agent_started", {"agent": "researcher", "model": "m"}),
        ("agent_thinking", {"thought": "hm"}),
        ("tool_executing", {"tool": "search", "args": {"q": "x"}}),
        ("tool_completed", {"tool": "search", "result": [1, 2]}),
        ("agent_completed", {"result": "done"}),
        ("auth_completed", {"method": "sso"}),
    ]
    with pytest.raises(InvalidEvent, match="started or validating"):
        await world.emitter.emit_auth("finished")


async def test_an_emitter_without_a_user_cannot_be_made(world):
    with pytest.raises(InvalidContext):
        world.core.emitter("", "r1")


async def test_policies_reach_the_entry(make_world):
    world = make_world(make_policies(standard={"ack_timeout": 2.0, "ttl": 60.0}))
    world.emitter.emit_nowait("note")
    entry = world.journal.entries[0][0]
    assert (entry.ack_timeout, entry.ttl) == (2.0, 60.0)


async def test_a_caller_chooses_class_and_time_to_live(make_world):
    world = make_world(make_policies(orders={"ack_timeout": 9.0, "ttl": 3_600.0}))
    await world.know_run()
    for options in ({"class_": "orders", "ttl": 60}, {"class": "orders", "id": make_id(7)}):
        world.emitter.emit_nowait("note", **options)
    first, second = (entries for entries, _ in world.journal.entries)
    assert (first.event.event_class, first.ack_timeout, first.ttl) == ("orders", 9.0, 60.0)
    assert first.options == Options(event_class="orders", ttl=60.0)
    assert (second.event.event_class, second.ttl) == ("orders", 3_600.0)


async def test_an_event_without_options_carries_none(world):
    world.emitter.emit_nowait("note", class_=None, ttl=None)
    assert world.journal.entries[0][0].options is None


@pytest.mark.parametrize("options", [{"class_": "nowhere"}, {"ttl": 0}, {"ttl": 1e9}])
async def test_a_wrong_option_is_refused_and_takes_no_number(world, options):
    await world.know_run()
    with pytest.raises(InvalidEvent):
        world.emitter.emit_nowait("note", **options)
    assert world.emitter.emit_nowait("note").id
    assert world.journal.entries[0][0].event.seq == 2


async def test_an_option_that_does_not_exist_is_a_mistake_in_the_program(world):
    with pytest.raises(TypeError, match="no option 'clas'"):
        world.emitter.emit_nowait("note", clas="critical")


@pytest.mark.parametrize("is_known", [True, False])
async def test_an_event_that_is_held_back_is_recorded_and_not_pushed(world, is_known):
    if is_known:
        await world.know_run()
    world.push.absent = {"u1"}
    not_before = world.clock.utcnow() + timedelta(minutes=1)
    receipt = world.emitter.emit_nowait("note", not_before=not_before, ttl=60)
    entry = world.journal.entries[0][0]
    assert (entry.event.seq, entry.is_held, entry.hand_over) == (None, True, False)
    world.journal.commit()
    assert receipt.seq == (2 if is_known else 1)
    assert (world.push.pushed, world.hints) == ([], 0)
    world.push.absent = set()
    world.emitter.emit_nowait("note")
    assert world.pushed_seqs == [receipt.seq + 1]


async def test_an_instant_that_has_passed_holds_nothing_back(world):
    await world.know_run()
    world.emitter.emit_nowait("note", not_before="2020-01-01T00:00:00Z")
    assert world.pushed_seqs == [2]
