"""A mass disconnect: what its figures are made of, and when it has none."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner

from delivery.bench import disconnect
from delivery.bench.disconnect import Disconnect, Seen, _audit, judge
from delivery.bench.processes import BenchFailed
from delivery.cli import main

SAMPLES = [[11.5, 0.002], [12.0, 0.004], [20.5, 0.006], [99.0, 1.0]]


def seen(**changes: Any) -> Seen:
    gateway = {"ids": ["a", "b", "c"], "published": {"a": 21.0}, "samples": SAMPLES}
    sweeper = {"published": {"a": 26.0, "b": 22.0, "c": 19.0}, "sweeps": [[21.5, 22.5, 2]]}
    return Seen(
        cut=20.0,
        paced_from=10.0,
        filled={"started": 15.0, "emitted": 16.5, "ack_timeout": 5.0},
        gateway=gateway | changes,
        sweeper=sweeper,
    )


def test_an_event_counts_when_the_first_of_two_processes_published_it() -> None:
    found = judge(seen())
    assert found["handed_over_s"] == pytest.approx(2.0)  # b; the second message of a is no news
    # No client came back within a second; the time to acknowledge would have been over at 21.5.
    assert (found["last_due_s"], found["late_s"]) == pytest.approx((1.0, 1.0))
    assert (found["events"], found["before_cut"]) == (3, 1)
    assert found["sweeping_s"] == pytest.approx(1.0)


def test_the_others_are_compared_with_the_calm_before_the_crowd_got_its_events() -> None:
    found = judge(seen())
    assert found["ack_ms"]["before"]["max"] == pytest.approx(4.0)
    assert found["ack_ms"]["meanwhile"]["max"] == pytest.approx(6.0)
    assert found["p99_ratio"] == pytest.approx(1.5)


def test_the_command_shows_them_beside_the_aims(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Disconnect] = []

    def pretend(plan: Disconnect, database_url: str | None) -> dict[str, Any]:
        asked.append(plan)
        shown = {"plan": {"users": plan.users, "open_events": 10, "others": 100, "rate": plan.rate}}
        return judge(seen()) | shown | {"database": "SQLite", "broker": "memory"}

    monkeypatch.setattr(disconnect, "run_disconnect", pretend)
    found = CliRunner().invoke(main, ["bench", "--mode", "disconnect", "--users", "5000"])
    assert found.exit_code == 0, found.output
    assert max(map(len, found.output.splitlines())) <= 80
    assert asked == [Disconnect(5_000)], "without --rate the others get the usual load"
    for text in ("5,000 users", "2.00 s", "under 5 s", "4.0 ms", "6.0 ms", "1.50", "at most 2"):
        assert text in found.output


def test_no_ratio_without_samples_on_both_sides() -> None:
    assert judge(seen(samples=[]))["p99_ratio"] is None


def test_an_event_that_was_not_published_leaves_no_figures() -> None:
    with pytest.raises(BenchFailed, match="1 events were never published"):
        judge(seen(ids=["a", "d"]))


@pytest.mark.parametrize(
    ("crowd", "others", "repeated", "complaint"),
    [
        ((10, 9, 9), (5, 5, 5), 0, "1 events are not in the ledger"),
        ((10, 10, 8), (5, 5, 5), 0, "2 events of the crowd are not with the chain"),
        ((10, 10, 10), (5, 5, 4), 0, "1 events of the others are not confirmed"),
        ((10, 10, 10), (5, 5, 5), 3, "3 came twice"),
    ],
)
def test_a_run_that_lost_something_has_no_figures(
    crowd: tuple[int, ...], others: tuple[int, ...], repeated: int, complaint: str
) -> None:
    names = ("emitted", "found", "in_state")
    fine = dict.fromkeys(names, 5)
    _audit({"crowd": fine, "others": fine}, {"repeated": 0})
    served = {
        "crowd": dict(zip(names, crowd, strict=True)),
        "others": dict(zip(names, others, strict=True)),
    }
    with pytest.raises(BenchFailed, match=complaint):
        _audit(served, {"repeated": repeated})
