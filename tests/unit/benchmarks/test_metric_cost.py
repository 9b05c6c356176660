"""`python -m benchmarks.metric_cost`: what is counted of an event is counted by batch."""

from __future__ import annotations

import json

from click.testing import CliRunner

from benchmarks.metric_cost import main, measure


def test_an_event_costs_no_call_of_a_metric() -> None:
    cost = measure(batch=100, batches=20, rounds=40)
    # One call of a counter per event costs ten times the reference, and each event has six.
    assert 0.0 < cost.metrics < 40 * cost.reference, cost


def test_the_cost_is_told() -> None:
    done = CliRunner().invoke(main, ["--batch", "10", "--json"])
    assert done.exit_code == 0, done.output
    assert set(json.loads(done.output)) == {"metrics_us", "reference_us"}
