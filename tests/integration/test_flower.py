"""``delivery flower``: when it starts, whom it answers, and what it lets them do."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from delivery.ledger import migrate
from tests.processes import SECRET, Process, run_command, running
from tests.server_process import wait_until

PASSWORD = "ops:a-word-for-tests"
AUTH = ("ops", "a-word-for-tests")


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> dict[str, str]:
    """A broker, and the password in a file."""
    (tmp_path / "password").write_text(PASSWORD + "\n")
    return {"BROKER_URL": redis_url, "FLOWER_BASIC_AUTH_FILE": str(tmp_path / "password")}


@pytest.fixture
def flower(settings: dict[str, str], tmp_path: Path) -> Iterator[Process]:
    """A running Flower."""
    with running("flower", "--json", "--port", "0", cwd=tmp_path, settings=settings) as process:
        yield process


def test_it_answers_with_the_password_only_and_ends_when_told(flower: Process) -> None:
    url = flower.json_line()["url"]
    assert httpx.get(f"{url}/healthcheck").status_code == 200
    for page in ("/api/tasks", "/workers"):
        assert httpx.get(url + page).status_code == 401
        assert httpx.get(url + page, auth=("ops", "wrong")).status_code == 401
        assert httpx.get(url + page, auth=AUTH).status_code == 200
    flower.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "reads settings at its start only" in flower.tail(), "it has heard", 60.0)
    assert httpx.get(f"{url}/healthcheck").status_code == 200, "and goes on"
    assert flower.stop() == 0


def test_its_health_is_that_of_what_it_watches(
    flower: Process, settings: dict[str, str], tmp_path: Path
) -> None:
    url = flower.json_line()["url"] + "/healthz"

    def said() -> tuple[int, dict[str, Any]]:
        answer = httpx.get(url)
        return answer.status_code, answer.json()

    wait_until(lambda: said()[1]["status"] == "queues without a worker", "it has looked", 30.0)
    assert said()[0] == 503
    assert "delivery.email" in said()[1]["queues"]
    ledger = f"sqlite:///{tmp_path}/ledger.db"
    migrate.upgrade(ledger)
    settings |= {"DATABASE_URL": ledger, "JWT_SECRET": SECRET}
    with running("worker", cwd=tmp_path, settings=settings) as worker:
        wait_until(lambda: said() == (200, {"status": "ok"}), f"all served; {worker.log}", 60.0)
    wait_until(lambda: said()[0] == 503, "it sees that the worker is gone", 30.0)


def test_its_users_only_watch_unless_told_otherwise(flower: Process) -> None:
    url = flower.json_line()["url"]
    answer = httpx.post(f"{url}/api/worker/shutdown/any", auth=AUTH)
    assert answer.status_code == 403
    assert "read only" in answer.text.lower()


def test_neither_the_brokers_url_nor_the_password_stands_in_its_arguments(flower: Process) -> None:
    flower.json_line()
    arguments = " ".join(psutil.Process(flower.process.pid).cmdline())
    assert "redis://" not in arguments
    assert "a-word-for-tests" not in arguments


@pytest.mark.parametrize(
    ("args", "settings", "missing"),
    [
        (("--host", "0.0.0.0"), {"BROKER_URL": "redis://127.0.0.1:1/0"}, "FLOWER_BASIC_AUTH"),
        (("--host", "flower.example"), {"BROKER_URL": "redis://127.0.0.1:1/0"}, "BASIC_AUTH"),
        ((), {"FLOWER_BASIC_AUTH": PASSWORD}, "DELIVERY_BROKER_URL"),
        ((), {"BROKER_URL": "redis://127.0.0.1:1/0", "FLOWER_BASIC_AUTH": "nocolon"}, "user:pass"),
        ((), {"BROKER_URL": "redis://127.0.0.1:1/0", "FLOWER_BASIC_AUTH": "ops:é"}, "ASCII"),
    ],
)
def test_it_does_not_start_open_or_blind(
    args: tuple[str, ...], settings: dict[str, str], missing: str, tmp_path: Path
) -> None:
    done = run_command("flower", "--port", "0", *args, cwd=tmp_path, settings=settings)
    assert done.returncode == 2
    assert missing in done.stderr
    assert "Traceback" not in done.stderr


def test_on_loopback_it_starts_without_a_password_and_keeps_its_api_shut(
    redis_url: str, tmp_path: Path
) -> None:
    settings = {"BROKER_URL": redis_url}
    with running("flower", "--json", "--port", "0", cwd=tmp_path, settings=settings) as process:
        url = process.json_line()["url"]
        assert httpx.get(f"{url}/healthcheck").status_code == 200
        assert httpx.get(f"{url}/api/tasks").status_code == 401
