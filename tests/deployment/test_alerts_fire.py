"""The rules and the dashboard on a real Prometheus and a real Alertmanager.

The shipped files with short windows: what is served is made by the product's own metrics, of which
this test only says by how much they rise.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from delivery.api.operators.metrics import Figures, collect
from delivery.domain.health import BreakerState
from delivery.domain.operators.figures import ChannelStats, Stats
from delivery.telemetry import metrics
from delivery.telemetry.instruments import INSTRUMENTS, Counter, Gauge, Histogram, expose
from tests import servers
from tests.deployment.compose import ROOT

pytestmark = pytest.mark.timeout(300)
RULES = ROOT / "config/prometheus-rules.yml"
DASHBOARD = json.loads((ROOT / "config/grafana/dashboards/delivery.json").read_text())
INSTALL = "apt-get install --no-install-recommends prometheus prometheus-alertmanager"
WINDOW = "5s"
TIMEOUT = 180.0
SEVERITIES = {
    "DeliveryRateLow": "critical",
    "DeliveryFallbackShareHigh": "warning",
    "DeliveryPerformanceMode": "info",
    "DeliveryBreakerOpen": "critical",
}


def program(*names: str) -> str:
    """The path of a program. CI fails without it, a developer's machine skips."""
    for name in names:
        if (found := shutil.which(name)) is not None:
            return found
    missing = f"{names[0]} is not installed: {INSTALL}"
    if os.environ.get("CI"):
        pytest.fail(missing, pytrace=False)
    pytest.skip(missing)


