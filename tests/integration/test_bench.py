"""The benchmark runs for real, small, and has no figure for a run that lost events."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from delivery.bench.append import IN_PROCESS, OVER_HTTP, Append, run_append
from delivery.bench.disconnect import Disconnect, run_disconnect
from delivery.bench.load import Load, percentiles
from delivery.bench.processes import BenchFailed
from delivery.bench.ratio import _audit
from tests.processes import run_command


def test_product_and_floor_run_side_by_side_and_every_event_is_confirmed(tmp_path: Path) -> None:
    done = run_command(
        "bench",
        "--users",
        "3",
        "--events",
        "600",
        "--window",
        "100",
        "--rounds",
        "1",
        "--json",
        cwd=tmp_path,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["product"]["unconfirmed"] == 0
    assert report["product"]["events"] == report["floor"]["events"] == 600
    assert report["ratio"]["events_per_cpu_s"] > 0
    for wait in ("ack_ms", "accepted_ms", "handler_ms"):
        assert 0 < report["product"][wait]["p50"] <= report["product"][wait]["p99"], wait
    assert "accepted_ms" not in report["floor"], "the floor stores nothing"


def test_a_run_that_lost_or_repeated_events_has_no_figures() -> None:
    fine = {"unconfirmed": 0, "events": 5}
    _audit("product", fine, {"repeated": 0, "received": 5})
    with pytest.raises(BenchFailed, match="not confirmed"):
        _audit("product", fine | {"unconfirmed": 1}, {"repeated": 0, "received": 5})
    with pytest.raises(BenchFailed, match="came twice"):
        _audit("product", fine, {"repeated": 2, "received": 7})
    with pytest.raises(BenchFailed, match="lost 1"):
        _audit("floor", {"events": 5}, {"repeated": 0, "received": 4})


def test_percentiles_come_from_raw_samples() -> None:
    found = percentiles([number / 1000 for number in range(1, 1001)])
    assert (found["p50"], found["p99"], found["max"]) == pytest.approx((501.0, 991.0, 1000.0))
    assert percentiles([]) == {}


def test_a_crowd_that_is_cut_off_is_handed_over_and_the_others_keep_acknowledging() -> None:
    report = run_disconnect(Disconnect(4, others=3, rate=100.0, calm=1.3), None)
    assert report["events"] == 40
    assert report["handed_over_s"] > 0
    assert report["ack_ms"]["before"]["p99"] > 0
    assert report["ack_ms"]["meanwhile"]["p99"] > 0


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_what_is_accepted_for_users_who_are_away_stands_beside_the_databases_own_rate(
    database: str, request: pytest.FixtureRequest
) -> None:
    url = None if database == "sqlite" else request.getfixturevalue("postgres_url")
    report = run_append(Append(Load(3, 500, 200), url, rounds=1))
    assert report["database"] == database
    assert set(report["ratio"]) == {IN_PROCESS, OVER_HTTP}
    for way in report["ways"].values():
        assert way["accepted_per_s"] > 0
        assert way["cpu_us_per_event"] > 0
    assert report["database_rows_per_s"] > 0
