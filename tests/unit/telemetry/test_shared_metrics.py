"""Processes that expose themselves together, and the port of those that serve nothing else."""

from __future__ import annotations

import socket
import subprocess
import sys
from http.client import HTTPConnection

import pytest

from delivery.errors import ConfigError
from delivery.process.metrics_server import MetricsServer
from tests.metrics import samples

FORKS = """
import os, sys
from delivery.telemetry import instruments, metrics

instruments.share()
def child(index, hits):
    pid = os.fork()
    if pid == 0:
        instruments.identify(index)
        metrics.spooled.inc(hits)
        metrics.loop_lag.observe(0.002)
        metrics.connections.set(index + 1, f"node-{index}")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

child(0, 2)
child(1, 3)
child(0, 5)  # it takes the place of the first one
sys.stdout.write(instruments.expose()[0].decode())
"""


def test_any_process_shows_the_counts_of_all_also_of_those_that_ended() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKS], capture_output=True, text=True, timeout=60, check=True
    )
    found = samples(done.stdout)
    assert found["delivery_events_spooled_total", frozenset()] == 10
    assert found["delivery_event_loop_lag_seconds_count", frozenset()] == 3
    for index in range(2):
        node = frozenset({("node", f"node-{index}")})
        assert found["delivery_connections", node] == index + 1


@pytest.fixture
def server() -> MetricsServer:
    return MetricsServer("127.0.0.1", 0)


def test_the_port_answers_with_metrics_alone(server: MetricsServer) -> None:
    server.start()
    try:
        silent = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.request("GET", "/metrics", headers={"Accept": "application/openmetrics-text"})
        answer = connection.getresponse()
        assert answer.status == 200
        assert answer.read().endswith(b"# EOF\n"), "and one who says nothing holds up no other one"
        for method, path, status in (
            ("HEAD", "/metrics", 200),
            ("GET", "/", 404),
            ("GET", "/metrics/x", 404),
            ("POST", "/metrics", 501),
        ):
            connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
            connection.request(method, path)
            answer = connection.getresponse()
            assert answer.status == status
            assert method != "HEAD" or not answer.read()
        silent.close()
    finally:
        server.stop()


def test_a_port_that_is_taken_is_told_with_its_setting(server: MetricsServer) -> None:
    with pytest.raises(ConfigError, match=r"set DELIVERY_METRICS_PORT to a port"):
        MetricsServer("127.0.0.1", server.port)
    server.stop()
    MetricsServer("127.0.0.1", server.port).stop()


def test_an_address_that_is_not_here_is_told() -> None:
    with pytest.raises(ConfigError, match="cannot listen on 203"):
        MetricsServer("203.0.113.1", 9464)
