"""Events of agents reach a real server, and an agent never feels how that server is."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest
from aiohttp import web

import delivery
from delivery.adapters.process import ProcessDelivery, ProcessRecorder
from delivery.adapters.recorder import Recorder
from delivery.errors import ConfigError, InvalidContext
from tests.adapters.support import AWAY, RUN, USER, calls, events, gateway, recording, run_of, types
from tests.waiting import until, until_blocking


class Opaque:
    """What no tool should return."""

    def __repr__(self) -> str:
        return "opaque" * 200


class Broken:
    """Worse: whose text fails."""

    def __repr__(self) -> str:
        raise RuntimeError("no text")


def test_a_result_names_the_call_that_it_answers():
    with gateway() as server:
        with run_of(server.url) as run, run.agent("researcher") as span:
            for call in ("c1", "c2"):
                run.tool_started("search", {"q": call}, tool_call_id=call, agent_id=span.agent_id)
            for call in ("c2", "c1"):
                run.tool_completed("search", call, tool_call_id=call, agent_id=span.agent_id)
            span.result = {"answer": 42}
        assert types(server) == [
            "agent_started",
            "tool_executing",
            "tool_executing",
            "tool_completed",
            "tool_completed",
            "agent_completed",
        ]
        for call, (began, ended) in calls(server).items():
            assert (began["args"], ended["result"]) == ({"q": call}, call)
            assert ended["duration_ms"] >= 0
        assert {one["data"]["agent_id"] for one in events(server)} == {span.agent_id}
        assert events(server)[-1]["data"]["result"] == {"answer": 42}


def test_an_exception_is_an_event_and_is_raised_again():
    with gateway() as server:
        with (
            run_of(server.url) as run,
            pytest.raises(ZeroDivisionError),
            run.agent("outer") as o,
            run.agent("inner") as inner,
        ):
            raise ZeroDivisionError("by zero")
        began, nested, failed, outer = events(server)
        assert nested["data"]["parent_id"] == began["data"]["agent_id"] == o.agent_id
        assert failed["type"] == outer["type"] == "agent_error"
        assert failed["class"] == "critical"
        assert failed["data"]["agent_id"] == inner.agent_id
        assert failed["data"]["error"] == {"type": "ZeroDivisionError", "message": "by zero"}


async def test_parallel_agents_keep_apart():
    async def work(run, name):
        with run.agent(name):
            await asyncio.sleep(0)
            with run.agent(f"{name}-child"):
                await asyncio.sleep(0)

    with gateway() as server:
        with run_of(server.url) as run:
            await asyncio.gather(work(run, "a"), work(run, "b"))
        ids = {e["data"]["agent"]: e["data"] for e in events(server, "agent_started")}
        for name in "ab":
            assert ids[f"{name}-child"]["parent_id"] == ids[name]["agent_id"]


@pytest.mark.parametrize(
    ("value", "flags"),
    [
        (Opaque(), ["shortened:args", "unserialisable:args"]),
        (Broken(), ["shortened:args", "unserialisable:args"]),
        (threading.Lock(), ["shortened:args", "unserialisable:args"]),
        (float("nan"), ["shortened:args", "unserialisable:args"]),
        (b"\xff", ["shortened:args", "unserialisable:args"]),
        ("x" * 200_000, ["shortened:args"]),
        (["é" * 10_000] * 12, ["shortened:args"]),
        (list(range(50_000)), ["shortened:args"]),
        ({"half": "\ud83d"}, None),
    ],
    ids=["opaque", "broken", "lock", "nan", "bytes", "long", "many", "items", "surrogate"],
)
def test_what_json_cannot_carry_is_a_shortened_text_with_a_flag(value, flags):
    itself: dict = {}
    itself["self"] = itself
    with gateway() as server:
        with run_of(server.url) as run:
            run.tool_started("t", {"value": value}, tool_call_id="c")
            run.tool_completed("t", itself, tool_call_id="c")
        began, ended = events(server)
        assert (began.get("meta") or {}).get("flags") == flags
        assert ended["meta"]["flags"] == ["shortened:result", "unserialisable:result"]
        assert began["data"]["tool_call_id"] == "c"


def test_fields_that_are_too_large_together_are_cut():
    with gateway() as server:
        with run_of(server.url) as run:
            run.record("big", dict.fromkeys("abc", "\\" * 15000))
        (one,) = events(server)
        assert set(one["data"]) == {"a", "b", "c"}
        assert set(one["meta"]["flags"]) <= {"shortened:a", "shortened:b", "shortened:c"}


@pytest.mark.parametrize("away", AWAY)
@pytest.mark.parametrize("on_full", ["drop", "spool"])
def test_a_gateway_that_is_away_costs_an_agent_no_time(away, on_full, tmp_path: Path):
    options = {"spool": tmp_path} if on_full == "spool" else {}
    with AWAY[away]() as url, recording(url, capacity=50, close_timeout=0.1, **options) as recorder:
        run = recorder.run(USER, RUN)
        began = time.thread_time()
        for number in range(500):
            run.record("note", {"number": number})
            run.delta("x", agent_id="a", message_id=str(number))
            run.wait_for_room()
        spent = time.thread_time() - began
        assert recorder.counts.taken == 1_000
    assert spent < 5.0
    assert recorder.counts.dropped >= 400
    assert recorder.counts.dropped + recorder.counts.spooled == 1_000
    assert bool(recorder.counts.spooled) == (on_full == "spool")


def test_closing_waits_little_for_a_gateway_that_does_not_answer_and_no_longer_than_it_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    began = time.monotonic()
    with AWAY["dead"]() as url:
        recorder = ProcessRecorder(url, "t", spool=tmp_path, close_timeout=600.0)
        recorder.run(USER, RUN).record("note")
        recorder.close()
        assert len(list(tmp_path.iterdir())) == 1, "the event is kept for the next process"
    with AWAY["stuck"]() as url:
        recorder = ProcessRecorder(url, "t", spool=tmp_path / "second", close_timeout=0.1)
        recorder.run(USER, RUN).record("note")
        recorder.close()
        process = ProcessDelivery(url, "t", close_timeout=0.1)
        process.emitter(USER, RUN).emit_nowait("note")
        process.close()
    assert time.monotonic() - began < 300.0
    told = [one.message for one in caplog.records if "not sent" in one.message]
    assert told == ["1 events were not sent before closing"], "the last one, which is lost"


def test_spooled_events_are_sent_in_order_after_a_restart(tmp_path: Path):
    options = {"capacity": 10, "close_timeout": 0.1, "spool": tmp_path}
    with AWAY["dead"]() as url, recording(url, **options) as recorder:
        for number in range(700):
            recorder.run(USER, RUN, "t1").record("note", {"number": number})
    with gateway() as server:
        with recording(server.url, spool=tmp_path) as recorder:
            until_blocking(lambda: len(server.accepted) == 700)
        assert [one["data"]["number"] for one in events(server)] == list(range(700))
        assert {one["thread_id"] for one in events(server)} == {"t1"}
    assert list(tmp_path.iterdir()) == []


def test_spooled_events_follow_once_the_gateway_is_back(tmp_path: Path):
    with gateway() as server:
        server.replies = [lambda items: web.Response(status=503)] * 3
        with recording(server.url, capacity=5, spool=tmp_path) as recorder:
            run = recorder.run(USER, RUN)
            for number in range(100):
                run.record("note", {"number": number})
        assert recorder.counts.spooled > 0
        assert [one["data"]["number"] for one in events(server)] == list(range(100))


def test_a_blocked_agent_goes_on_when_there_is_room():
    with gateway() as server:
        with recording(server.url, on_full="block", capacity=10) as recorder:
            run = recorder.run(USER, RUN)
            for number in range(300):
                run.record("note", {"number": number})
                run.wait_for_room()
        assert [one["data"]["number"] for one in events(server)] == list(range(300))
        assert recorder.counts.dropped == 0


async def test_a_blocked_agent_leaves_its_event_loop_free():
    with gateway() as server:
        async with (
            delivery.connect(server.url, "t") as d,
            Recorder(d, on_full="block", capacity=10) as recorder,
        ):
            run = recorder.run(USER, RUN)
            for number in range(300):
                run.record("note", {"number": number})
                await run.room()
        assert [one["data"]["number"] for one in events(server)] == list(range(300))


async def test_a_blocked_agent_waits_no_longer_than_told():
    with AWAY["stuck"]() as url:
        async with delivery.connect(url, "t", timeout=0.5, deadline=1.0) as d:
            recorder = Recorder(d, on_full="block", capacity=2, block_timeout=0.05)
            for _ in range(10):
                recorder.run(USER, RUN).record("note")
                await recorder.run(USER, RUN).room()
            await recorder.aclose(0.1)
    assert recorder.counts.dropped == 10


def test_an_event_that_is_refused_costs_no_other():
    def refuse(items):
        problem = {"status": 422, "type": "/problems/invalid-event", "detail": "no"}
        return web.json_response({"accepted": [], "rejected": [{"index": 0, "error": problem}]})

    with gateway() as server:
        server.replies = [refuse]
        with recording(server.url) as recorder:
            recorder.run(USER, RUN).record("first")
            assert recorder.flush(15.0)
            recorder.run(USER, RUN).record("second")
        assert types(server) == ["second"]
        assert recorder.counts.refused == 1


def test_pieces_of_a_text_that_wait_become_one():
    with gateway() as server:
        server.replies = [lambda items: web.Response(status=503)]
        with run_of(server.url) as run:
            run.record("first")
            until_blocking(lambda: server.bodies)
            for piece in "streaming":
                run.delta(piece, agent_id="a", message_id="m")
        deltas = events(server, "token_delta")
        assert "".join(one["data"]["text"] for one in deltas) == "streaming"
        assert len(deltas) < 9
        assert {one["class"] for one in deltas} == {"ephemeral"}


async def test_a_caller_that_goes_away_leaves_the_run_alone():
    with gateway() as server:
        async with delivery.connect(server.url, "t") as d, Recorder(d) as recorder:
            run = recorder.run(USER, RUN)
            go = asyncio.Event()

            async def work():
                with run.agent("researcher") as span:
                    await go.wait()
                    span.result = "done"

            request = asyncio.create_task(run.keep(work()))
            await until(lambda: recorder.counts.taken == 1)
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
            go.set()
        assert types(server) == ["agent_started", "agent_completed"]


async def test_a_stream_is_recorded_to_its_end_without_its_reader():
    async def source():
        for number in range(500):
            yield number
            await asyncio.sleep(0)

    with gateway() as server:
        async with delivery.connect(server.url, "t") as d, Recorder(d) as recorder:
            run = recorder.run(USER, RUN)
            stream = run.passed_on(source(), lambda item: run.record("note", {"number": item}))
            assert [await anext(stream) for _ in range(3)] == [0, 1, 2]
            await stream.aclose()
        assert len(events(server)) == 500


async def test_a_stream_that_fails_raises_to_its_reader():
    async def source():
        yield 1
        raise LookupError("gone")

    with gateway() as server:
        async with delivery.connect(server.url, "t") as d, Recorder(d) as recorder:
            stream = recorder.run(USER, RUN).passed_on(source(), lambda item: None)
            assert await anext(stream) == 1
            with pytest.raises(LookupError):
                await anext(stream)


def test_arguments_that_make_no_sense_are_refused(tmp_path: Path):
    with delivery.connect_sync("http://127.0.0.1:1", "t") as d:
        for options in (
            {"on_full": "wait"},
            {"on_full": "spool"},
            {"on_full": "drop", "spool": tmp_path},
            {"spool": "/dev/null/spool"},
            {"capacity": 0},
        ):
            with pytest.raises(ConfigError):
                Recorder(d, **options)
        with Recorder(d) as recorder, pytest.raises(InvalidContext) as refused:
            recorder.run("", "r1")
        assert refused.value.field == "user_id"
    with pytest.raises(ConfigError, match="connect_sync"):
        Recorder(delivery.connect("http://127.0.0.1:1", "t"))
