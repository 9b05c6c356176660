"""SIGHUP: policies, alert limits and secrets are read anew while everything goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import httpx
import jwt
import pytest

from delivery.bootstrap.workers import ProcessParts, make_worker_app
from delivery.config import load_settings
from delivery.process.reloading import Loaded, Reloader
from tests.policies import quick_policies
from tests.processes import AUDIT_SECRET, SECRET, Process, run_command, running
from tests.waiting import until_blocking
from tests.wire import listening

pytestmark = pytest.mark.timeout(180)

NEW = "another-only-for-tests-" + "n" * 32
ORDERS = "\n[class.orders]\ntypes = ['order_placed']\n"


def token(secret: str, user: str, **claims: str) -> str:
    return jwt.encode({"sub": user, "exp": time.time() + 600, **claims}, secret, "HS256")


class Service:
    """A running `delivery up`, and its files."""

    def __init__(self, process: Process, folder: Path) -> None:
        self.process, self.folder = process, folder
        self.url = str(process.json_line()["url"])

    def reload(self) -> None:
        self.process.process.send_signal(signal.SIGHUP)

    def status(self, secret: str) -> int:
        headers = {"Authorization": f"Bearer {token(secret, 'service', scope='emit read')}"}
        event = {"type": "t", "user_id": "ada", "run_id": "r", "class": "orders", "data": {}}
        return httpx.post(
            f"{self.url}/v1/events", json=event, headers=headers, timeout=30.0
        ).status_code

    def kinds(self) -> set[str]:
        ready = httpx.get(f"{self.url}/readyz", timeout=30.0)
        assert ready.status_code == 200
        assert str(self.folder) not in ready.text
        return {one["kind"] for one in ready.json()["outages"]}


async def test_secrets_and_policies_change_on_a_signal_and_a_bad_file_changes_nothing(
    tmp_path: Path,
) -> None:
    secret, policies = tmp_path / "secret", tmp_path / "policies.toml"
    previous = tmp_path / "previous"
    secret.write_text(SECRET)
    previous.write_text(SECRET)
    policies.write_text(quick_policies())
    settings = {
        "PORT": "0",
        "DATA_DIR": str(tmp_path / "data"),
        "JWT_SECRET_FILE": str(secret),
        "JWT_SECRET_PREVIOUS_FILE": str(previous),
        "POLICIES": str(policies),
    }
    with running("up", "--json", cwd=tmp_path, settings=settings) as process:
        service = Service(process, tmp_path)
        assert service.status(SECRET) == 422, "no such class yet"
        assert service.status(NEW) == 401
        async with listening(service.url, token(SECRET, "ada")) as page:
            secret.write_text(NEW)
            policies.write_text(quick_policies() + ORDERS)
            service.reload()
            until_blocking(lambda: service.status(NEW) == 202)
            assert service.status(SECRET) == 202, "the previous secret counts"

            policies.write_text(quick_policies() + "\n[class.orders]\nttl = 'long'\n")
            secret.write_text("short")
            service.reload()
            until_blocking(lambda: service.kinds() == {"reload_refused"})
            assert service.status(NEW) == 202, "that of before stays"

            secret.write_text(NEW)
            policies.write_text(quick_policies())
            previous.write_text(NEW)
            service.reload()
            until_blocking(lambda: service.kinds() == set())
            until_blocking(lambda: service.status(NEW) == 422)
            assert service.status(SECRET) == 401
            await page.send({"type": "ping"})
            await page.until(lambda: page.frames[-1]["type"] == "pong")
            assert not page.is_over, "every open connection stays"
        log = process.tail(100_000)
        assert "settings reloaded; changed: jwt_secret, policies" in log
        assert "settings not reloaded" in log
        assert NEW not in log
        assert SECRET not in log
        assert process.stop() == 0


def test_a_worker_goes_on_after_the_signal(tmp_path: Path, redis_url: str) -> None:
    policies = tmp_path / "policies.toml"
    policies.write_text(quick_policies())
    settings = {
        "DATABASE_URL": f"sqlite:///{tmp_path / 'ledger.db'}",
        "DATA_DIR": str(tmp_path / "data"),
        "REDIS_URL": redis_url,
        "JWT_SECRET": SECRET,
        "POLICIES": str(policies),
    }
    migrated = run_command("migrate", cwd=tmp_path, settings=settings, timeout=60)
    assert migrated.returncode == 0, migrated.stderr
    command = ("worker", "--json", "--pool", "prefork", "--concurrency", "1")
    with running(*command, cwd=tmp_path, settings=settings) as process:
        process.json_line()
        policies.write_text(quick_policies() + ORDERS)
        os.killpg(process.process.pid, signal.SIGHUP)  # its children, too, as `pkill` would
        until_blocking(lambda: "settings reloaded; changed: policies" in process.tail())
        assert process.stop() == 0, process.tail()
        assert "Restarting" not in process.tail()


def test_each_process_of_a_pool_reads_the_settings_before_its_next_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis_url: str
) -> None:
    policies = tmp_path / "policies.toml"
    policies.write_text(quick_policies())
    given = {
        "DATABASE_URL": f"sqlite:///{tmp_path / 'ledger.db'}",
        "DATA_DIR": str(tmp_path / "data"),
        "REDIS_URL": redis_url,
        "JWT_SECRET": SECRET,
        "AUDIT_SECRET": AUDIT_SECRET,
        "POLICIES": str(policies),
    }
    for name, value in given.items():
        monkeypatch.setenv(f"DELIVERY_{name}", value)
    settings = load_settings()
    parts = ProcessParts(settings, make_worker_app(settings), pool_size=2)
    before = parts.get()
    assert parts.get() is before
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # has parts of its own, and sees the parent's word
        with contextlib.suppress(AssertionError):
            first = parts.get()
            os.write(writing, b".")
            until_blocking(lambda: parts.get() is not first)
            os._exit(7)
        os._exit(1)
    os.read(reading, 1)
    policies.write_text("[class.orders]\nttl = 'long'\n")
    parts.ask_reload()
    assert parts.get() is before, "a bad file changes nothing"
    policies.write_text(quick_policies() + ORDERS)
    parts.ask_reload()
    assert parts.get() is not before
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7
    parts.close()


def test_what_needs_a_restart_is_named_and_stays(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setenv("DELIVERY_JWT_SECRET", SECRET)
    settings = load_settings(port=1234)
    reloader = Reloader(settings)
    limits = tmp_path / "alerts.toml"
    limits.write_text("[delivery_rate]\nunder = 0.5\n")
    monkeypatch.setenv("DELIVERY_NODE", "other")
    monkeypatch.setenv("DELIVERY_ALERTS", str(limits))
    applied: list[Loaded] = []
    assert reloader.reload(applied.append)
    [loaded] = applied
    assert (loaded.settings.port, loaded.settings.node) == (1234, None)
    assert loaded.thresholds.delivery_rate.value == 0.5
    assert loaded.changed == ("alerts",)
    assert "need a restart: node" in caplog.text
