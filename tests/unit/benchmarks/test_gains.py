"""`python -m benchmarks.gains`: the slow reader, what counts as a gain, what is printed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import gains
from benchmarks.gains import HIGHER, LOWER, Measure, Plan, _compared, _in_turn, main
from benchmarks.slow_reader import read_slowly
from delivery.bench.load import Load


def test_merged_pieces_arrive_whole_in_fewer_events() -> None:
    merged = read_slowly(events=400, behind=100, is_merged=True)
    single = read_slowly(events=400, behind=100, is_merged=False)
    assert (merged["events"], single["events"]) == (4, 400)
    assert merged["text"] == single["text"] == 1.0
    assert merged["bytes"] < single["bytes"]


def test_a_reader_far_behind_loses_what_is_not_merged() -> None:
    assert read_slowly(events=2_000, behind=2_000, is_merged=True)["text"] == 1.0
    assert read_slowly(events=2_000, behind=2_000, is_merged=False)["text"] == 0.5


def test_a_gain_is_over_one_whatever_direction_is_better() -> None:
    measures = (Measure("rate", "events/s", HIGHER), Measure("time", "ms", LOWER))
    on = [{"rate": 30.0, "time": 4.0}]
    off = [{"rate": 20.0, "time": 2.0}, {"rate": 10.0, "time": 2.0}, {"rate": 90.0, "time": 2.0}]
    rows = _compared("x", measures, on, off)
    assert [(row["off"], row["gain"]) for row in rows] == [(20.0, 1.5), (2.0, 0.5)]
    nothing = [{"rate": 0.0, "time": 0.0}]
    assert [row["gain"] for row in _compared("x", measures, on, nothing)] == [None, 0.0]


def test_on_and_off_take_turns() -> None:
    order: list[str] = []

    def way(name: str) -> Any:
        return lambda: order.append(name) or {"x": 1.0}

    found = _in_turn(2, {"on": way("on"), "off": way("off")})
    assert order == ["on", "off", "on", "off"]
    assert found == {"on": [{"x": 1.0}] * 2, "off": [{"x": 1.0}] * 2}


@pytest.mark.parametrize("as_json", [False, True])
def test_the_report_is_printed(monkeypatch: pytest.MonkeyPatch, as_json: bool) -> None:
    row = {
        "mechanism": "merging, 2,000 behind",
        "measure": "share of the text that arrives",
        "better": HIGHER,
        "on": 1.0,
        "off": 12_000.0,
        "gain": None,
    }
    plans: list[Plan] = []

    def pretend(plan: Plan) -> dict[str, Any]:
        plans.append(plan)
        return {"mechanisms": [row, row]}

    monkeypatch.setattr(gains, "run_all", pretend)
    args = ["--rate", "500", *(["--json"] if as_json else [])]
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 0, done.output
    assert plans == [Plan(Load(10, 20_000, 1_000, 500.0))]
    if as_json:
        assert json.loads(done.output) == {"mechanisms": [row, row]}
    else:
        assert done.output.count("merging, 2,000 behind") == 1
        assert all(len(line) <= 80 for line in done.output.splitlines())
