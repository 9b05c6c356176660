"""kill -9 of the application, the relay and the gateway around a row of the outbox.

Real processes and a real ledger, which is asked over HTTP in the end: exactly once, in order.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

import delivery
from delivery.outbox.posting import Post
from delivery.outbox.relay import Relay
from delivery.outbox.source import Row, Source
from tests.processes import running
from tests.servers import free_port
from tests.waiting import until_blocking

POINTS = ("before it reads", "after it read", "after it sent", "after it marked")


def killed(work: Callable[..., None], *arguments: str) -> None:
    """Run ``work`` in a process of its own, which kills itself."""
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def application(point: str, url: str, n: str) -> None:
    with sa.create_engine(url).begin() as connection:
        add(connection, int(n))
        if point == "before it commits":
            die()
    die()


class DyingSource(Source):
    def __init__(self, url: str, point: str) -> None:
        super().__init__(url)
        self._point = point

    def waiting(self, limit: int) -> list[Row]:
        self._pass("before it reads")
        rows = super().waiting(limit)
        self._pass("after it read")
        return rows

    def settle(self, sent: Sequence[int], refused: Sequence[tuple[int, str]]) -> None:
        self._pass("after it sent")
        super().settle(sent, refused)
        self._pass("after it marked")

    def _pass(self, point: str) -> None:
        if point == self._point:
            die()


def relay(point: str, source: str, url: str, token: str) -> None:
    post = Post(url, lambda: token)
    Relay(DyingSource(source, point), post, stop=threading.Event()).run()


def add(connection: sa.Connection, n: int) -> None:
    delivery.outbox.add(connection, "note", {"n": n}, user_id="outbox-user", run_id="outbox-run")


@pytest.mark.timeout(300)
def test_each_committed_row_is_in_the_ledger_exactly_once(postgres_url: str, tmp_path: Path):
    source = Source(postgres_url)
    source.create()
    source.close()
    gateway = {"DATA_DIR": str(tmp_path / "data")}
    command = ("up", "--json", "--port", str(free_port()))
    killed(application, "before it commits", postgres_url, "100")
    killed(application, "after it committed", postgres_url, "0")
    with running(*command, cwd=tmp_path, settings=gateway) as service:
        said = service.json_line(60)
        for n, point in enumerate(POINTS, start=1):
            killed(application, "after it committed", postgres_url, str(n))
            killed(relay, point, postgres_url, said["url"], said["service_token"])
        service.kill()
    settings = {"OUTBOX_SOURCE": postgres_url, "URL": said["url"], "TOKEN": said["service_token"]}
    with running(
        "outbox", "--json", "--metrics-port", "0", cwd=tmp_path, settings=settings
    ) as process:
        metrics = process.json_line(60)["metrics"]
        killed(application, "after it committed", postgres_url, "5")
        until_blocking(lambda: figure(metrics, "lag_seconds") > 0)
        with running(*command, cwd=tmp_path, settings=gateway) as service:
            service.json_line(60)
            until_blocking(lambda: figure(metrics, "waiting_rows") == 0)
            found = events(said)
        assert figure(metrics, "sent_total") >= 1
        assert process.stop() == 0
    assert [event["data"]["n"] for event in found] == list(range(6))
    assert [event["seq"] for event in found] == [1, 2, 3, 4, 5, 6]


def events(said: dict[str, Any]) -> list[dict[str, Any]]:
    answer = httpx.get(
        said["url"] + "/v1/events",
        params={"user_id": "outbox-user"},
        headers={"Authorization": f"Bearer {said['service_token']}"},
        timeout=30,
    )
    return sorted(answer.json()["events"], key=lambda event: int(event["seq"]))


def figure(metrics: str, name: str) -> float:
    with urllib.request.urlopen(metrics, timeout=30) as response:
        lines = response.read().decode().splitlines()
    for line in lines:
        if line.startswith(f"delivery_outbox_{name} "):
            return float(line.split()[1])
    return -1.0
