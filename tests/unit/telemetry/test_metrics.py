"""The names of the metrics and their bounds; docs/metrics.md shows what the code has."""

from __future__ import annotations

import re
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import uuid_utils
from prometheus_client.parser import text_string_to_metric_families

from delivery.api.operators.metrics import OLD, SHOWN
from delivery.telemetry import metrics
from delivery.telemetry.id_ages import observe_ages
from delivery.telemetry.instruments import (
    INSTRUMENTS,
    MAX_CHILDREN,
    OTHER,
    Counter,
    Gauge,
    Histogram,
    expose,
)

ROOT = Path(__file__).parents[3]
UNBOUNDED = {"user", "user_id", "run", "run_id", "id", "event_id", "type", "error", "address"}


def value(name: str, **labels: str) -> float:
    """A sample of this process's metrics; 0.0 if it is not there."""
    for metric in text_string_to_metric_families(expose()[0].decode()):
        for sample in metric.samples:
            if sample.name == name and sample.labels == labels:
                return float(sample.value)
    return 0.0


def test_the_page_shows_the_metrics_of_the_code() -> None:
    spec = spec_from_file_location("docs_metrics", ROOT / "docs" / "metrics.py")
    assert spec is not None
    assert spec.loader is not None
    script = module_from_spec(spec)
    spec.loader.exec_module(script)
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert script.drawn(page) == page, "run: python docs/metrics.py"
    for name in (*INSTRUMENTS, *(one.name for one in (*SHOWN, *OLD))):
        if not name.startswith("test_"):
            assert f"`{name}`" in page


def test_names_follow_prometheus_and_labels_are_bounded() -> None:
    for one in INSTRUMENTS.values():
        if one.name.startswith("test_"):
            continue
        assert re.fullmatch(r"delivery_[a-z_]+", one.name)
        assert one.name.endswith("_total") == isinstance(one, Counter), one.name
        if isinstance(one, Histogram):
            assert one.name.endswith(("_seconds", "_events", "_score")), one.name
            assert list(one.buckets) == sorted(one.buckets)
        if isinstance(one, Gauge) and "gateway" in one.where:
            assert "node" in one.labels, "gateways that share their values each have one"
        assert not UNBOUNDED & set(one.labels), one.name
        assert one.text.endswith(".")


def test_a_label_without_a_bound_ends_as_other() -> None:
    counter = Counter("test_unbounded_total", "Of a test.", ("of",))
    for number in range(MAX_CHILDREN + 10):
        counter.inc(1.0, f"n{number}")
    assert value("test_unbounded_total", of="n0") == 1
    assert value("test_unbounded_total", of=OTHER) == 10


def test_ages_come_from_the_ids_of_version_7_alone() -> None:
    histogram = Histogram("test_ages_seconds", "Of a test.", buckets=(1.0, 10.0))
    now = time.time()
    ids = [str(uuid_utils.uuid7()) for _ in range(500)]
    version_4 = "0199aaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"
    others = ["order-1", "", version_4, "zzzzzzzz-zzzz-7", "f" * 14 + "7"]
    observe_ages(histogram, [(now + 5.0, ids), (now + 0.5, ids[:7]), (now, others), (now, [])])
    assert value("test_ages_seconds_bucket", le="1.0") == 7
    assert value("test_ages_seconds_bucket", le="10.0") == 507
    assert value("test_ages_seconds_count") == 507
    assert 2_490 < value("test_ages_seconds_sum") < 2_530


def test_an_exemplar_is_shown_in_openmetrics() -> None:
    histogram = Histogram("test_exemplar_seconds", "Of a test.", buckets=(1.0,))
    histogram.observe(0.5, trace_id="0af7651916cd43dd8448eb211c80319c")
    body, content_type = expose("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")
    assert b'# {trace_id="0af7651916cd43dd8448eb211c80319c"} 0.5' in body
    assert b"trace_id" not in expose()[0], "the plain text format has no exemplars"


def test_a_metric_that_cannot_be_kept_does_not_reach_its_caller(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    counter = Counter("test_full_total", "Of a test.")
    counter.start()

    class Full:
        def inc(self, amount: float) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(counter._child(()), "_value", Full())
    counter.inc()
    assert "metric test_full_total cannot be kept" in caplog.text


def test_a_wrong_number_of_labels_is_a_mistake_in_the_code() -> None:
    with pytest.raises(TypeError, match="has the labels"):
        metrics.delivered.inc(1.0)
