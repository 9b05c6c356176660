"""Prometheus, its rules and the Grafana dashboard ask for metrics and targets that exist."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY

from delivery.api.operators.metrics import OLD, Figures, collect
from delivery.domain.event import EventClass
from delivery.domain.health import BreakerState
from delivery.domain.operators.figures import AlertGroup, ChannelStats, Stats
from delivery.telemetry import metrics  # noqa: F401 - makes the instruments
from delivery.telemetry.instruments import INSTRUMENTS, Histogram, expose
from tests.deployment.compose import ROOT, bind_mounts, services

DASHBOARD = json.loads((ROOT / "config/grafana/dashboards/delivery.json").read_text())


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / "config" / name).read_text())


def expressions() -> list[str]:
    rules = [
        rule["expr"] for group in read("prometheus-rules.yml")["groups"] for rule in group["rules"]
    ]
    return rules + [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def exposed() -> set[str]:
    """The names in a gateway's and in Flower's exposition."""
    from flower.events import get_prometheus_metrics

    get_prometheus_metrics()
    theirs = {sample.name for metric in REGISTRY.collect() for sample in metric.samples}
    theirs |= {metric.name + "_total" for metric in REGISTRY.collect() if metric.type == "counter"}
    ours = {
        name
        for one in INSTRUMENTS.values()
        for name in (
            [one.name + part for part in ("_bucket", "_count", "_sum")]
            if isinstance(one, Histogram)
            else [one.name]
        )
    }
    return set(re.findall(r"^# TYPE (\w+)", everything(), re.MULTILINE)) | ours | theirs


def everything() -> str:
    now = datetime.now(UTC)
    stats = Stats(
        window_s=60,
        delivery_rate=1.0,
        fallback_share=0.0,
        events_per_s=1.0,
        ack_p50_ms=1.0,
        ack_p99_ms=2.0,
        states={"confirmed": 1},
        oldest_overdue_s=0.0,
        channels={"email": ChannelStats(attempts=1, ok=1, breaker=BreakerState.OPEN)},
    )
    group = AlertGroup(
        id="g",
        event_class=EventClass.CRITICAL,
        since=now,
        count=1,
        users=1,
        sample=("x",),
        notified_at=None,
        is_new=True,
    )
    figures = Figures(node="n", stats=stats, alerts=[group])
    return expose(collectors=[lambda: collect(figures)])[0].decode()


def test_every_metric_that_is_asked_for_is_exposed() -> None:
    asked = {
        name
        for text in expressions()
        for name in re.findall(r"(?<![:\w])(?:delivery|flower|process)_[a-z_]+", text)
    }
    assert len(asked) > 10
    assert asked <= exposed()


def test_every_figure_that_is_asked_for_is_recorded() -> None:
    groups = read("prometheus-rules.yml")["groups"]
    recorded = {rule["record"] for group in groups for rule in group["rules"] if "record" in rule}
    asked = {name for text in expressions() for name in re.findall(r"delivery:[\w:]+", text)}
    assert asked <= recorded
    assert {one.replaced_by for one in OLD if ":" in one.replaced_by} <= recorded


def test_every_label_that_is_asked_for_is_exposed() -> None:
    text = everything()
    for expression in expressions():
        for name, wanted in re.findall(r"(?<![:\w])(delivery_[a-z_]+)\{(.*?)\}", expression):
            if name in INSTRUMENTS:
                assert set(re.findall(r"(\w+)=", wanted)) <= set(INSTRUMENTS[name].labels)
                continue
            for label in re.findall(r'(\w+="\w+")', wanted):
                assert re.search(rf"^{name}\{{.*{label}.*\}}", text, re.MULTILINE), expression


def test_prometheus_asks_services_that_exist_on_the_ports_they_have() -> None:
    config = read("prometheus.yml")
    targets = {
        target
        for job in config["scrape_configs"]
        for one in job.get("static_configs", [])
        for target in one["targets"]
    }
    assert targets == {"gateway-1:8080", "gateway-2:8080", "beat:9464", "flower:5555"}
    (workers,) = [job for job in config["scrape_configs"] if job["job_name"] == "workers"]
    (found,) = workers["dns_sd_configs"]
    assert set(found["names"]) == {name for name in services() if name.startswith("worker-")}
    for name in (*found["names"], "beat"):
        service = services()[name]
        assert service["environment"]["DELIVERY_METRICS_PORT"] == str(found["port"])
        assert set(service["networks"]) & set(services()["prometheus"]["networks"])
    (alertmanagers,) = config["alerting"]["alertmanagers"]
    assert alertmanagers["static_configs"][0]["targets"] == ["alertmanager:9093"]
    jobs = {job["job_name"] for job in config["scrape_configs"]}
    named = {job for text in expressions() for job in re.findall(r'job="(\w+)"', text)}
    assert named <= jobs
    mounted = bind_mounts(services()["prometheus"])
    for rules in config["rule_files"]:
        assert mounted[f"/etc/prometheus/{rules}"].is_file()


def test_grafana_finds_its_dashboard_and_the_dashboard_its_data() -> None:
    mounted = bind_mounts(services()["grafana"])
    (source,) = read("grafana/provisioning/datasources/prometheus.yml")["datasources"]
    (provider,) = read("grafana/provisioning/dashboards/delivery.yml")["providers"]
    assert list(mounted[provider["options"]["path"]].glob("*.json"))
    home = services()["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home.startswith(provider["options"]["path"])
    uids = {
        target["datasource"]["uid"] for panel in DASHBOARD["panels"] for target in panel["targets"]
    }
    assert uids == {source["uid"]}
    assert source["url"] == "http://prometheus:9090"
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))


def test_promtool_takes_the_rules_and_what_they_do() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        missing = "promtool is not installed: apt-get install prometheus"
        if os.environ.get("CI"):
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    here = Path(__file__).parent
    for command in (
        ["check", "rules", str(ROOT / "config/prometheus-rules.yml")],
        ["test", "rules", str(here / "prometheus_rules_test.yml")],
    ):
        done = subprocess.run(
            [promtool, *command], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
