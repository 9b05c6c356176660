"""Every line that a process writes is JSON where the log is: ``DELIVERY_LOG_FORMAT=json``."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from delivery.ledger import migrate
from tests.processes import SECRET, Process, environment
from tests.server_process import wait_until

pytestmark = pytest.mark.timeout(120)
CELERY = ("celery", "-A", "delivery.worker", "worker", "-E", "-c", "1")
START_TIMEOUT = 60.0


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> dict[str, str]:
    """A cluster's settings, with its log as the image sets it; no tables yet."""
    return {
        "DATABASE_URL": f"sqlite:///{tmp_path}/ledger.db",
        "REDIS_URL": redis_url,
        "BROKER_URL": redis_url,
        "JWT_SECRET": SECRET,
        "DATA_DIR": str(tmp_path / "data"),
        "LOG_FORMAT": "json",
    }


def messages(text: str) -> list[str]:
    """What the lines say; fails on the first that is no JSON object."""
    found = []
    for line in text.splitlines():
        try:
            document = json.loads(line)
        except ValueError:
            pytest.fail(f"no JSON: {line!r}")
        found.append(str(document.get("message", document)))
    return found


def ended(*args: str, folder: Path, settings: dict[str, str]) -> list[str]:
    """What a command that ends wrote, on both streams."""
    done = subprocess.run(
        [sys.executable, "-m", *args],
        cwd=folder,
        env=environment(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    return messages(done.stdout)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("command", "sign"),
    [
        (("delivery", "gateway", "--port", "0"), "serves"),
        (("delivery", "worker"), "ready."),
        (("delivery", "worker", "--pool", "prefork", "--concurrency", "1"), "ready."),
        (("delivery", "beat"), "is up"),
        (("delivery", "flower", "--port", "0"), "Inspect method"),
        (CELERY, "ready."),
    ],
)
def test_from_start_to_end(
    command: tuple[str, ...],
    sign: str,
    number: signal.Signals,
    settings: dict[str, str],
    tmp_path: Path,
) -> None:
    migrate.upgrade(settings["DATABASE_URL"])
    process = Process(
        ["sh", "-c", 'exec "$@" >> both.log 2>&1', "-", sys.executable, "-m", *command],
        tmp_path,
        settings,
        "unused",
    )
    log = tmp_path / "both.log"
    try:
        wait_until(
            lambda: log.exists() and sign in log.read_text(), f"it is up; {log}", START_TIMEOUT
        )
        process.process.send_signal(number)
        process.process.wait(30.0)
    finally:
        process.kill()
    assert messages(log.read_text())


@pytest.mark.parametrize("command", ["gateway", "worker", "beat", "migrate", "flower"])
def test_what_cannot_start_says_so(command: str, settings: dict[str, str], tmp_path: Path) -> None:
    settings["JWT_SECRET"] = "short"
    (message,) = ended("delivery", command, folder=tmp_path, settings=settings)
    assert "at least 32 bytes" in message


def test_celerys_own_command_says_what_is_wrong(settings: dict[str, str], tmp_path: Path) -> None:
    settings["CLAIM_LEASE"] = "1"
    (message,) = ended(*CELERY, folder=tmp_path, settings=settings)
    assert "claim_lease" in message


def test_migrating_too(settings: dict[str, str], tmp_path: Path) -> None:
    assert "revision" in ended("delivery", "migrate", folder=tmp_path, settings=settings)[-1]
    settings["DATABASE_URL"] = "postgresql://reader@127.0.0.1:1/none"
    (message,) = ended("delivery", "migrate", folder=tmp_path, settings=settings)
    assert "cannot be reached" in message


def test_an_error_that_nothing_caught(settings: dict[str, str], tmp_path: Path) -> None:
    code = (
        "import threading; from delivery.telemetry import setup_logging; setup_logging('json');"
        "t = threading.Thread(target=lambda: 1 / 0, name='one'); t.start(); t.join(); [].pop()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert messages(done.stderr) == ["thread one ended", "the process ends"]
    assert "ZeroDivisionError" in json.loads(done.stderr.splitlines()[0])["error"]