class Site:
    """A gateway's metrics that rise by themselves, Prometheus that scrapes them, Alertmanager."""

    def __init__(self, folder: Path) -> None:
        self.is_ill = threading.Event()
        self.told: list[dict[str, Any]] = []
        self.exporter = servers.free_port()
        self.receiver = servers.free_port()
        self.prometheus = servers.free_port()
        self.alertmanager = servers.free_port()
        self._folder = folder
        self._stopping = threading.Event()
        self._client = httpx.Client(timeout=10.0)

    def run(self) -> Iterator[Site]:
        with ExitStack() as stack:
            stack.callback(self._client.close)
            for port, handler in ((self.exporter, self._metrics), (self.receiver, self._notice)):
                server = ThreadingHTTPServer(("127.0.0.1", port), handler())
                threading.Thread(target=server.serve_forever, daemon=True).start()
                stack.callback(server.server_close)
                stack.callback(server.shutdown)
            driver = threading.Thread(target=self._drive, daemon=True)
            driver.start()
            stack.callback(driver.join, 10.0)
            stack.callback(self._stopping.set)
            self._start(stack, program("prometheus"), self._prometheus_options(), self.prometheus)
            self._start(
                stack,
                program("prometheus-alertmanager", "alertmanager"),
                self._alertmanager_options(),
                self.alertmanager,
            )
            yield self

    def get(self, port: int, path: str, **params: str) -> Any:
        answer = self._client.get(f"http://127.0.0.1:{port}{path}", params=params)
        answer.raise_for_status()
        return answer.json()

    def firing(self) -> dict[str, list[dict[str, Any]]]:
        """The alerts that Alertmanager has, by name."""
        found: dict[str, list[dict[str, Any]]] = {}
        for alert in self.get(self.alertmanager, "/api/v2/alerts"):
            found.setdefault(alert["labels"]["alertname"], []).append(alert)
        return found

    def notices(self, status: str) -> set[str]:
        """Names of the alerts of which the operators' receiver was told."""
        return {one["groupLabels"]["alertname"] for one in self.told if one["status"] == status}

    # What is scraped

    def _drive(self) -> None:
        while not self._stopping.wait(0.1):
            ill = self.is_ill.is_set()
            metrics.accepted.inc(20, "critical")
            metrics.delivered.inc(10 if ill else 20, "live")
            metrics.handed_over.inc(10 if ill else 0, "no_ack")
            metrics.ended.inc(10 if ill else 20, "confirmed")
            metrics.ended.inc(10 if ill else 0, "dead")
            metrics.performance_activations.inc(1 if ill else 0)
            for one in INSTRUMENTS.values():
                self._move(one)

    def _move(self, one: object) -> None:
        told = (metrics.accepted, metrics.delivered, metrics.handed_over, metrics.ended)
        if one in told or one is metrics.performance_activations:
            return
        if isinstance(one, Counter):
            one.inc(1.0, *(f"a_{label}" for label in one.labels))
        elif isinstance(one, Histogram):
            one.observe(one.buckets[2], *(f"a_{label}" for label in one.labels))
        elif isinstance(one, Gauge):
            one.set(3.0, *(f"a_{label}" for label in one.labels))

    def _figures(self) -> Figures:
        state = BreakerState.OPEN if self.is_ill.is_set() else BreakerState.CLOSED
        channel = ChannelStats(attempts=1, ok=1, breaker=state)
        stats = Stats(
            window_s=60,
            delivery_rate=1.0,
            fallback_share=0.0,
            events_per_s=1.0,
            ack_p50_ms=1.0,
            ack_p99_ms=2.0,
            states={"confirmed": 1},
            oldest_overdue_s=0.0,
            channels={"email": channel, "sms": replace(channel)},
        )
        outages = {("ledger", "ledger_away"): 0.0}
        return Figures(node="n", stats=stats, alerts=[], outages=outages)

    def _metrics(self) -> type[BaseHTTPRequestHandler]:
        site = self

        class Metrics(_Quiet):
            def do_GET(self) -> None:
                accept = self.headers.get("Accept", "")
                body, content_type = expose(accept, [lambda: collect(site._figures())])
                self.answer(body, content_type)

        return Metrics

    def _notice(self) -> type[BaseHTTPRequestHandler]:
        site = self

        class Notice(_Quiet):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                site.told.append(json.loads(body))
                self.answer(b"{}", "application/json")

        return Notice

    # The servers

    def _prometheus_options(self) -> list[str]:
        # A window for figures that is over within seconds; the real ones are promtool's to check.
        rules = re.sub(r"\[\d+[mhd]\]", f"[{WINDOW}]", RULES.read_text())
        rules = re.sub(r"for: \d+m", "for: 2s", rules)
        (self._folder / "rules.yml").write_text(rules)
        config = yaml.safe_load((ROOT / "config/prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
        config["rule_files"] = [str(self._folder / "rules.yml")]
        (managers,) = config["alerting"]["alertmanagers"]
        managers["static_configs"] = [{"targets": [f"127.0.0.1:{self.alertmanager}"]}]
        (job,) = [one for one in config["scrape_configs"] if one["job_name"] == "gateways"]
        job["static_configs"] = [{"targets": [f"127.0.0.1:{self.exporter}"]}]
        config["scrape_configs"] = [job]
        (self._folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        return [
            f"--config.file={self._folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self._folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{self.prometheus}",
            "--log.level=warn",
        ]

    def _alertmanager_options(self) -> list[str]:
        config = yaml.safe_load((ROOT / "config/alertmanager.yml").read_text())
        config["route"] |= {"group_wait": "1s", "group_interval": "1s"}
        url = f"http://127.0.0.1:{self.receiver}/"
        (receiver,) = config["receivers"]
        del receiver["email_configs"]
        receiver["webhook_configs"] = [{"url": url, "send_resolved": True}]
        (self._folder / "alertmanager.yml").write_text(yaml.safe_dump(config))
        return [
            f"--config.file={self._folder / 'alertmanager.yml'}",
            f"--storage.path={self._folder / 'alerts'}",
            f"--web.listen-address=127.0.0.1:{self.alertmanager}",
            "--cluster.listen-address=",
            "--log.level=warn",
        ]

    def _start(self, stack: ExitStack, path: str, options: list[str], port: int) -> None:
        log = self._folder / f"{Path(path).name}.log"
        process = subprocess.Popen([path, *options], stdout=log.open("w"), stderr=subprocess.STDOUT)
        stack.callback(process.wait, 30)
        stack.callback(process.terminate)

        def is_ready() -> bool:
            assert process.poll() is None, log.read_text()
            try:
                return self._client.get(f"http://127.0.0.1:{port}/-/ready").is_success
            except httpx.TransportError:
                return False

        wait(is_ready, f"{Path(path).name} is ready")


class _Quiet(BaseHTTPRequestHandler):
    def answer(self, body: bytes, content_type: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing into the test's output."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    yield from Site(tmp_path_factory.mktemp("prometheus")).run()


def test_each_condition_fires_groups_is_silenced_and_resolves(site: Site) -> None:
    wait(lambda: _value(site, "delivery:delivery_rate:ratio5m") == 1.0, "the delivery rate is 1")
    assert not set(SEVERITIES) & set(site.firing())

    site.is_ill.set()
    wait(lambda: set(SEVERITIES) <= set(site.firing()), "all conditions fire")
    wait(lambda: "DeliveryErrorBudgetBurn" in site.firing(), "the budget burns")
    fired = site.firing()
    for name, severity in SEVERITIES.items():
        assert {one["labels"]["severity"] for one in fired[name]} == {severity}
        assert all(one["annotations"]["summary"] for one in fired[name])
    wait(lambda: set(SEVERITIES) <= site.notices("firing"), "operators are told of each")
    wait(lambda: _channels(site) == {"email", "sms"}, "two breakers come as one notice")

    now = datetime.now(UTC)
    silence = {
        "matchers": [
            {"name": "severity", "value": "info", "isRegex": False, "isEqual": True},
        ],
        "startsAt": now.isoformat(),
        "endsAt": (now + timedelta(hours=1)).isoformat(),
        "createdBy": "an operator",
        "comment": "a run under performance mode is planned",
    }
    url = f"http://127.0.0.1:{site.alertmanager}/api/v2/silences"
    httpx.post(url, json=silence, timeout=10.0).raise_for_status()
    wait(lambda: _states(site, "DeliveryPerformanceMode") == {"suppressed"}, "it is silenced")
    assert _states(site, "DeliveryBreakerOpen") == {"active"}, "and no other one is"

    site.is_ill.clear()
    loud = set(SEVERITIES) - {"DeliveryPerformanceMode"}
    wait(lambda: loud <= site.notices("resolved"), "operators are told that it is over")
    wait(lambda: not set(SEVERITIES) & set(site.firing()), "every condition is over")
    assert "DeliveryPerformanceMode" not in site.notices("resolved"), "silence is silence"


def test_every_panel_has_data(site: Site) -> None:
    queries = {
        re.sub(r"\[\d+[mhd]\]", f"[{WINDOW}]", one["expr"].replace("$__rate_interval", WINDOW))
        for panel in DASHBOARD["panels"]
        for one in panel["targets"]
    }
    assert len(queries) > 30
    missing = set(queries)

    def have_data() -> bool:
        missing.difference_update([one for one in missing if _has_data(site, one)])
        return not missing

    try:
        wait(have_data)
    except TimeoutError:
        pytest.fail(f"without data: {sorted(missing)}")


def wait(condition: Callable[[], object], what: str = "data") -> None:
    """Wait until a condition holds, at the rate at which Prometheus looks."""
    ends = time.monotonic() + TIMEOUT
    while not condition():
        if time.monotonic() > ends:
            raise TimeoutError(f"not within {TIMEOUT:g} s: {what}")
        threading.Event().wait(0.25)


def _query(site: Site, query: str) -> list[float]:
    answer = site.get(site.prometheus, "/api/v1/query", query=query)
    return [float(one["value"][1]) for one in answer["data"]["result"]]


def _has_data(site: Site, query: str) -> bool:
    return any(value == value for value in _query(site, query))  # not NaN


def _value(site: Site, query: str) -> float | None:
    found = _query(site, query)
    return found[0] if found else None


def _channels(site: Site) -> set[str]:
    """Channels in the largest notice about breakers."""
    sets = [
        {alert["labels"]["channel"] for alert in one["alerts"]}
        for one in site.told
        if one["groupLabels"]["alertname"] == "DeliveryBreakerOpen"
    ]
    return max(sets, key=len, default=set())


def _states(site: Site, name: str) -> set[str]:
    return {one["status"]["state"] for one in site.firing().get(name, [])}
